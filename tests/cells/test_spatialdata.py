"""SpatialData as spatialdata reads it, joins it and changes its coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from celldetr.cells.export import export_cells, write_format
from celldetr.errors import DataWarning, InputError
from celldetr.slide.reader import from_array
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
def test_the_slide_lies_under_its_cells(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1300, 2100, 3), np.uint8)
    cells = random_cells(50)
    run = {"slide": "s.png", "mpp": 0.5, "mpp_x": 0.5, "mpp_y": 0.5, "width": 2100, "height": 1300}
    folder = write_run(tmp_path / "s", cells, random_embeddings(cells), run)
    slide = from_array(pixels, 0.5)
    data = spatialdata.read_zarr(export_cells(folder, "spatialdata", image=slide))
    scales = [data.images["slide"][name]["image"] for name in ("scale0", "scale1", "scale2")]
    assert [level.shape for level in scales] == [(3, 1300, 2100), (3, 650, 1050), (3, 325, 525)]
    assert np.array_equal(scales[0].to_numpy().transpose(1, 2, 0), pixels)
    halves = pixels.reshape(650, 2, 1050, 2, 3).mean((1, 3))
    assert np.corrcoef(scales[1].to_numpy().transpose(1, 2, 0).ravel(), halves.ravel())[0, 1] > 0.9
    for system, side in (("global", 2100), ("micrometers", 1050)):
        extent = spatialdata.get_extent(data.images["slide"], coordinate_system=system)
        assert np.allclose(extent["x"], (0, side))
    coarse = export_cells(folder, "spatialdata", tmp_path / "c.zarr", image=slide, image_mpp=2.0)
    level = spatialdata.read_zarr(coarse).images["slide"]  # of one scale
    assert level.shape == (3, 325, 525)
    assert np.allclose(spatialdata.get_extent(level)["x"], (0, 2100))
    with pytest.raises(InputError, match="measures 8 x 8 px"):
        export_cells(folder, "spatialdata", tmp_path / "d.zarr", image=from_array(pixels[:8, :8], 0.5))
    with pytest.raises(InputError, match="image_mpp"):
        export_cells(folder, "spatialdata", tmp_path / "e.zarr", image_mpp=2.0)
    with pytest.warns(DataWarning, match="without the slide's image"):  # as after celldetr cluster
        write_format(folder, "spatialdata", overwrite=True)


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
