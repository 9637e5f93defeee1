"""Alignment of the section with the image (step 5): the affine that came with it, refined by the nuclei if that helps.

``refine`` looks for the affine between cells and nuclei (``registration``) with the cells of some blocks held out, and
takes it only if the held-out cells fit better than with the start. What is reported is measured on these too. A smooth
non-rigid residual is not fitted: ``residual_map`` shows where the section is deformed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Positive, Probability
from celldetr.spatial.affine import (
    PIXEL_UM,
    Floats,
    Mpp,
    apply,
    check_affine,
    describe,
    in_image_um,
    inverse_of,
    pixel_scale,
)
from celldetr.spatial.colocalization import Colocalization, colocalization, require_same_section
from celldetr.spatial.pair import PairOptions, pair, pairs_summary
from celldetr.spatial.registration import ANCHOR_CELLS, Clouds, Index, Peak, find_peak, grow, settle
from celldetr.spatial.residuals import misfit_warnings, residual_map
from celldetr.spatial.section import Nuclei, Section

if TYPE_CHECKING:
    import pandas as pd

FEWEST_HELD_OUT = 10  # pairs; fewer decide nothing
ENOUGH_HELD_OUT = 200  # cells: where there are fewer, a larger share is held out, up to half
SURER = 2.0  # standard errors by which the refined affine must be better
LEAST_HEIGHT = 6.0  # standard deviations of a peak that is worth following
CLEAR_HEIGHT = 12.0  # chance reaches about 5 among all shifts and turns


class AlignOptions(Config):
    """Settings of the refinement. Lengths in um of the image."""

    refine: bool = Field(True, description="Refine the alignment by the nuclei; else only say how well it fits.")
    search_um: float = Field(100.0, ge=0, le=500, description="Farthest that the start may be off.")
    turn_degrees: float = Field(4.0, ge=0, le=30, description="Most that the start may be turned.")
    scale: float = Field(0.02, ge=0, le=0.2, description="Share by which the start may be too small or too large.")
    radius_um: Positive = Field(5.0, description="A cell and a nucleus farther apart than this are no pair.")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the blocks that test the fit; up to half in a small section."
    )
    blocks: int = Field(100, ge=4, description="Blocks, about, where each has some 20 cells.")
    anchors: Count = Field(9, description="Places at which the search begins.")
    followed: Count = Field(3, description="Places that it follows, the clearest.")
    most_cells: int = Field(50_000, ge=1000, description="Cells fitted at a time; more make it no more exact.")
    local_um: Positive = Field(2.0, description="Local displacement that is worth a warning.")
    local_share: Probability = Field(0.1, description="Share of the section that must have it.")


@dataclass(frozen=True)
class Fit:
    """How well an affine fits the held-out cells."""

    cells: int  # held out
    pairs: int  # of them with a nucleus that is nearest to each other, within ``radius_um``
    median_um: float | None  # of the distances of these pairs; None without any
    p90_um: float | None


@dataclass(frozen=True)
class Alignment:
    """The alignment of a section with its image."""

    before: Floats  # (3, 3) from micrometres of the section to level-0 pixels
    after: Floats  # the same where the start was kept
    accepted: bool  # whether the refined affine was taken
    why: str  # in words
    fit_before: Fit
    fit_after: Fit
    moved_um: float  # how far the cells moved, the largest distance
    colocalization: Colocalization  # with ``after``, on held-out cells


def align_and_pair(
    section: Section,
    nuclei: Nuclei,
    start: Floats,
    image_size: tuple[int, int],
    mpp: tuple[float, float],
    options: AlignOptions,
    pairing: PairOptions,
) -> tuple[Floats, pd.DataFrame, dict[str, Any]]:
    """Refine the alignment of a section, and pair its cells with nuclei -> affine, table ``PAIRS``, numbers of both.

    The ``start`` is (3, 3) from micrometres of the section to level-0 pixels of an image of this size and resolution.

    Raises:
        InputError: the start cannot be right, or cells and nuclei do not look like one section.
    """
    pixel_um = section.source.get("pixel_um") or PIXEL_UM
    inside, warnings = check_affine(start, section.points, image_size, float(np.mean(mpp)), pixel_um)
    alignment = refine(section.points, nuclei.points, start, mpp, options)
    require_same_section(alignment.colocalization)
    pairs = pair(section.cell_ids, section.points, section.nuclei, nuclei, alignment.after, mpp, pairing)
    residuals = residual_map(
        nuclei.points[pairs["nucleus"].to_numpy()] * pixel_scale(mpp),
        pairs[["dx_um", "dy_um"]].to_numpy(dtype=np.float64),
    )
    facts = {
        "start": describe(start),
        "inside": inside,
        "warnings": [*warnings, *misfit_warnings(residuals, options.local_um, options.local_share)],
        **asdict(alignment),
        "before": start.tolist(),
        "after": alignment.after.tolist(),
        "pairs": pairs_summary(pairs, section.cells.n_obs, len(nuclei)),
    }
    return alignment.after, pairs, facts


def refine(
    cells_um: Floats,
    nuclei_px: Floats,
    to_image: Floats,
    mpp: Mpp,
    options: AlignOptions | None = None,
    seed: int = 0,
) -> Alignment:
    """Refine an alignment by the nuclei of the image, or keep it.

    Args:
        cells_um: (N, 2) centres of cells, micrometres of the section.
        nuclei_px: (M, 2) centres of nuclei, level-0 pixels.
        to_image: (3, 3) the start.
        mpp: micrometres per level-0 pixel, or along x and y.
        options: limits of the search.
        seed: of the blocks held out, and of what is drawn where there are many cells.
    """
    options = options or AlignOptions()
    clouds = Clouds(apply(in_image_um(to_image, mpp), cells_um), nuclei_px * pixel_scale(mpp))
    is_held_out = held_out(clouds.cells, options, seed)
    test = np.flatnonzero(is_held_out)
    start = np.eye(3)
    before, cost_before = measure(clouds, start, test, options.radius_um)
    best, after, cost = start, before, cost_before
    why = "kept the start: nothing that was found fits the held-out cells clearly better"
    candidates: list[Floats] = []
    if not options.refine:
        why = "kept the start, as asked"
    elif len(test) < FEWEST_HELD_OUT:
        why = f"kept the start: only {len(test)} cells are left to test a refinement on"
    elif not is_held_out.all():
        candidates = search(clouds, ~is_held_out, options, seed)
    for affine in candidates:
        fit, cost_of_fit = measure(clouds, affine, test, options.radius_um)
        if fit.pairs >= FEWEST_HELD_OUT and cost_of_fit.mean() < cost.mean():
            best, after, cost = affine, fit, cost_of_fit
    accepted = best is not start and _is_better(after, before, cost_before - cost)
    refined = to_image
    if accepted:
        why = (
            f"refined: {after.pairs:,} of {after.cells:,} held-out cells have a nucleus, {after.median_um:.2f} um off "
            f"in the median; before {before.pairs:,}" + (f", {before.median_um:.2f} um" if before.pairs else "")
        )
        scale = np.diag([*pixel_scale(mpp), 1.0])
        refined = inverse_of(scale) @ best @ scale @ to_image
    else:
        best, after = start, before
    moved = float(np.linalg.norm(apply(best, clouds.cells) - clouds.cells, axis=1).max())
    measured = colocalization(cells_um[test] if accepted else cells_um, nuclei_px, refined, mpp, seed)
    return Alignment(to_image, refined, accepted, why, before, after, moved, measured)


def _is_better(after: Fit, before: Fit, gain: Floats) -> bool:
    """Whether held-out cells gain clearly (``gain``: of each, in radii), lose no pairs and are no farther off."""
    error = float(gain.std() / np.sqrt(len(gain)))
    nearer = before.median_um is None or (after.median_um is not None and after.median_um <= before.median_um)
    return float(gain.mean()) > SURER * error and after.pairs >= before.pairs and nearer


def held_out(points: Floats, options: AlignOptions, seed: int) -> NDArray[np.bool_]:
    """(N,) whether a cell is in a block that is held out. Blocks are squares, drawn at random.

    Cells in a block are held out together because what is wrong with an alignment is alike for neighbours.
    """
    blocks = float(np.clip(len(points) / 20, 4, options.blocks))
    low, extent = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-6)
    side = float(np.sqrt(extent.prod() / blocks))
    column, row = ((points - low) // side).astype(np.int64).T
    _, block = np.unique(row * (column.max() + 1) + column, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(block.max()) + 1)
    share = max(options.held_out, min(0.5, ENOUGH_HELD_OUT / len(points)))
    return order[block] < max(1, round(share * len(order)))


def measure(clouds: Clouds, affine: Floats, chosen: Index, radius: float) -> tuple[Fit, Floats]:
    """How well some cells fit, and what each costs: its distance in radii, 1 for one without a nucleus."""
    cells, _, distance = clouds.mutual(affine, chosen, radius)
    cost = np.ones(len(chosen))
    cost[np.searchsorted(chosen, cells)] = distance / radius
    median, p90 = (float(v) for v in np.percentile(distance, [50, 90])) if len(distance) else (None, None)
    return Fit(len(chosen), len(distance), median, p90), cost


def search(clouds: Clouds, usable: NDArray[np.bool_], options: AlignOptions, seed: int) -> list[Floats]:
    """Candidate affines: the start improved in place, and what grew from the clearest peaks, each in two models."""
    peaks: list[Peak] = []
    for centre in anchors(clouds, usable, options.anchors):
        peak = find_peak(clouds, usable, centre, options.search_um, np.deg2rad(options.turn_degrees), options.scale)
        if peak is not None and peak.height >= LEAST_HEIGHT:
            peaks.append(peak)
        if sum(peak.height >= CLEAR_HEIGHT for peak in peaks) >= options.followed:
            break
    peaks = sorted(peaks, key=lambda peak: -peak.height)[: options.followed]
    middle = clouds.cells[usable].mean(0)
    radius = float(np.linalg.norm(clouds.cells[usable] - middle, axis=1).max())
    peaks.append(Peak(np.eye(3), middle, radius, 0.0))  # the start as it is
    chosen = np.flatnonzero(usable)
    if len(chosen) > options.most_cells:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, options.most_cells, replace=False))
    affines = []
    for peak in peaks:
        grown = grow(clouds, peak, usable, options.most_cells, seed)
        affines += [settle(clouds, grown, chosen, model) for model in ("similarity", "affine")]
    return affines


def anchors(clouds: Clouds, usable: NDArray[np.bool_], count: int) -> Floats:
    """(A, 2) places with both cells and nuclei around: the middle of the cells first, then far from each other."""
    points = clouds.cells[usable]
    nearby = clouds.nucleus_tree.query(points, distance_upper_bound=100.0)[0]
    covered = points[np.isfinite(nearby)]
    if not len(covered):
        covered = points
    covered = covered[:: max(1, len(covered) // 5000)]
    # Places at the rim see little around them: of those left, the ones nearer to the middle.
    middle = np.median(covered, axis=0)
    from_middle = np.linalg.norm(covered - middle, axis=1)
    covered = covered[from_middle <= np.quantile(from_middle, 0.8)]
    if len(clouds.cells) <= ANCHOR_CELLS:
        count = 1  # each sees all cells
    first = int(np.linalg.norm(covered - middle, axis=1).argmin())
    return covered[far_apart(covered, first, count)]


def far_apart(points: Floats, first: int, count: int) -> list[int]:
    """Positions of at most ``count`` points: the ``first``, then each as far as can be from those before it."""
    chosen = [first]
    distance = np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
