"""Charts of the pages: their sizes and paths, which ``templates/charts.html`` draws as SVG.

SVG inside the page takes its ink from the page's style sheet, so one chart is right on white, on black and on paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40  # margins of a plot, where its numbers stand
MAP_SIDE = 560
POINT = 4.5  # diameter of a point of the map
LAYERS = 8  # points are drawn in as many mixed layers, so that no type covers all others
ROW = 44  # px, height of a row of a strip chart


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place, px, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """What is drawn of one type: the ``d`` of its SVG path, its CSS colour and its name."""

    path: str
    colour: str
    name: str = ""


@dataclass(frozen=True)
class Plot:
    """A chart with axes; px. ``label`` is of the horizontal axis, ``title`` for screen readers."""

    label: str
    title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    base: int = HEIGHT - BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Strip:
    """A row of a strip chart: dots of one type (an empty path without values), its middle (px), the median's bar."""

    dots: Line
    middle: float
    median: str


@dataclass(frozen=True)
class Scatter:
    """A chart of points without axes, in layers; ``title`` is for screen readers."""

    title: str
    width: int
    height: int
    layers: list[Line]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` round values within [low, high], in steps of 1, 2 or 5 times a power of ten."""
    exact = (high - low) / about
    power = 10.0 ** np.floor(np.log10(exact))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(np.log(step / exact)))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [round(i * step, 10) for i in range(first, last + 1)]


def _steps(edges: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    """The outline of a histogram as the ``d`` of an open path, in the units given."""
    start = f"M{edges[0]:.1f} {values[0]:.1f}"
    return start + "".join(f"V{value:.1f}H{edge:.1f}" for edge, value in zip(edges[1:], values, strict=True))


def histogram_plot(
    edges: NDArray[np.float64],
    shares: NDArray[np.float64],
    colours: Sequence[str],
    names: Sequence[str],
    label: str,
    title: str,
) -> Plot:
    """Histograms of K types over each other: shares (K, B), percent, in bins between the ``edges`` (B + 1,).

    A row of zeros is not drawn. ``label`` and ``title``: see ``Plot``.
    """
    top = float(max(shares.max(initial=0), 1e-9)) * 1.06
    low, high = float(edges[0]), float(edges[-1])

    def across(value: Any) -> Any:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def down(share: Any) -> Any:
        return TOP + (1 - share / top) * (HEIGHT - TOP - BOTTOM)

    x_ticks = [Tick(round(across(value), 1), f"{value:g}") for value in ticks(low, high, 8)]
    y_ticks = [Tick(round(down(value), 1), f"{value:g} %") for value in ticks(0, top, 4)]
    lines = [
        Line(_steps(across(edges), down(row)), colour, name)
        for row, colour, name in zip(shares, colours, names, strict=True)
        if row.any()
    ]
    return Plot(label, title, x_ticks, y_ticks, lines)


def _dots(points: NDArray[np.float64]) -> str:
    """Points as the ``d`` of a path of zero-length lines, which round caps turn into discs."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)


def scatter_map(points: NDArray[np.float64], codes: NDArray[np.intp], colours: Sequence[str], title: str) -> Scatter:
    """A map of (n, 2) points, coloured by type; the aspect of the data is kept."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 2 * POINT
    scale = (MAP_SIDE - 2 * margin) / max(float((high - low).max()), 1e-9)
    width, height = (high - low) * scale + 2 * margin
    at = (points - low) * scale + margin
    at[:, 1] = height - at[:, 1]  # SVG's y grows downwards
    layer = np.random.default_rng(0).integers(0, LAYERS, len(points))
    layers = [
        Line(_dots(at[(layer == i) & (codes == code)]), colours[code])
        for i in range(LAYERS)
        for code in np.unique(codes[layer == i])
    ]
    return Scatter(title, round(width), round(height), layers)


def strip_plot(
    values: Sequence[NDArray[np.float64]], colours: Sequence[str], names: Sequence[str], label: str, title: str
) -> tuple[Plot, list[Strip]]:
    """One row of dots a type, with a bar at their median; ``values``: (n,) finite and >= 0 for each of K types."""
    left, right, height = LEFT + 74, WIDTH - 2 * RIGHT, TOP + ROW * len(names) + BOTTOM
    top = max((float(some.max(initial=0)) for some in values), default=0) * 1.04 or 1.0
    scale = (right - left) / top
    x_ticks = [Tick(round(left + value * scale, 1), f"{value:,g}") for value in ticks(0, top, 5)]
    plot = Plot(label, title, x_ticks, [], [], left=left, right=right, base=height - BOTTOM, height=height)
    rng = np.random.default_rng(0)
    rows = []
    for i, (some, colour, name) in enumerate(zip(values, colours, names, strict=True)):
        middle, path, median = TOP + ROW * (i + 0.5), "", ""
        if len(some):
            # Dots that would lie on each other are spread over the height of the row.
            spread = rng.uniform(-0.28, 0.28, len(some)) * ROW * min(1.0, len(some) / 12)
            path = _dots(np.stack([left + some * scale, middle + spread], axis=1))
            at = left + float(np.median(some)) * scale
            median = f"M{at:.1f} {middle - 0.4 * ROW:.1f}v{0.8 * ROW:.1f}"
        rows.append(Strip(Line(path, colour, name), middle, median))
    return plot, rows
