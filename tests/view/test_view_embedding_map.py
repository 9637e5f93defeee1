"""The map of a run: cells that are alike lie together, and it is made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from celldetr.errors import InputError
from celldetr.search.collection import find_cells
from celldetr.view import embedding_map
from celldetr.view.embedding_map import FILE, EmbeddingMap, Placement
from celldetr.view.embeddings import Embeddings
from helpers.cell_tables import random_cells, random_embeddings, write_run


def opened(folder: Path, held: int = 2**20) -> EmbeddingMap:
    collection = find_cells(folder)
    return EmbeddingMap(collection, Embeddings(collection, held))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two")):
        cells = random_cells(300, seed=seed)
        vectors = random_embeddings(cells, seed=0)
        vectors[7] = 0
        write_run(tmp_path / name, cells, vectors)
    return tmp_path


def test_cells_of_a_type_lie_together(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_map, "SAMPLE", 200)  # the others are placed among these
    made = opened(run)
    points = made.points(0)
    assert points.shape == (300, 2)
    assert np.isnan(points[7]).all()
    assert np.nanmax(np.abs(points)) <= 1
    kinds = made.collection.slides[0].table.frame(["type"])["type"].cat.codes.to_numpy()
    known = np.isfinite(points[:, 0])
    distance = np.linalg.norm(points[known, None] - points[known], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (kinds[known][distance.argmin(1)] == kinds[known]).mean() > 0.9
    assert made.progress() == (600, 600)


def test_it_is_kept_and_made_again_for_other_cells(run: Path) -> None:
    first = opened(run).points(1)
    assert (run / FILE).is_file()
    stamp = (run / FILE).stat().st_mtime_ns
    np.testing.assert_array_equal(opened(run, held=0).points(1), first)
    assert (run / FILE).stat().st_mtime_ns == stamp
    cells = random_cells(250, seed=5)
    write_run(run / "two", cells, random_embeddings(cells, seed=0))
    assert len(opened(run).points(1)) == 250
    (run / FILE).write_bytes(b"PAR1")
    assert len(opened(run).points(1)) == 250


def test_a_sampled_vector_keeps_its_place() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(500, 16)).astype(np.float32)
    sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    points = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
    np.testing.assert_allclose(Placement(sample, points)(sample), points, atol=1e-3)


def test_too_few_cells_have_no_map(tmp_path: Path) -> None:
    cells = random_cells(2)
    write_run(tmp_path / "one", cells, random_embeddings(cells))
    with pytest.raises(InputError, match="too few cells"):
        opened(tmp_path).points(0)
