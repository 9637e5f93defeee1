"""Two clouds of points, some of each without a counterpart: the affine between them, found without a good start.

Nuclei lie about as far from each other as a start may be off, so nearest neighbours alone lock onto the wrong ones.
Hence three steps. Around some *anchors*, small discs of some hundred cells, the displacement is found by correlating
occupancy maps over all shifts (FFT) and some turns. There, mutual nearest neighbours are close enough to be right, and
their robust fit (iterated closest points with Tukey's biweight) is exact enough to be extended a little. So the disc
grows until it covers the section: at no time is a neighbour sought where the affine is not yet known to a micrometre.

All coordinates are micrometres of the image. An affine is (3, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.affine import Floats, apply, inverse_of

Index = NDArray[np.int64]
Map = NDArray[np.float32]  # half the time of float64

ANCHOR_CELLS = 250  # in a disc: the peak stands twenty standard deviations above chance, turns displace the rim little
PIXEL = 2.0  # um, of the occupancy maps
BLUR, BACKGROUND = 2.0, 12.0  # um, standard deviations: of the peak, and of what is expected without one
LARGEST_MAP = 512  # px a side: where cells are sparse, pixels, blur and steps get coarser
RIM_STEP = 2.4  # um, by which neighbouring turns displace the rim of the disc
GROWTH = 1.6  # of the disc's radius
FIRST_RADII, NEXT_RADII = (6.0, 5.0, 4.0), (5.0, 4.0)  # um, within which neighbours are sought
TURNS_EACH = 3  # fits a radius
SETTLING = 20  # fits at the end, or until nothing moves by CONVERGED um
CONVERGED, SMALLEST_RADIUS, LARGEST_RADIUS = 0.01, 2.0, 5.0
FEWEST = {"shift": 3, "similarity": 12, "affine": 100}  # pairs that a fit needs
TUKEY = 4.685  # 95 % as efficient as least squares where errors are normal
MEDIAN_OF_NORM = 1.1774  # of a two-dimensional normal error, in its standard deviations


@dataclass(frozen=True)
class Peak:
    """Where the occupancy maps around an anchor agree."""

    affine: Floats  # (3, 3) that moves the cells there onto nuclei
    centre: Floats  # of the disc
    radius: float
    height: float  # of the peak, in standard deviations of what chance gives


class Clouds:
    """Cells and nuclei with their trees, built once: neighbours are sought from either side without another tree."""

    def __init__(self, cells: Floats, nuclei: Floats) -> None:
        from scipy.spatial import cKDTree

        self.cells, self.nuclei = cells, nuclei
        self.cell_tree, self.nucleus_tree = cKDTree(cells), cKDTree(nuclei)

    def mutual(self, affine: Floats, chosen: Index, radius: float) -> tuple[Index, Index, Floats]:
        """Pairs of a chosen cell and a nucleus that are nearest to each other among all -> cells, nuclei, distances.

        The way back goes through the inverse, so that the tree of the cells stays as it is: affines here are near
        the identity, and what is nearest is so in either frame.
        """
        distance, nucleus = self.nucleus_tree.query(apply(affine, self.cells[chosen]))
        near = distance <= radius
        cell, nucleus, distance = chosen[near], nucleus[near], distance[near]
        _, back = self.cell_tree.query(apply(inverse_of(affine), self.nuclei[nucleus]))
        same = back == cell
        return cell[same], nucleus[same], distance[same]


def turned(angle: float, scale: float, centre: Floats, shift: Sequence[float] | Floats = (0.0, 0.0)) -> Floats:
    """Turn by ``angle`` (radians) and scale about ``centre``, then shift."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    affine = np.eye(3)
    affine[:2, :2] = [[cos, -sin], [sin, cos]]
    affine[:2, 2] = centre - affine[:2, :2] @ centre + np.asarray(shift)
    return affine


