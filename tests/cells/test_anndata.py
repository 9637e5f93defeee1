"""AnnData as anndata reads it and scanpy works on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest

from celldetr.cells.export import export_cells
from celldetr.cells.export.anndata import size_needed
from celldetr.cells.palette import hex_colour, type_colours
from celldetr.cells.reader import open_table
from celldetr.errors import InputError
from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run


def test_everything_of_the_table_is_where_scverse_looks(run: Path) -> None:
    cells = random_cells(300)
    data = anndata.read_h5ad(export_cells(run, "anndata"))
    assert data.X.dtype == np.float32
    assert np.array_equal(data.X, random_embeddings(cells).astype(np.float32))
    assert data.obs_names.tolist() == [f"slide-1:{i}" for i in range(300)]
    assert data.obs.columns.tolist() == cells.columns.tolist()
    for name in cells.columns.drop("type"):
        assert np.array_equal(data.obs[name], cells[name]), name
    assert data.obs["type"].tolist() == cells["type"].tolist()
    assert np.array_equal(data.obsm["spatial"], cells[["x_px", "y_px"]])
    assert np.array_equal(data.obsm["spatial_um"], cells[["x_um", "y_um"]])


def test_provenance_travels_along(tmp_path: Path) -> None:
    cells = random_cells(3)
    run = {"slide": "a/b.svs", "mpp": 0.25, "model": {"name": "m", "none": None, "list": [1, "a", {}]}, "a/b": 1}
    data = anndata.read_h5ad(export_cells(write_run(tmp_path / "s", cells, random_embeddings(cells), run), "h5ad"))
    assert data.uns["celldetr"]["slide"] == "b.svs"
    assert data.uns["celldetr"]["mpp"] == 0.25
    assert json.loads(data.uns["celldetr"]["run_json"]) == run


def test_types_that_do_not_occur_keep_their_category_and_colour(tmp_path: Path) -> None:
    cells = random_cells(20)
    cells["type"] = "stromal"
    data = anndata.read_h5ad(export_cells(write_run(tmp_path / "s", cells, random_embeddings(cells)), "anndata"))
    assert data.obs["type"].cat.categories.tolist() == list(TYPES)
    assert data.uns["type_colors"].tolist() == [hex_colour(type_colours(TYPES)[name]) for name in TYPES]


def test_no_cells_give_an_empty_object(empty_run: Path) -> None:
    data = anndata.read_h5ad(export_cells(empty_run, "anndata"))
    assert data.shape == (0, 8)
    assert data.obs["type"].cat.categories.tolist() == list(TYPES)
    assert data.obsm["spatial"].shape == (0, 2)


@pytest.mark.parametrize(("n", "d"), [(0, 4), (1, 1), (300, 3), (20_000, 16)])
def test_the_file_is_no_larger_than_foreseen(tmp_path: Path, n: int, d: int) -> None:
    cells = random_cells(n)
    run = write_run(tmp_path / "s", cells, random_embeddings(cells, d=d))
    size, foreseen = export_cells(run, "anndata").stat().st_size, size_needed(open_table(run))
    assert size <= foreseen < 2 * size + 2**20


def test_a_disk_without_room_is_left_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = size_needed(open_table(run)) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(InputError, match="the disk is full"):
        export_cells(run, "anndata")
    assert sorted(path.name for path in run.iterdir()) == ["cells.parquet", "run.json"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scanpy_finds_the_types_in_the_embeddings(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scanpy

    # UMAP's first layout will do: what improves it is compiled in each process anew, for longer than the rest takes.
    monkeypatch.setattr("umap.umap_.optimize_layout_euclidean", lambda layout, *_, **__: layout)
    data = scanpy.read_h5ad(export_cells(run, "anndata"))
    scanpy.pp.neighbors(data, n_neighbors=10, use_rep="X")
    scanpy.tl.umap(data, maxiter=20)
    scanpy.tl.leiden(data, flavor="igraph", n_iterations=2, directed=False)
    assert data.obsm["X_umap"].shape == (300, 2)
    assert np.isfinite(data.obsm["X_umap"]).all()
    # The embeddings were made of three well separated clusters: each Leiden cluster lies within one type.
    share = data.obs.groupby("leiden", observed=True)["type"].agg(lambda t: t.value_counts(normalize=True).max())
    assert share.min() > 0.9
