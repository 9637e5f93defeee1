"""SpatialData as spatialdata reads it, joins it and changes its coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from celldetr.cells.export import export_cells
from celldetr.errors import InputError
from helpers.cell_tables import random_cells, random_embeddings, write_run

spatialdata = pytest.importorskip("spatialdata")


@pytest.mark.slow
def test_boxes_and_table_are_joined_by_name(run: Path) -> None:
    cells = random_cells(300)
    data = spatialdata.read_zarr(export_cells(run, "spatialdata"))
    shapes, table = data.shapes["cells"], data.tables["table"]
    assert shapes.index.tolist() == table.obs_names.tolist() == [f"slide-1:{number}" for number in range(300)]
    bounds = shapes.bounds.to_numpy()
    assert np.allclose(bounds[:, 2:] - bounds[:, :2], cells[["w_px", "h_px"]])
    assert np.allclose((bounds[:, 2:] + bounds[:, :2]) / 2, cells[["x_px", "y_px"]])
    assert np.array_equal(table.X, random_embeddings(cells).astype(np.float32))
    assert table.obs["type"].tolist() == cells["type"].tolist()
    joined = spatialdata.match_table_to_element(data, "cells")
    assert joined.obs["cell_id"].tolist() == cells.cell_id.tolist()


@pytest.mark.slow
def test_a_window_in_micrometres_takes_its_cells_along(tmp_path: Path) -> None:
    cells = random_cells(300)
    run = {"slide": "s.svs", "mpp": 0.5, "mpp_x": 0.25, "mpp_y": 1.0}
    data = spatialdata.read_zarr(export_cells(write_run(tmp_path / "s", cells, random_embeddings(cells), run), "zarr"))
    moved = spatialdata.transform(data.shapes["cells"], to_coordinate_system="micrometers")
    assert np.allclose(moved.centroid.x, cells.x_px * 0.25)
    assert np.allclose(moved.centroid.y, cells.y_px * 1.0)
    least = [float(moved.centroid.x.median()), float(moved.centroid.y.median())]
    window = spatialdata.bounding_box_query(
        data, axes=("x", "y"), min_coordinate=least, max_coordinate=[1e6, 1e6], target_coordinate_system="micrometers"
    )
    inside = moved[(moved.bounds.maxx >= least[0]) & (moved.bounds.maxy >= least[1])]
    assert 0 < len(inside) < len(cells)
    assert set(window.tables["table"].obs_names) == set(inside.index)


@pytest.mark.slow
def test_an_unknown_resolution_gives_pixels_only(tmp_path: Path) -> None:
    cells = random_cells(5)
    out = export_cells(write_run(tmp_path / "s", cells, random_embeddings(cells), {"slide": "s"}), "spatialdata")
    assert spatialdata.read_zarr(out).coordinate_systems == ["global"]


@pytest.mark.slow
def test_a_slide_without_cells_has_an_empty_table(empty_run: Path) -> None:
    store = spatialdata.read_zarr(export_cells(empty_run, "spatialdata"))
    assert len(store.tables["table"]) == 0
    assert not store.shapes


@pytest.mark.slow
def test_a_store_is_replaced_only_if_asked_for_and_other_folders_never(run: Path) -> None:
    out = export_cells(run, "spatialdata")
    with pytest.raises(InputError, match="exists already"):
        export_cells(run, "spatialdata")
    (out / "mine").write_text("old")
    export_cells(run, "spatialdata", overwrite=True)
    assert not (out / "mine").exists()
    assert sorted(path.name for path in run.iterdir()) == ["cells.parquet", "cells.zarr", "run.json"]
    other = run / "photos.zarr"
    other.mkdir()
    with pytest.raises(InputError, match="is a directory"):
        export_cells(run, "spatialdata", other, overwrite=True)
