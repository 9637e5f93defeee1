"""Enrichment against every shuffle there is, pairs and distances against brute force."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from celldetr.cells.reader import open_table
from celldetr.report.neighbourhood import FEWEST, NEIGHBOURS, Degrees, enrichment, neighbourhood
from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run


def pairs(graph: np.ndarray, codes: np.ndarray, k: int) -> np.ndarray:
    kind = np.eye(k)[codes]
    return kind.T @ graph @ kind


def test_scores_are_those_of_all_shuffles() -> None:
    rng = np.random.default_rng(0)
    graph = (rng.random((7, 7)) < 0.4).astype(float)  # directed
    np.fill_diagonal(graph, 0)
    out, into = graph.sum(1), graph.sum(0)
    degrees = Degrees(graph.sum(), (graph * graph.T).sum(), out @ out, into @ into, into @ out)
    codes = np.array([0, 0, 0, 1, 1, 1, 2])
    shuffled = np.array([pairs(graph, np.array(order), 3) for order in set(permutations(codes.tolist()))])
    mean, spread = shuffled.mean(0), shuffled.std(0)
    found = pairs(graph, codes, 3)
    z, ratio = enrichment(found, np.bincount(codes), degrees)
    some = spread > 1e-9  # a type of one cell has no pair within itself, however it is shuffled
    assert some.sum() == 8
    np.testing.assert_allclose(z[some], (found - mean)[some] / spread[some])
    np.testing.assert_allclose(ratio[some], found[some] / mean[some])
    assert np.isnan(z[~some]).all()


def test_a_table_gives_what_brute_force_gives(tmp_path: Path) -> None:
    cells = random_cells(300)
    near = cells["x_px"] < cells["x_px"].median()
    cells.loc[near, "type"] = TYPES[0]  # one type keeps to itself
    cells.loc[cells.index[:5], "type"] = TYPES[2]
    cells.loc[cells.index[5:][cells["type"][5:] == TYPES[2]], "type"] = TYPES[1]
    assert (cells["type"] == TYPES[2]).sum() < FEWEST
    table = open_table(write_run(tmp_path / "s", cells, random_embeddings(cells), row_group=70))
    found = neighbourhood(table)
    frame = table.frame(["x_um", "y_um", "type"])
    codes, places = frame["type"].cat.codes.to_numpy(), frame[["x_um", "y_um"]].to_numpy()
    distance = cdist(places, places)
    np.fill_diagonal(distance, np.inf)
    graph = np.zeros_like(distance)
    np.put_along_axis(graph, np.argsort(distance, 1)[:, :NEIGHBOURS], 1, axis=1)
    counted = pairs(graph, codes, len(TYPES))
    rng = np.random.default_rng(0)
    shuffled = np.array([pairs(graph, rng.permutation(codes), len(TYPES)) for _ in range(3000)])
    z = (counted - shuffled.mean(0)) / shuffled.std(0)
    np.testing.assert_allclose(found.z[:2, :2], z[:2, :2], rtol=0.08)
    assert found.z[0, 0] > 5
    assert found.z[0, 1] < -5
    assert np.isnan(found.z[2]).all()
    assert np.isnan(found.distances[:, 2]).all()
    for a in range(2):
        for b in range(2):
            nearest = distance[np.ix_(codes == a, codes == b)].min(1)
            assert found.distances[a, b] == pytest.approx(np.median(nearest))


def test_cells_at_one_place_and_too_few_cells(tmp_path: Path) -> None:
    cells = random_cells(60)
    for axis in ("x", "y"):
        cells[f"{axis}_um"] = cells[f"{axis}_px"] = 5.0
    found = neighbourhood(open_table(write_run(tmp_path / "one", cells, random_embeddings(cells))))
    assert np.nanmax(found.distances, initial=0) == 0
    few = random_cells(NEIGHBOURS + 1)
    assert neighbourhood(open_table(write_run(tmp_path / "few", few, random_embeddings(few)))) is None
