"""The table is what its page says, and what other readers of Parquet and GeoParquet make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely

from celldetr.cells.reader import read_cells, read_embeddings
from celldetr.cells.rows import box_points, cell_rows, polygons
from celldetr.cells.schema import FAMILIARITY, NULLABLE, VERSION, cell_schema
from celldetr.model.output import TileCells
from celldetr.slide.row_order import row_groups
from helpers.parts import TYPES, write_parts

RNG = np.random.default_rng(0)


def test_polygons_are_shapelys() -> None:
    boxes = RNG.uniform(0, 1e5, (50, 4))
    boxes[:, 2:] += boxes[:, :2]
    ours = shapely.from_wkb(polygons(box_points(boxes)).to_pylist())
    assert shapely.equals(ours, shapely.box(*boxes.T)).all()
    np.testing.assert_array_equal(shapely.bounds(ours), boxes)
    assert shapely.is_ccw(shapely.get_exterior_ring(ours)).all()
    assert shapely.is_valid(ours).all()
    assert len(polygons(box_points(boxes))[0].as_py()) == 93
    assert len(polygons(box_points(np.zeros((0, 4))))) == 0


def test_columns_types_and_values(tmp_path: Path) -> None:
    path, parts = write_parts(tmp_path, [30, 0, 50])
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == cell_schema(TYPES, 8)
    frame = read_cells(path)
    cells = TileCells.join(list(row_groups(cells for cells, _ in parts)))
    boxes, probabilities = cells.boxes, cells.probabilities
    assert frame["cell_id"].tolist() == list(range(80))
    np.testing.assert_array_equal(frame["x_px"], (boxes[:, 0] + boxes[:, 2]) / 2)
    np.testing.assert_array_equal(frame["y_um"], (boxes[:, 1] + boxes[:, 3]) / 2 * 0.25)
    np.testing.assert_array_equal(frame["h_px"], (boxes[:, 3] - boxes[:, 1]).astype(np.float32))
    np.testing.assert_array_equal(frame[[f"p_{name}" for name in TYPES]], probabilities)
    assert frame["type"].tolist() == [TYPES[i] for i in probabilities.argmax(1)]
    np.testing.assert_array_equal(frame["type_score"], probabilities.max(1))
    np.testing.assert_array_equal(read_embeddings(path), cells.embeddings)
    assert frame[list(NULLABLE)].isna().all(axis=None)
    known = replace(cells, familiarity=np.linspace(0, 1, 80, dtype=np.float32))
    written = cell_rows(known, TYPES, (0.25, 0.25))[FAMILIARITY].to_numpy()
    np.testing.assert_array_equal(written, known.familiarity)
    assert frame["embedding"][3].dtype == np.float16
    assert frame.attrs["celldetr"] == {
        "slide": "s.svs",
        "mpp": 0.25,
        "types": list(TYPES),
        "table_version": VERSION,
    }


def test_geopandas_reads_it(tmp_path: Path) -> None:
    path, parts = write_parts(tmp_path, [30, 50])
    boxes = TileCells.join(list(row_groups(cells for cells, _ in parts))).boxes
    cells = geopandas.read_parquet(path)
    assert isinstance(cells, geopandas.GeoDataFrame)
    assert cells.crs is None
    np.testing.assert_array_equal(cells.bounds, boxes)
    np.testing.assert_allclose(cells.centroid.x, cells["x_px"])
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    np.testing.assert_array_equal(geo["columns"]["geometry"]["bbox"], cells.total_bounds)
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_an_empty_table_has_every_column(tmp_path: Path, sizes: list[int]) -> None:
    path, _ = write_parts(tmp_path, sizes)
    assert pq.read_schema(path).remove_metadata() == cell_schema(TYPES, 8)
    assert len(geopandas.read_parquet(path)) == 0
    frame = read_cells(path)
    assert len(frame) == 0
    assert frame["type"].cat.categories.tolist() == list(TYPES)
    assert read_embeddings(path).shape == (0, 8)


def test_frames_survive_pandas_own_reader(tmp_path: Path) -> None:
    path, _ = write_parts(tmp_path, [6])
    plain = pd.read_parquet(path)
    ours = read_cells(path)
    numeric = [name for name in ours if name not in ("type", "embedding", "geometry")]
    pd.testing.assert_frame_equal(plain[numeric], ours[numeric])
    assert plain["type"].astype(str).tolist() == ours["type"].astype(str).tolist()