def find_peak(
    clouds: Clouds, usable: NDArray[np.bool_], centre: Floats, search: float, turn: float, scale: float
) -> Peak | None:
    """The best of all shifts up to ``search`` um, turns up to ``turn`` radians and scales up to 1 +- ``scale``.

    The disc about ``centre`` is of the ``usable`` cells, a mask (N,).
    """
    from scipy import fft

    count = min(ANCHOR_CELLS, len(clouds.cells))
    distances, around = clouds.cell_tree.query(centre, k=count)
    distances, around = np.atleast_1d(distances), np.atleast_1d(around)
    radius, around = max(float(distances.max()), 1.0), around[usable[around]]
    reach = radius + search
    inside = clouds.nuclei[np.abs(clouds.nuclei - centre).max(1) <= reach] - centre
    if len(around) < FEWEST["shift"] or len(inside) < FEWEST["shift"]:
        return None
    pixel = max(PIXEL, 2 * reach / LARGEST_MAP)
    side = fft.next_fast_len(int(np.ceil(2 * reach / pixel)) + 2, real=True)
    lags = np.fft.fftfreq(side, 1 / side) * pixel
    allowed = np.hypot(lags[:, None], lags[None, :]) <= search
    blur, background = (_gaussian(width / PIXEL, side) for width in (BLUR, BACKGROUND))
    nuclei = fft.rfft2(_occupancy(inside, reach, pixel, side))
    cells = clouds.cells[around] - centre
    # What is expected without a peak hardly depends on the turn: it is smooth over more than turns move anything.
    plain = np.conj(fft.rfft2(_occupancy(cells, reach, pixel, side))) * nuclei
    expected = np.maximum(fft.irfft2(plain * background, s=(side, side)), 1e-3)
    deviation = np.sqrt(expected / (4 * np.pi * (BLUR / PIXEL) ** 2))  # Poisson counts, blurred
    weight = np.where(allowed, 1 / deviation, 0).astype(np.float32)
    best, height = np.eye(3), -np.inf
    step = RIM_STEP * pixel / PIXEL / radius
    for factor in 1 + _steps(scale, step):
        for angle in _steps(turn, step):
            moved = apply(turned(angle, factor, np.zeros(2)), cells)
            product = np.conj(fft.rfft2(_occupancy(moved, reach, pixel, side))) * nuclei
            excess = (fft.irfft2(product * blur, s=(side, side)) - expected) * weight
            row, column = np.unravel_index(int(excess.argmax()), excess.shape)
            if excess[row, column] > height:
                height = float(excess[row, column])
                best = turned(angle, factor, centre, (lags[column], lags[row]))
    return Peak(best, centre, radius, height)


def _steps(limit: float, step: float) -> Floats:
    """0 and values either side of it up to ``limit``, at most ``step`` apart; 0 alone if it is further than that."""
    count = int(np.ceil(limit / step)) if limit > step else 0
    values = np.linspace(-limit, limit, 2 * count + 1) if count else np.zeros(1)
    return values[np.argsort(np.abs(values), kind="stable")]


def _occupancy(points: Floats, reach: float, pixel: float, side: int) -> Map:
    """How many points lie in each pixel of a square of half-width ``reach`` about 0 -> (side, side), rows along y."""
    columns, rows = np.floor((points + reach) / pixel).astype(np.int64).T
    kept = (columns >= 0) & (columns < side) & (rows >= 0) & (rows < side)
    counts = np.bincount(rows[kept] * side + columns[kept], minlength=side * side)
    return counts.reshape(side, side).astype(np.float32)


def _gaussian(sigma: float, side: int) -> Map:
    """What the transform of a map is multiplied by to blur it with ``sigma`` px."""
    x, y = np.fft.rfftfreq(side), np.fft.fftfreq(side)
    return np.exp(-2 * (np.pi * sigma) ** 2 * (x[None, :] ** 2 + y[:, None] ** 2)).astype(np.float32)


def fit(source: Floats, target: Floats, model: str) -> Floats:
    """The ``shift``, ``similarity`` or ``affine`` that moves ``source`` onto ``target`` (both (N, 2)), robustly.

    Iteratively reweighted least squares with Tukey's biweight of the distance, its scale from the median.
    """
    weights = np.ones(len(source))
    affine = np.eye(3)
    for _ in range(6):
        affine = _least_squares(source, target, weights, model)
        residual = np.linalg.norm(target - apply(affine, source), axis=1)
        limit = TUKEY * max(float(np.median(residual)) / MEDIAN_OF_NORM, 1e-3)
        weights = np.square(np.clip(1 - np.square(residual / limit), 0, None))
    return affine


