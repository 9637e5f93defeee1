"""The map shows the cells it says it shows, and groups where there are groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from celldetr.cells.reader import CellTable, open_table
from celldetr.report.embedding_map import FEWEST, map_embeddings, sample_embeddings
from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run


def table_of(directory: Path, embeddings: np.ndarray) -> CellTable:
    return open_table(write_run(directory / "s", random_cells(len(embeddings)), embeddings, row_group=64))


def test_a_sample_is_drawn_from_the_whole_table_with_its_types(tmp_path: Path) -> None:
    cells = random_cells(500)
    number = np.arange(500, dtype=np.float16)[:, None]  # each embedding names its cell
    table = table_of(tmp_path, np.repeat(number, 2, axis=1))
    vectors, codes = sample_embeddings(table, 100)
    index = vectors[:, 0].astype(int)
    assert len(set(index)) == 100
    assert index.min() < 50
    assert index.max() > 450
    assert [TYPES[code] for code in codes] == cells["type"].iloc[index].tolist()
    assert len(sample_embeddings(table, 1000)[0]) == 500


def test_groups_stay_groups(tmp_path: Path) -> None:
    cells = random_cells(200)
    found = map_embeddings(table_of(tmp_path, random_embeddings(cells, d=16)))
    assert found is not None
    assert found.method.startswith("t-SNE")
    assert "all 200 cells" in found.method
    assert silhouette_score(found.points, found.codes) > 0.4


def test_few_cells_are_shown_by_principal_components(tmp_path: Path) -> None:
    n = FEWEST - 1
    embeddings = random_embeddings(random_cells(n))
    found = map_embeddings(table_of(tmp_path, embeddings))
    assert found is not None
    assert "principal components" in found.method
    assert "t-SNE" not in found.method
    expected = PCA(2).fit_transform(embeddings.astype(np.float64))
    assert np.allclose(np.abs(found.points), np.abs(expected), atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_cells_make_no_map(tmp_path: Path, n: int) -> None:
    assert map_embeddings(table_of(tmp_path, np.zeros((n, 4), np.float16))) is None


@pytest.mark.parametrize("n", [5, FEWEST + 10])
def test_embeddings_without_spread_or_not_finite_do_not_break_it(tmp_path: Path, n: int) -> None:
    found = map_embeddings(table_of(tmp_path, np.ones((n, 4), np.float16)))
    assert found is not None
    assert np.isfinite(found.points).all()
    line = np.arange(n, dtype=np.float16)[:, None]
    line[1] = np.nan
    found = map_embeddings(table_of(tmp_path, line))
    assert found is not None
    assert found.points.shape == (n - 1, 2)
    assert np.isfinite(found.points).all()
