"""The table is what its page says, and what other readers of Parquet and GeoParquet make of it."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from numpy.typing import NDArray

from celldetr.cells.schema import box_polygons, cell_schema, tile_rows
from celldetr.cells.store import PartInfo, PartStore, read_cells, read_embeddings
from celldetr.errors import InputError
from celldetr.model.output import TileCells

TYPES = ("lymphocyte", "epithelial", "stromal")
RNG = np.random.default_rng(0)


def some_cells(n: int, seed: int = 0) -> tuple[TileCells, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 90_000, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 40, (n, 2))], 1)
    probabilities = rng.dirichlet(np.ones(len(TYPES)), n).astype(np.float32).reshape(n, len(TYPES))
    embeddings = rng.normal(size=(n, 8)).astype(np.float16)
    return TileCells(boxes.astype(np.float32), rng.random(n).astype(np.float32), probabilities, embeddings), boxes


def write(directory: Path, sizes: list[int]) -> tuple[Path, list[tuple[TileCells, NDArray[np.float64]]]]:
    store = PartStore(directory, TYPES, 8)
    parts = [some_cells(n, seed) for seed, n in enumerate(sizes)]
    for band, (cells, boxes) in enumerate(parts):
        bounds = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()) if len(boxes) else None
        info = PartInfo(band, len(boxes), 1, 0.1, dict.fromkeys(TYPES, 0), bounds)
        store.write(tile_rows(cells, boxes, TYPES, (0.25, 0.25)), info)
    infos = store.infos(range(len(sizes)))
    return store.finish(infos, {"slide": "s.svs", "mpp": 0.25, "types": list(TYPES)}), parts


def test_polygons_are_shapelys() -> None:
    boxes = RNG.uniform(0, 1e5, (50, 4))
    boxes[:, 2:] += boxes[:, :2]
    ours = shapely.from_wkb(box_polygons(boxes).to_pylist())
    assert shapely.equals(ours, shapely.box(*boxes.T)).all()
    np.testing.assert_array_equal(shapely.bounds(ours), boxes)
    assert shapely.is_ccw(shapely.get_exterior_ring(ours)).all()
    assert shapely.is_valid(ours).all()
    assert len(box_polygons(boxes)[0].as_py()) == 93
    assert len(box_polygons(np.zeros((0, 4)))) == 0


def test_columns_types_and_values(tmp_path: Path) -> None:
    path, parts = write(tmp_path, [30, 0, 50])
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == cell_schema(TYPES, 8)
    frame = read_cells(path)
    boxes = np.concatenate([boxes for _, boxes in parts])
    probabilities = np.concatenate([cells.probabilities for cells, _ in parts])
    assert frame["cell_id"].tolist() == list(range(80))
    np.testing.assert_array_equal(frame["x_px"], (boxes[:, 0] + boxes[:, 2]) / 2)
    np.testing.assert_array_equal(frame["y_um"], (boxes[:, 1] + boxes[:, 3]) / 2 * 0.25)
    np.testing.assert_array_equal(frame["h_px"], (boxes[:, 3] - boxes[:, 1]).astype(np.float32))
    np.testing.assert_array_equal(frame[[f"p_{name}" for name in TYPES]], probabilities)
    assert frame["type"].tolist() == [TYPES[i] for i in probabilities.argmax(1)]
    np.testing.assert_array_equal(frame["type_score"], probabilities.max(1))
    np.testing.assert_array_equal(read_embeddings(path), np.concatenate([cells.embeddings for cells, _ in parts]))
    assert frame["embedding"][3].dtype == np.float16
    assert frame.attrs["celldetr"] == {"slide": "s.svs", "mpp": 0.25, "types": list(TYPES)}


def test_geopandas_reads_it(tmp_path: Path) -> None:
    path, parts = write(tmp_path, [30, 50])
    boxes = np.concatenate([boxes for _, boxes in parts])
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
    (tmp_path / "parts").mkdir()
    path, _ = write(tmp_path, sizes)
    assert pq.read_schema(path).remove_metadata() == cell_schema(TYPES, 8)
    assert len(geopandas.read_parquet(path)) == 0
    frame = read_cells(path)
    assert len(frame) == 0
    assert frame["type"].cat.categories.tolist() == list(TYPES)
    assert read_embeddings(path).shape == (0, 8)


def test_some_columns_can_be_read(tmp_path: Path) -> None:
    path, _ = write(tmp_path, [5])
    assert list(read_cells(path, ["x_px", "type"])) == ["x_px", "type"]
    assert read_cells(tmp_path, ["type"])["type"].cat.categories.tolist() == list(TYPES)
    with pytest.raises(InputError, match=r"has no column 'p_stroma'; did you mean 'p_stromal'"):
        read_cells(path, ["p_stroma"])


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such cell table"):
        read_cells(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "interrupted"}')
    with pytest.raises(InputError, match=r"not finished \(it is interrupted\); run predict again with `resume=True`"):
        read_cells(tmp_path)
    (tmp_path / "cells.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_cells(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a cell table, it has no column 'cell_id'"):
        read_cells(tmp_path / "other.parquet")


def test_parts_end_where_one_is_missing(tmp_path: Path) -> None:
    write(tmp_path, [3, 4, 5, 6])
    store = PartStore(tmp_path, TYPES, 8)
    assert [info.rows for info in store.infos([0, 1, 2, 3])] == [3, 4, 5, 6]
    store.path(1).unlink()
    assert [info.rows for info in store.infos([0, 1, 2, 3])] == [3]
    assert [info.rows for info in store.infos([0, 2, 3, 5])] == [3, 5, 6]
    cells, boxes = some_cells(5, 2)
    np.testing.assert_array_equal(store.centres(2), (boxes[:, :2] + boxes[:, 2:]) / 2)
    assert len(cells) == 5
    store.remove()
    assert not (tmp_path / "parts").exists()


def test_frames_survive_pandas_own_reader(tmp_path: Path) -> None:
    path, _ = write(tmp_path, [6])
    plain = pd.read_parquet(path)
    ours = read_cells(path)
    numeric = [name for name in ours if name not in ("type", "embedding", "geometry")]
    pd.testing.assert_frame_equal(plain[numeric], ours[numeric])
    assert plain["type"].astype(str).tolist() == ours["type"].astype(str).tolist()
