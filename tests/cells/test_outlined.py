"""Exports of a table with outlines: the same polygons and measurements everywhere."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from celldetr.cells.export import export_cells
from celldetr.cells.reader import open_table, read_cells
from celldetr.cells.rings import is_box, ring_columns, rings
from celldetr.cells.schema import CELLS, MEASURED, SHAPE, VERSION, cell_schema, table_metadata
from celldetr.errors import InputError
from celldetr.model.output import TileCells
from celldetr.outlines import RADII
from celldetr.slide.table_writer import write_table
from helpers.cell_tables import random_cells, random_embeddings, write_run
from helpers.parts import TYPES, some_cells

MPP = (0.25, 0.5)


@pytest.fixture
def outlined(tmp_path: Path) -> Path:
    """A slide with 60 cells that have outlines; one of them a radius of 0 all around."""
    plain, _ = some_cells(60)
    rng = np.random.default_rng(1)
    radii = (1 + 0.08 * rng.normal(size=(60, RADII)).cumsum(1)).clip(0.3, 1.4).astype(np.float16)
    radii[7] = 0
    stains = rng.normal(0.5, 0.1, (60, 4)).astype(np.float32)
    cells = TileCells(plain.boxes, plain.scores, plain.probabilities, plain.embeddings, radii, stains)
    folder = tmp_path / "case 1"
    folder.mkdir()
    about = {"slide": "case 1.ome.tif", "mpp": 0.354, "mpp_x": MPP[0], "mpp_y": MPP[1], "types": list(TYPES)}
    schema = cell_schema(TYPES, 8).with_metadata(table_metadata(about, (0, 0, 1e5, 1e5)))
    write_table(folder / CELLS, schema, [cells], TYPES, MPP)
    return folder


def test_the_table_measures_its_polygons(outlined: Path) -> None:
    cells = geopandas.read_parquet(outlined / CELLS)
    assert open_table(outlined).version == VERSION
    drawn = shapely.transform(cells.geometry.to_numpy(), lambda points: points * MPP)
    some = cells["area_um2"].notna().to_numpy()
    assert some.sum() == 59
    np.testing.assert_allclose(cells["area_um2"][some], shapely.area(drawn)[some], rtol=1e-5)
    np.testing.assert_allclose(cells["perimeter_um"][some], shapely.length(drawn)[some], rtol=1e-5)
    assert cells.loc[~some, list(SHAPE)].isna().all(axis=None)
    centre, half = cells[["x_px", "y_px"]].to_numpy(), cells[["w_px", "h_px"]].to_numpy() / 2
    beyond = (cells.bounds.to_numpy()[:, 2:] - centre) / half
    assert 0.2 < (beyond > 1.01).mean() < 1  # outlines are not cut to their boxes
    assert beyond.max() < 1.41


def test_qupath_gets_outlines_names_and_measurements(outlined: Path) -> None:
    cells = read_cells(outlined)
    text = gzip.decompress(export_cells(outlined, "geojson").read_bytes())
    features = json.loads(text)["features"]
    drawn = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    expected = shapely.from_wkb(cells["geometry"])
    assert shapely.hausdorff_distance(drawn, expected).max() < 0.01  # two decimals
    for feature, cell in zip(features, cells.to_dict("records"), strict=True):
        found = feature["properties"]["measurements"]
        assert feature["properties"]["name"] == f"case 1:{cell['cell_id']}"
        assert found["cell_id"] == cell["cell_id"]
        known = {name: cell[name] for name in MEASURED if np.isfinite(cell[name])}
        assert {name: found.get(name) for name in known} == pytest.approx(known, rel=1e-3)
        assert not {name for name in MEASURED if name not in known} & set(found)
    boxes = json.loads(export_cells(outlined, "geojson", outlined / "b.geojson", shape="box").read_text())["features"]
    assert {len(box["geometry"]["coordinates"][0]) for box in boxes} == {5}


def test_other_formats_have_the_names_and_measurements(outlined: Path) -> None:
    cells = read_cells(outlined)
    names = [f"case 1:{number}" for number in range(60)]
    obs = anndata.read_h5ad(export_cells(outlined, "anndata")).obs
    csv = pd.read_csv(export_cells(outlined, "csv"))
    assert obs.index.tolist() == csv["name"].tolist() == names
    for name in MEASURED:
        np.testing.assert_allclose(obs[name], cells[name], rtol=1e-6)
        np.testing.assert_allclose(csv[name], cells[name], rtol=1e-5)


@pytest.mark.slow
def test_spatialdata_has_the_outlines(outlined: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    data = spatialdata.read_zarr(export_cells(outlined, "spatialdata"))
    expected = shapely.from_wkb(read_cells(outlined)["geometry"])
    shapes = data.shapes["cells"]
    assert shapely.equals_exact(shapes.geometry.to_numpy(), expected).all()
    assert shapes.index.tolist() == data.tables["table"].obs["name"].tolist()


def test_tables_of_version_1_open_and_say_what_they_lack(tmp_path: Path) -> None:
    cells = random_cells(20)
    run = write_run(tmp_path / "s", cells, random_embeddings(cells))
    table = open_table(run)
    assert (table.version, table.name) == (1, "s")
    with pytest.raises(InputError, match=r"no column 'area_um2', it is of an older version; run predict again"):
        table.read(["area_um2"])
    drawn = rings(table.read(ring_columns(table)))
    assert all(is_box(ring) for ring in drawn)
    without = rings(table.read(["x_px", "y_px", "w_px", "h_px"]))
    np.testing.assert_allclose([ring.min(0) for ring in without], [ring.min(0) for ring in drawn])
    np.testing.assert_allclose([ring.max(0) for ring in without], [ring.max(0) for ring in drawn])
    assert len(pd.read_csv(export_cells(run, "csv"))) == 20
