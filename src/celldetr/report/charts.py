"""Charts of the summary as SVG text, written by hand.

SVG inside the page takes its ink from the page's style sheet, so one chart is right on white, on black and on paper; it
stays sharp in print, and a curve is a few kilobytes. Colours of types are laid over a wider, faint line of the page's
own ink, which keeps yellow visible on white and black on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40  # margins of a plot, where its numbers stand
MAP_SIDE = 560
POINT = 4.5  # diameter of a point of the map
LAYERS = 8  # points are drawn in as many mixed layers, so that no type covers all others


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` round values within [low, high], in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** np.floor(np.log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda s: abs(np.log(s / raw)))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [round(i * step, 10) for i in range(first, last + 1)]


def _steps(edges: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    """The outline of a histogram as the ``d`` of an open path, in the units given."""
    start = f"M{edges[0]:.1f} {values[0]:.1f}"
    return start + "".join(f"V{value:.1f}H{edge:.1f}" for edge, value in zip(edges[1:], values, strict=True))


def histogram_chart(
    edges: NDArray[np.float64],
    shares: NDArray[np.float64],
    colours: Sequence[str],
    names: Sequence[str],
    label: str,
    title: str,
) -> str:
    """Histograms of several types over each other, each scaled to its own total.

    Args:
        edges: (B + 1,) of the bins, rising.
        shares: (K, B), percent of the cells of a type; a row of zeros is not drawn.
        colours: of the K types, CSS.
        names: of the K types, shown when pointing at a line.
        label: of the horizontal axis.
        title: what the chart shows, for readers who hear it.
    """
    top = float(max(shares.max(initial=0), 1e-9)) * 1.06

    x = LEFT + (edges - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - LEFT - RIGHT)
    y = TOP + (1 - shares / top) * (HEIGHT - TOP - BOTTOM)
    base = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(0, top, 4):
        at = TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{value:g} %</text>')
    for value in ticks(float(edges[0]), float(edges[-1]), 8):
        at = float(np.interp(value, edges, x))
        parts.append(f'<path class="axis" d="M{at:.1f} {base}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{base + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
    for row, share, colour, name in zip(y, shares, colours, names, strict=True):
        if not share.any():
            continue
        outline = _steps(x, row)
        closed = f"{outline}V{base}H{LEFT}Z"
        parts.append(f'<g><title>{escape(name)}</title><path d="{closed}" fill="{colour}" fill-opacity=".12"/>')
        parts.append(f'<path class="under" d="{outline}"/><path class="line" d="{outline}" stroke="{colour}"/></g>')
    return "".join(parts) + "</svg>"


def _dots(points: NDArray[np.float64]) -> str:
    """Points as the ``d`` of a path of zero-length lines, which round caps turn into discs."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)


def map_chart(points: NDArray[np.float64], codes: NDArray[np.intp], colours: Sequence[str], title: str) -> str:
    """A scatter of (n, 2) points without axes, coloured by type; the aspect of the data is kept."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 2 * POINT
    scale = (MAP_SIDE - 2 * margin) / max(float((high - low).max()), 1e-9)
    size = (high - low) * scale + 2 * margin
    at = (points - low) * scale + margin
    at[:, 1] = size[1] - at[:, 1]  # SVG's y grows downwards
    parts = [f'<svg viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" role="img" aria-label="{escape(title)}">']
    layer = np.random.default_rng(0).integers(0, LAYERS, len(points))
    for i in range(LAYERS):
        for code in np.unique(codes[layer == i]):
            d = _dots(at[(layer == i) & (codes == code)])
            parts.append(f'<path class="rim" stroke-width="{POINT + 1}" d="{d}"/>')
            parts.append(f'<path class="dot" stroke-width="{POINT}" stroke="{colours[code]}" d="{d}"/>')
    return "".join(parts) + "</svg>"


def strip_chart(
    values: Sequence[NDArray[np.float64]], colours: Sequence[str], names: Sequence[str], label: str, title: str
) -> str:
    """One row of dots a type, a bar at their median.

    Args:
        values: for each of K types (n,) finite values, at least 0; of n that differ.
        colours: of the K types, CSS.
        names: of the K types, at the left of their rows.
        label: of the horizontal axis.
        title: what the chart shows, for readers who hear it.
    """
    left, row = LEFT + 74, 44
    height = TOP + row * len(names) + BOTTOM
    top = max((float(some.max(initial=0)) for some in values), default=0) * 1.04 or 1.0
    base, scale = height - BOTTOM, (WIDTH - left - RIGHT) / top
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for value in ticks(0, top, 5):
        at = left + value * scale
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{base}"/>')
        parts.append(f'<text x="{at:.1f}" y="{base + 17}" text-anchor="middle">{value:,g}</text>')
    parts.append(f'<text x="{(left + WIDTH - RIGHT) / 2}" y="{height - 4}" text-anchor="middle">{escape(label)}</text>')
    rng = np.random.default_rng(0)
    for i, (some, colour, name) in enumerate(zip(values, colours, names, strict=True)):
        middle = TOP + row * (i + 0.5)
        parts.append(f'<text x="{left - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        if not len(some):
            continue
        # Dots that would lie on each other are spread over the height of the row.
        spread = rng.uniform(-0.28, 0.28, len(some)) * row * min(1.0, len(some) / 12)
        d = _dots(np.stack([left + some * scale, middle + spread], axis=1))
        parts.append(f'<path class="rim" stroke-width="{POINT + 1.5}" d="{d}"/>')
        parts.append(f'<path class="dot" stroke-width="{POINT + 0.5}" stroke="{colour}" d="{d}"/>')
        at = left + float(np.median(some)) * scale
        parts.append(f'<path class="median" d="M{at:.1f} {middle - 0.4 * row:.1f}v{0.8 * row:.1f}"/>')
    return "".join(parts) + "</svg>"
