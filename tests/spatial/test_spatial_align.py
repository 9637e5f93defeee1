"""The refinement against known affines, on points packed like nuclei, and when it must keep its hands off."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from celldetr.errors import InputError
from celldetr.spatial.affine import apply
from celldetr.spatial.align import AlignOptions, held_out, refine
from celldetr.spatial.colocalization import colocalization, require_same_section
from celldetr.spatial.registration import fit, turned
from celldetr.spatial.residuals import misfit_warnings, residual_map

MPP = 0.25
FEW = AlignOptions(followed=1)  # one place is enough for what is not hard


def packed(count: int, random: np.random.Generator, spacing: float = 8.0, per_cell: float = 95.0) -> np.ndarray:
    """Points no nearer to each other than ``spacing``, on average one in ``per_cell`` um2 (sequential inhibition)."""
    side = np.sqrt(count * per_cell)
    kept = np.zeros((0, 2))
    while len(kept) < count:
        drawn = random.uniform(0, side, (count, 2))
        if len(kept):
            drawn = drawn[cKDTree(kept).query(drawn)[0] >= spacing]
        later = cKDTree(drawn).query_pairs(spacing, output_type="ndarray")[:, 1]  # of two too near, this one goes
        kept = np.vstack([kept, np.delete(drawn, np.unique(later), axis=0)])
    return kept[:count]


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """1,200 nuclei 8 um apart and more, their nearest neighbour some 9 um away."""
    return packed(1200, np.random.default_rng(0))


def true_affine() -> np.ndarray:
    """A turn by 200 degrees, 4 px per um, a little shear."""
    affine = turned(np.deg2rad(200), 1 / MPP, np.zeros(2), (3000, 2500))
    affine[:2, :2] = affine[:2, :2] @ [[1.01, 0.003], [0.0, 0.995]]
    return affine


def two_sides(
    tissue: np.ndarray, jitter: float, missing: float, seed: int, false: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Cells in um and nuclei in px: some of each are missing, cells are off by ``jitter`` um, some nuclei are false."""
    random = np.random.default_rng(seed)
    cells = tissue[random.random(len(tissue)) > missing]
    cells = cells + random.normal(0, jitter, cells.shape)
    nuclei = apply(true_affine(), tissue[random.random(len(tissue)) > missing])
    others = random.uniform(nuclei.min(0), nuclei.max(0), (int(false * len(nuclei)), 2))
    return cells, np.vstack([nuclei, others])


def off_by(shift: float, degrees: float, direction: float, tissue: np.ndarray) -> np.ndarray:
    """The true affine, then a turn about the middle of the image and a shift, um of the image."""
    middle = apply(true_affine(), tissue).mean(0)
    along = shift / MPP * np.array([np.cos(direction), np.sin(direction)])
    return turned(np.deg2rad(degrees), 1.0, middle, along) @ true_affine()


def largest_error(affine: np.ndarray, tissue: np.ndarray) -> float:
    """Between an affine and the true one, over the section, um."""
    return float(np.linalg.norm(apply(affine, tissue) - apply(true_affine(), tissue), axis=1).max() * MPP)


@pytest.mark.parametrize(
    ("shift", "degrees", "jitter", "missing", "most"),
    [
        (10, 0.0, 0.5, 0.12, 0.3),
        (10, 1.0, 0.5, 0.12, 0.3),
        (10, -1.0, 1.0, 0.3, 0.7),
        (30, 2.0, 1.0, 0.3, 0.7),
        (60, -3.0, 1.0, 0.4, 1.0),
    ],
)
def test_the_affine_is_found(
    tissue: np.ndarray, shift: float, degrees: float, jitter: float, missing: float, most: float
) -> None:
    cells, nuclei = two_sides(tissue, jitter, missing, seed=1)
    start = off_by(shift, degrees, 0.7 + shift, tissue)
    assert largest_error(start, tissue) >= shift
    found = refine(cells, nuclei, start, MPP, FEW)
    assert found.accepted
    assert largest_error(found.after, tissue) < most
    np.testing.assert_array_equal(found.before, start)
    assert found.fit_after.pairs > found.fit_before.pairs
    assert found.fit_after.median_um < 1.6 * jitter  # 1.18 in theory
    assert found.moved_um == pytest.approx(largest_move(start, found.after, cells))
    assert found.colocalization.same
    assert found.why.startswith("refined: ")


