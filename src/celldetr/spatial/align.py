"""Step 5, first half: the alignment that came with the section, refined by the nuclei themselves, or left alone.

``refine`` looks for the affine between cells and nuclei (``registration``) with the cells of some blocks held out, and
takes it only if the held-out cells meet nuclei better than with the start. What is reported is measured on these too.
A smooth non-rigid residual is not fitted: ``residual_map`` shows where the section is deformed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Positive, Probability
from celldetr.errors import InputError
from celldetr.io.files import read_json, write_json
from celldetr.spatial.affine import apply
from celldetr.spatial.coordinates import Floats, Mpp, in_image_um, pixel_scale
from celldetr.spatial.evidence import Evidence, evidence
from celldetr.spatial.registration import ANCHOR_CELLS, Clouds, Index, Peak, find_peak, grow, settle

FEWEST_HELD_OUT = 10  # pairs; fewer judge nothing
ENOUGH_HELD_OUT = 200  # cells: where there are fewer, a larger share is held out, up to half
SURER = 2.0  # standard errors by which the refined affine must be better
LEAST_HEIGHT = 6.0  # standard deviations of a peak that is worth following
CLEAR_HEIGHT = 12.0  # chance reaches about 5 among all shifts and turns


class AlignOptions(Config):
    """Settings of the refinement. Lengths in um of the image."""

    refine: bool = True  # False: keep the start, and say how well it fits
    search_um: Annotated[float, Field(ge=0, le=500)] = 100.0  # farthest that the start is off where the search begins
    turn_degrees: Annotated[float, Field(ge=0, le=30)] = 4.0  # most that it is turned
    scale: Annotated[float, Field(ge=0, le=0.2)] = 0.02  # share by which it is too small or too large at most
    radius_um: Positive = 5.0  # a cell and a nucleus farther apart than this are no pair
    # Share of the blocks that judge and are not fitted; more, up to half, in a small section.
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    blocks: Annotated[int, Field(ge=4)] = 100  # about so many, where each has some 20 cells
    anchors: Count = 9  # places at which the search begins
    followed: Count = 3  # of them, the clearest
    most_cells: Annotated[int, Field(ge=1000)] = 50_000  # fitted at a time; more make it no more exact
    local_um: Positive = 2.0  # local displacement that is worth a warning
    local_share: Probability = 0.1  # of the section that must have it


@dataclass(frozen=True)
class Fit:
    """How well an affine fits the held-out cells.

    Attributes:
        cells: held out.
        pairs: of them with a nucleus that is nearest to each other, within ``radius_um``.
        median_um, p90_um: distances of these pairs; NaN without any.
    """

    cells: int
    pairs: int
    median_um: float
    p90_um: float


@dataclass(frozen=True)
class Alignment:
    """The alignment to go on with, and what speaks for it.

    Attributes:
        before, after: (3, 3) from micrometres of the section to level-0 pixels; equal where the start was kept.
        accepted: whether the refined affine was taken.
        why: in words.
        fit_before, fit_after: on held-out cells, of the start and of ``after``.
        moved_um: how far the cells moved, the largest distance.
        evidence: whether both are of the same section, with ``after``, on held-out cells.
    """

    before: Floats
    after: Floats
    accepted: bool
    why: str
    fit_before: Fit
    fit_after: Fit
    moved_um: float
    evidence: Evidence

    def as_json(self) -> dict[str, Any]:
        """For ``alignment.json``."""
        return {
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "accepted": self.accepted,
            "why": self.why,
            "fit_before": _jsonable(self.fit_before),
            "fit_after": _jsonable(self.fit_after),
            "moved_um": self.moved_um,
            "evidence": self.evidence.as_json(),
        }

    def write(self, path: Path, **more: Any) -> None:
        """Write ``alignment.json``, with ``more`` (the summary of the pairs, say) after it."""
        write_json(path, self.as_json() | more)


def read_alignment(path: Path) -> Alignment:
    """The inverse of ``Alignment.write``.

    Raises:
        InputError: no such file, or another content.
    """
    values = read_json(path)
    if values is None:
        raise InputError(f"{path}: no such file; run the step 'align' first")
    try:
        before, after = (np.array(values[name], dtype=np.float64).reshape(3, 3) for name in ("before", "after"))
        return Alignment(
            before=before,
            after=after,
            accepted=bool(values["accepted"]),
            why=str(values["why"]),
            fit_before=_fit_of(values["fit_before"]),
            fit_after=_fit_of(values["fit_after"]),
            moved_um=float(values["moved_um"]),
            evidence=Evidence(**values["evidence"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not an alignment ({error}); run the step 'align' again") from None


def _fit_of(values: dict[str, Any]) -> Fit:
    median, p90 = (np.nan if values[name] is None else float(values[name]) for name in ("median_um", "p90_um"))
    return Fit(int(values["cells"]), int(values["pairs"]), median, p90)


def _jsonable(fit: Fit) -> dict[str, Any]:
    return {key: None if value != value else value for key, value in vars(fit).items()}  # NaN is no JSON


def refine(
    cells_um: Floats,
    nuclei_px: Floats,
    to_image: Floats,
    mpp: Mpp,
    options: AlignOptions | None = None,
    seed: int = 0,
    *,
    progress: Callable[[float], None] | None = None,
) -> Alignment:
    """Refine an alignment by the nuclei of the image, or keep it.

    Args:
        cells_um: (N, 2) centres of cells, micrometres of the section.
        nuclei_px: (M, 2) centres of nuclei, level-0 pixels.
        to_image: (3, 3) the start.
        mpp: micrometres per level-0 pixel, or along x and y.
        options: limits of the search.
        seed: of the blocks held out, and of what is drawn where there are many cells.
        progress: told the share that is done.

    Raises:
        InputError: nothing to align, or coordinates that are not finite.
    """
    options = options or AlignOptions()
    tell = progress or (lambda _: None)
    to_image = np.asarray(to_image, dtype=np.float64)
    for name, points in (("cells", cells_um), ("nuclei", nuclei_px)):
        if len(points) < 1 or not np.isfinite(points).all():
            raise InputError(f"{len(points):,} {name}: expected some, with finite coordinates; check the step before")
    scale = np.diag([*pixel_scale(mpp), 1.0])
    clouds = Clouds(apply(in_image_um(to_image, mpp), cells_um), nuclei_px * pixel_scale(mpp))
    held = held_out(clouds.cells, options, seed)
    judges = np.flatnonzero(held)
    start = np.eye(3)
    before, cost_before = measure(clouds, start, judges, options.radius_um)
    best, after, cost = start, before, cost_before
    why = "kept the start: nothing that was found fits the held-out cells clearly better"
    candidates: list[Floats] = []
    if not options.refine:
        why = "kept the start, as asked"
    elif len(judges) < FEWEST_HELD_OUT:
        why = f"kept the start: only {len(judges)} cells are left to judge a refinement by"
    else:
        candidates = search(clouds, ~held, options, seed, tell)
    for affine in candidates:
        fit, cost_of_fit = measure(clouds, affine, judges, options.radius_um)
        if fit.pairs >= FEWEST_HELD_OUT and cost_of_fit.mean() < cost.mean():
            best, after, cost = affine, fit, cost_of_fit
    gain = cost_before - cost
    error = float(gain.std() / np.sqrt(len(gain))) if len(gain) else 0.0
    accepted = (
        best is not start
        and float(gain.mean()) > SURER * error
        and after.pairs >= before.pairs
        and (not before.pairs or after.median_um <= before.median_um)
    )
    if accepted:
        why = (
            f"refined: {after.pairs:,} of {after.cells:,} held-out cells have a nucleus, {after.median_um:.2f} um off "
            f"in the median; before {before.pairs:,}" + (f", {before.median_um:.2f} um" if before.pairs else "")
        )
    else:
        best, after = start, before
    refined = np.linalg.inv(scale) @ best @ scale @ to_image if accepted else to_image
    moved = float(np.linalg.norm(apply(best, clouds.cells) - clouds.cells, axis=1).max())
    found = evidence(cells_um[judges] if accepted else cells_um, nuclei_px, refined, mpp, seed)
    tell(1.0)
    return Alignment(to_image, refined, accepted, why, before, after, moved, found)


def held_out(points: Floats, options: AlignOptions, seed: int) -> NDArray[np.bool_]:
    """(N,) whether a cell is in a block that judges. Blocks are squares; which of them is drawn at random.

    Cells in a block are left out together because what is wrong with an alignment is alike for neighbours.
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
    median, p90 = np.percentile(distance, [50, 90]) if len(distance) else (np.nan, np.nan)
    return Fit(len(chosen), len(distance), float(median), float(p90)), cost