def _least_squares(source: Floats, target: Floats, weights: Floats, model: str) -> Floats:
    total = weights.sum()
    from_centre, to_centre = weights @ source / total, weights @ target / total
    p, q = source - from_centre, target - to_centre
    linear = np.eye(2)
    if model == "similarity":  # in complex numbers: q = a p
        a = (p[:, 0] - 1j * p[:, 1]) * (q[:, 0] + 1j * q[:, 1])
        a = (weights * a).sum() / max(float((weights * np.square(p).sum(1)).sum()), 1e-12)
        linear = np.array([[a.real, -a.imag], [a.imag, a.real]])
    elif model == "affine":
        linear = np.linalg.lstsq((p * weights[:, None]).T @ p, (p * weights[:, None]).T @ q, rcond=None)[0].T
    affine = np.eye(3)
    affine[:2, :2], affine[:2, 2] = linear, to_centre - linear @ from_centre
    return affine


def closest_points(clouds: Clouds, affine: Floats, chosen: Index, radii: Sequence[float], richest: str) -> Floats:
    """Iterated closest points with a shrinking radius; as rich a model, up to ``richest``, as the pairs allow."""
    order = ("shift", "similarity", "affine")
    for radius in radii:
        for _ in range(TURNS_EACH):
            cells, nuclei, _ = clouds.mutual(affine, chosen, radius)
            allowed = [model for model in order[: order.index(richest) + 1] if len(cells) >= FEWEST[model]]
            if not allowed:
                return affine
            affine, moved = _improve(clouds, affine, cells, nuclei, allowed[-1])
            if moved < 1e-3:
                break
    return affine


def settle(clouds: Clouds, affine: Floats, chosen: Index, model: str) -> Floats:
    """Iterate to the end, with a radius that follows from how far pairs are off.

    Pairs within a radius follow the affine a little: with one that is short for the errors it stays where it is.
    """
    for _ in range(SETTLING):
        cells, nuclei, distance = clouds.mutual(affine, chosen, LARGEST_RADIUS)
        if not len(cells):
            return affine
        near = distance <= max(3.0 * float(np.median(distance)), SMALLEST_RADIUS)
        if near.sum() < FEWEST[model]:
            return affine
        affine, moved = _improve(clouds, affine, cells[near], nuclei[near], model)
        if moved < CONVERGED:
            break
    return affine


def _improve(clouds: Clouds, affine: Floats, cells: Index, nuclei: Index, model: str) -> tuple[Floats, float]:
    """The affine after one fit to pairs, and by how many um that moves nuclei, at most.

    What is left over is fitted, not the whole: a fit of few pairs then changes the start no more than it must.
    """
    target = clouds.nuclei[nuclei]
    change = fit(apply(affine, clouds.cells[cells]), target, model)
    return change @ affine, float(np.abs(apply(change, target) - target).max())


def grow(clouds: Clouds, peak: Peak, usable: NDArray[np.bool_], most: int, seed: int) -> Floats:
    """From the disc of a peak to the whole section, with at most ``most`` of the ``usable`` cells at a time."""
    random = np.random.default_rng(seed)
    distance = np.linalg.norm(clouds.cells - peak.centre, axis=1)
    farthest = float(distance[usable].max())
    affine, radius, richest = peak.affine, peak.radius, "similarity"
    radii: Sequence[float] = FIRST_RADII
    while True:
        chosen = np.flatnonzero(usable & (distance <= radius))
        if len(chosen) > most:
            chosen = np.sort(random.choice(chosen, most, replace=False))
        affine = closest_points(clouds, affine, chosen, radii, richest)
        if radius >= farthest:
            return affine
        radius, radii, richest = radius * GROWTH, NEXT_RADII, "affine"