def largest_move(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> float:
    return float(np.linalg.norm(apply(one, points) - apply(other, points), axis=1).max() * MPP)


def test_a_start_that_is_right_is_not_made_worse(tissue: np.ndarray) -> None:
    cells, nuclei = two_sides(tissue, 0.5, 0.12, seed=2)
    found = refine(cells, nuclei, true_affine(), MPP, FEW)
    assert largest_error(found.after, tissue) < 0.25
    if not found.accepted:
        np.testing.assert_array_equal(found.after, found.before)
        assert found.why.startswith("kept the start")


def test_a_start_beyond_the_search_is_kept_and_told(tissue: np.ndarray) -> None:
    cells, nuclei = two_sides(tissue, 0.5, 0.12, seed=3)
    start = off_by(80, 0, 0.3, tissue)
    options = AlignOptions(search_um=20, turn_degrees=0, anchors=3)
    found = refine(cells, nuclei, start, MPP, options)
    assert not found.accepted
    np.testing.assert_array_equal(found.after, start)
    assert not found.colocalization.same
    assert found.fit_after == found.fit_before


@pytest.mark.parametrize("seed", [0, 1])
def test_another_section_is_told(tissue: np.ndarray, seed: int) -> None:
    cells, _ = two_sides(tissue, 0.5, 0.1, seed)
    other = apply(true_affine(), packed(1000, np.random.default_rng(50 + seed)))
    options = AlignOptions(anchors=3)
    found = refine(cells, other, true_affine(), MPP, options, seed)
    assert not found.colocalization.same
    assert abs(found.colocalization.share - found.colocalization.chance) < 0.1
    with pytest.raises(
        InputError, match=r"does not look like the same section: .* have a nucleus within 3 um, .* after random shifts"
    ):
        require_same_section(found.colocalization)


def test_colocalization_needs_overlap(tissue: np.ndarray) -> None:
    cells, nuclei = two_sides(tissue, 0.5, 0.1, 0)
    assert colocalization(cells, nuclei, true_affine(), MPP).same
    far = colocalization(cells, nuclei + 1e5, true_affine(), MPP)
    assert far.cells == 0
    with pytest.raises(InputError, match="only 0 cells lie where it has nuclei"):
        require_same_section(far)


def test_few_cells_are_aligned_or_left(tissue: np.ndarray) -> None:
    random = np.random.default_rng(4)
    few = tissue[np.linalg.norm(tissue - tissue.mean(0), axis=1) < 75]  # some 180
    cells, nuclei = two_sides(few, 0.5, 0.1, 4)
    start = off_by(10, 1, random.uniform(0, 6), few)
    found = refine(cells, nuclei, start, MPP)
    assert found.accepted
    assert largest_error(found.after, few) < 1
    found = refine(cells[:3], nuclei[:3], start, MPP)
    assert not found.accepted


def test_the_result_repeats(tissue: np.ndarray) -> None:
    cells, nuclei = two_sides(tissue, 1.0, 0.2, 5)
    start = off_by(10, 0, 1, tissue)
    one, two = (refine(cells, nuclei, start, MPP, FEW, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.after, two.after)
    assert one.fit_after == two.fit_after


def test_blocks_are_held_out_whole() -> None:
    points = np.random.default_rng(0).uniform(0, 1000, (5000, 2))
    held = held_out(points, AlignOptions(), seed=1)
    assert 0.12 < held.mean() < 0.28
    square = (points // 100).astype(int) @ [1, 10]  # the blocks: a hundred of 100 um
    mixed = [square_ for square_ in range(100) if 0 < held[square == square_].mean() < 1]
    assert len(mixed) < 20  # but for what lies at their borders
    assert (held != held_out(points, AlignOptions(), seed=2)).any()


@pytest.mark.parametrize("model", ["shift", "similarity", "affine"])
def test_fits_find_what_they_can_despite_wrong_pairs(model: str) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(-100, 100, (300, 2))
    true = turned({"shift": 0.0}.get(model, 0.02), 1.01 if model != "shift" else 1.0, np.zeros(2), (2, -1))
    if model == "affine":
        true[0, 1] += 0.02
    target = apply(true, points) + random.normal(0, 0.1, points.shape)
    target[:60] += random.uniform(-5, 5, (60, 2))
    np.testing.assert_allclose(apply(fit(points, target, model), points), apply(true, points), atol=0.1)


def test_the_map_of_residuals_shows_where_a_section_is_deformed() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0, 1000, (4000, 2))
    deformed = points[:, 0] > 700
    displacement = random.normal(0, 0.5, points.shape) + np.where(deformed[:, None], [0.0, 4.0], 0.0)
    found = residual_map(points, displacement)
    assert found.side_um == pytest.approx(100, abs=1)
    at_the_border = np.abs(found.centres[:, 0] - 700) < found.side_um
    here = found.centres[:, 0] > 700
    np.testing.assert_allclose(found.displacement[here & ~at_the_border, 1], 4, atol=0.6)
    np.testing.assert_allclose(found.displacement[~here & ~at_the_border], 0, atol=0.6)
    (warning,) = misfit_warnings(found, 2.0, 0.1)
    assert warning.startswith("in 30% of the section nuclei are off by more than 2 um")
    assert misfit_warnings(residual_map(points, displacement * 0.1), 2.0, 0.1) == []
    assert misfit_warnings(residual_map(points[:0], displacement[:0]), 2.0, 0.1) == []