def search(
    clouds: Clouds, usable: NDArray[np.bool_], options: AlignOptions, seed: int, tell: Callable[[float], None]
) -> list[Floats]:
    """Affines worth judging: the start improved in place, and what grew from the clearest peaks, each in two models."""
    if not usable.any():
        return []
    peaks: list[Peak] = []
    for number, centre in enumerate(anchors(clouds, usable, options.anchors)):
        peak = find_peak(clouds, usable, centre, options.search_um, np.deg2rad(options.turn_degrees), options.scale)
        if peak is not None and peak.height >= LEAST_HEIGHT:
            peaks.append(peak)
        if sum(peak.height >= CLEAR_HEIGHT for peak in peaks) >= options.followed:
            break
        tell(0.6 * (number + 1) / options.anchors)
    peaks = sorted(peaks, key=lambda peak: -peak.height)[: options.followed]
    middle = clouds.cells[usable].mean(0)
    radius = float(np.linalg.norm(clouds.cells[usable] - middle, axis=1).max())
    peaks.append(Peak(np.eye(3), middle, radius, 0.0))  # the start as it is
    chosen = np.flatnonzero(usable)
    if len(chosen) > options.most_cells:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, options.most_cells, replace=False))
    found = []
    for number, peak in enumerate(peaks):
        grown = grow(clouds, peak, usable, options.most_cells, seed)
        found += [settle(clouds, grown, chosen, model) for model in ("similarity", "affine")]
        tell(0.6 + 0.35 * (number + 1) / len(peaks))
    return found


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
    places = [covered[np.argmin(np.linalg.norm(covered - middle, axis=1))]]
    nearest = np.linalg.norm(covered - places[0], axis=1)
    count = min(count, len(covered)) if len(clouds.cells) > ANCHOR_CELLS else 1  # each sees all cells
    while len(places) < count:
        places.append(covered[int(nearest.argmax())])
        nearest = np.minimum(nearest, np.linalg.norm(covered - places[-1], axis=1))
    return np.array(places)
