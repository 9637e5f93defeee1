"""One-to-one pairing against brute force, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from celldetr.spatial.pair import PairOptions, pair, pairs_summary
from celldetr.spatial.section import PAIRS, Nuclei

MPP = 0.25
BY_DISTANCE = PairOptions(polygons=False)
TO_IMAGE = np.array([[0.0, -4.0, 900.0], [4.0, 0.0, 30.0], [0.0, 0.0, 1.0]])  # a quarter turn


def image_um(points: np.ndarray) -> np.ndarray:
    return (points @ TO_IMAGE[:2, :2].T + TO_IMAGE[:2, 2]) * MPP


def nuclei_at(centres_um: np.ndarray, half_um: float = 0.01, polygons: np.ndarray | None = None) -> Nuclei:
    """Boxes about centres given in um of the image; tiny by default, so that nothing is inside them."""
    low, high = (centres_um - half_um) / MPP, (centres_um + half_um) / MPP
    return Nuclei(np.hstack([low, high]).astype(np.float32), np.ones(len(low), np.float32), polygons)


def run(cells: np.ndarray, nuclei: Nuclei, options: PairOptions | None = None, outlines: object = None) -> pd.DataFrame:
    return pair(
        np.array([f"c{k}" for k in range(len(cells))], dtype=object), cells, outlines, nuclei, TO_IMAGE, MPP, options
    )


def test_two_that_want_the_same_nucleus_are_settled_together() -> None:
    # Greedy would give nucleus 0 to cell 1 (1 um) and leave cell 0 (2 um, its only one) without.
    cells = np.array([[0.0, 0.0], [3.0, 0.0]])
    nuclei = nuclei_at(image_um(np.array([[2.0, 0.0], [6.0, 0.0]])))
    assert run(cells, nuclei, BY_DISTANCE)["cell_id"].tolist() == ["c0", "c1"]


points = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=0, max_size=40)


@settings(max_examples=60, deadline=None)
@given(points, points, st.floats(0.5, 15), st.floats(0.5, 8))
def test_pairs_are_one_to_one_and_within_reach(
    a: list[tuple[float, float]], b: list[tuple[float, float]], radius: float, half: float
) -> None:
    cells, centres = np.array(a, float).reshape(-1, 2), np.array(b, float).reshape(-1, 2)
    nuclei = nuclei_at(image_um(centres), half)
    found = run(cells, nuclei, PairOptions(radius_um=radius))
    assert found["nucleus"].is_unique
    assert found["cell_id"].is_unique
    assert list(found.columns) == list(PAIRS)
    by_distance = found["how"] == "distance"
    assert (found.loc[by_distance, "distance_um"] <= radius * (1 + 1e-6)).all()
    assert (found.loc[~by_distance, "distance_um"] <= half + 1e-3).all()  # in the circle
    number = found["cell_id"].str[1:].astype(int).to_numpy()
    offset = nuclei.points[found["nucleus"]] * MPP - image_um(cells[number])
    np.testing.assert_allclose(found[["dx_um", "dy_um"]].to_numpy().reshape(-1, 2), offset, atol=1e-9)
    np.testing.assert_allclose(found["distance_um"], np.linalg.norm(offset, axis=1))
    # Nothing is left over on both sides that would fit.
    left = np.setdiff1d(np.arange(len(cells)), number)
    free = np.setdiff1d(np.arange(len(centres)), found["nucleus"])
    if len(left) and len(free):
        assert cdist(image_um(cells[left]), nuclei.points[free] * MPP).min() >= radius


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_cells_and_nuclei_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    cells = random.uniform(0, 100, (150, 2))
    centres = image_um(random.uniform(0, 100, (150, 2)))
    found = run(cells, nuclei_at(centres, 3.0))
    p, q = random.permutation(150), random.permutation(150)
    other = run(cells[p], nuclei_at(centres[q], 3.0))
    pairs = {(f"c{p[int(c[1:])]}", int(q[n])) for c, n in zip(other["cell_id"], other["nucleus"], strict=True)}
    assert pairs == set(zip(found["cell_id"], found["nucleus"], strict=True))


def test_a_cell_in_a_nucleus_goes_before_a_nearer_one_outside() -> None:
    # The cell is 4 um from the centre of a long nucleus that it lies in, and 2 um from a small one that it does not.
    cells = np.array([[50.0, 50.0]])
    at = image_um(cells)[0]
    centres = at + np.array([[4.0, 0.0], [-2.0, 0.0]])
    outlines = np.array(
        [shapely.box(*((centres[0] - [5, 1]) / MPP), *((centres[0] + [5, 1]) / MPP)), None], dtype=object
    )
    boxes = np.hstack([(centres - 1) / MPP, (centres + 1) / MPP]).astype(np.float32)
    found = run(cells, Nuclei(boxes, np.ones(2, np.float32), outlines))
    assert found[["nucleus", "how"]].to_numpy().tolist() == [[0, "polygon"]]
    assert found["distance_um"][0] == pytest.approx(4)
    near = run(cells, Nuclei(boxes, np.ones(2, np.float32), outlines), BY_DISTANCE)
    assert near[["nucleus", "how"]].to_numpy().tolist() == [[1, "distance"]]


def test_a_nucleus_in_the_cells_own_nucleus_pairs_by_polygon() -> None:
    # The cell's centre is 6 um off, beyond the radius; the outline of its nucleus covers the nucleus of the image.
    cells = np.array([[50.0, 50.0], [80.0, 80.0]])
    outlines = np.array([shapely.box(48, 44, 52, 58), None], dtype=object)
    nuclei = nuclei_at(image_um(np.array([[50.0, 56.0]])))
    assert len(run(cells, nuclei)) == 0
    found = run(cells, nuclei, outlines=outlines)
    assert found[["cell_id", "how"]].to_numpy().tolist() == [["c0", "polygon"]]


def test_boxes_stand_for_the_ellipse_in_them() -> None:
    options = PairOptions(radius_um=0.1)
    nuclei = nuclei_at(image_um(np.array([[50.0, 50.0]])), half_um=5.0)
    assert run(np.array([[53.4, 53.4]]), nuclei, options)["how"].tolist() == ["polygon"]  # 4.8 um off
    assert len(run(np.array([[53.7, 53.7]]), nuclei, options)) == 0  # 5.2 um off, still in the box


def test_pixels_that_are_not_square() -> None:
    nuclei = Nuclei(np.array([[99.9, 99.9, 100.1, 100.1]], np.float32), np.ones(1, np.float32))
    to_image = np.diag([4.0, 2.0, 1.0])
    found = pair(
        np.array(["a"], dtype=object), np.array([[25.0, 48.0]]), None, nuclei, to_image, (0.25, 0.5), BY_DISTANCE
    )
    assert found["distance_um"][0] == pytest.approx(2.0, abs=1e-4)
    assert found["dy_um"][0] == pytest.approx(2.0, abs=1e-4)


def test_summary_counts_what_there_is() -> None:
    cells = np.array([[10.0, 10.0], [30.0, 10.0], [90.0, 90.0]])
    found = run(cells, nuclei_at(image_um(cells[:2]) + np.array([1.0, -2.0]), 0.01))
    numbers = pairs_summary(found, 3, 2)
    assert numbers["pairs"] == 2
    assert numbers["cells_paired"] == pytest.approx(2 / 3)
    assert numbers["nuclei_paired"] == 1
    assert numbers["by_polygon"] == 0
    assert (numbers["dx_um"], numbers["dy_um"]) == (pytest.approx(1, abs=1e-4), pytest.approx(-2, abs=1e-4))
    assert numbers["median_um"] == pytest.approx(5**0.5, abs=1e-4)
    empty = pairs_summary(found.iloc[:0], 0, 0)
    assert empty["median_um"] is None
    assert empty["cells_paired"] is None
