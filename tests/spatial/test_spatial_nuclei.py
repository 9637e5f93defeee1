"""Nuclei of runs and of files of QuPath and CellViT, and how they are kept."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely

from celldetr.errors import InputError
from celldetr.spatial.files import read_nuclei, write_nuclei
from celldetr.spatial.nuclei import check_nuclei, nuclei_from_cells, nuclei_from_file, nuclei_from_model
from celldetr.spatial.section import Nuclei
from helpers.cell_tables import random_cells, random_embeddings, write_run

MPP = 0.25


def ring(x: float, y: float, half: float = 10.0) -> list[list[float]]:
    return [[x - half, y - half / 2], [x + half, y - half / 2], [x + half, y + half / 2], [x - half, y + half / 2]]


def feature(geometry: dict[str, Any], kind: str = "detection", **more: Any) -> dict[str, Any]:
    properties = {"objectType": kind, **more.pop("properties", {})}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **more}


def polygon(x: float, y: float, half: float = 10.0) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*ring(x, y, half), ring(x, y, half)[0]]]}


def cellvit_cell(x: float, y: float) -> dict[str, Any]:
    """As CellViT writes it: the box by rows and columns, the rest by x and y."""
    return {
        "bbox": [[y - 5, x - 10], [y + 5, x + 10]],
        "centroid": [x, y],
        "contour": ring(x, y),
        "type_prob": 0.75,
        "type": 1,
    }


def cellvit(*cells: dict[str, Any]) -> dict[str, Any]:
    return {
        "wsi_metadata": {"base_mpp": 0.25},
        "processed_patches": ["0_0"],
        "type_map": {"a": 1},
        "cells": list(cells),
    }


def write(path: Path, content: Any) -> Path:
    text = json.dumps(content, indent=2)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def boxes(*centres: tuple[float, float]) -> np.ndarray:
    return np.array([[x - 10, y - 5, x + 10, y + 5] for x, y in centres], np.float32)


@pytest.mark.parametrize("name", ["nuclei.geojson", "nuclei.geojson.gz"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_qupath_detections(tmp_path: Path, name: str, wrapped: bool) -> None:
    features = [feature(polygon(100, 50)), feature(polygon(300, 80)), feature(polygon(200, 65, 400), "annotation")]
    content = {"type": "FeatureCollection", "features": features} if wrapped else features
    nuclei = nuclei_from_file(write(tmp_path / name, content), MPP)
    np.testing.assert_array_equal(nuclei.boxes, boxes((100, 50), (300, 80)))
    assert nuclei.polygons is not None
    assert [p.area for p in nuclei.polygons] == [200, 200]
    assert nuclei.source["regions"] == 1


def test_a_qupath_cell_gives_its_nucleus(tmp_path: Path) -> None:
    cell = feature(polygon(100, 50, 40), "cell", nucleusGeometry=polygon(100, 50))
    nuclei = nuclei_from_file(write(tmp_path / "a.geojson", [cell, feature(polygon(300, 80), "cell")]), MPP)
    np.testing.assert_array_equal(nuclei.boxes, boxes((100, 50), (300, 80)))


def test_annotations_are_nuclei_where_there_is_nothing_else(tmp_path: Path) -> None:
    drawn = [feature(polygon(x, 50), "annotation") for x in (100, 200, 300)]
    region = feature(polygon(200, 50, 300), "annotation")
    named = feature(polygon(900, 50), "annotation", properties={"classification": {"name": "Region*"}})
    nuclei = nuclei_from_file(write(tmp_path / "a.geojson", [region, *drawn, named]), MPP)
    np.testing.assert_array_equal(nuclei.boxes, boxes((100, 50), (200, 50), (300, 50)))
    assert nuclei.source["regions"] == 2


def test_origin_moves_boxes_and_polygons(tmp_path: Path) -> None:
    nuclei = nuclei_from_file(write(tmp_path / "a.geojson", [feature(polygon(100, 50))]), MPP, origin=(1000, 10))
    np.testing.assert_array_equal(nuclei.boxes, boxes((1100, 60)))
    assert nuclei.polygons is not None
    assert nuclei.polygons[0].bounds == (1090, 55, 1110, 65)


def test_cellvit_contours(tmp_path: Path) -> None:
    cells = [cellvit_cell(100, 50), cellvit_cell(300, 80), cellvit_cell(500, 80) | {"contour": [[500, 80], [501, 80]]}]
    nuclei = nuclei_from_file(write(tmp_path / "cells.json", cellvit(*cells)), MPP)
    np.testing.assert_array_equal(nuclei.boxes, boxes((100, 50), (300, 80), (500, 80)))
    np.testing.assert_allclose(nuclei.scores, 0.75)
    assert nuclei.polygons is not None
    assert [p is None for p in nuclei.polygons] == [False, False, True]
    np.testing.assert_allclose(nuclei.points[0], [100, 50])  # x and y not swapped


def test_cellvit_boxes_only(tmp_path: Path) -> None:
    cell = {key: value for key, value in cellvit_cell(100, 50).items() if key in ("bbox", "centroid", "type")}
    nuclei = nuclei_from_file(write(tmp_path / "cell_detection.json", cellvit(cell)), MPP)
    np.testing.assert_array_equal(nuclei.boxes, boxes((100, 50)))
    assert nuclei.polygons is None


def test_cellvit_geojson_has_one_multipolygon_a_type(tmp_path: Path) -> None:
    many = {"type": "MultiPolygon", "coordinates": [polygon(x, 50)["coordinates"] for x in (100, 200)]}
    one = {"type": "MultiPolygon", "coordinates": [polygon(300, 50)["coordinates"]]}
    content = [feature(g, "annotation", properties={"classification": {"name": "Neoplastic"}}) for g in (many, one)]
    nuclei = nuclei_from_file(write(tmp_path / "cells.geojson", content), MPP)
    np.testing.assert_array_equal(nuclei.boxes, boxes((100, 50), (200, 50), (300, 50)))


def test_points_stand_for_small_nuclei_without_polygons(tmp_path: Path) -> None:
    points = feature({"type": "MultiPoint", "coordinates": [[100, 50], [200, 60]]}, "annotation")
    nuclei = nuclei_from_file(write(tmp_path / "cell_detection.geojson", [points]), (0.25, 0.5))
    np.testing.assert_allclose(nuclei.boxes[0], [86, 43, 114, 57])  # 7 um
    assert nuclei.polygons is not None
    assert nuclei.polygons.tolist() == [None, None]
    assert nuclei.source["without outline"] == 2


def test_a_polygon_that_crosses_itself_becomes_what_is_around_both_halves(tmp_path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [30, 20], [30, 0], [0, 20], [0, 0]]]}
    nuclei = nuclei_from_file(write(tmp_path / "a.geojson", [feature(bow)]), MPP)
    assert nuclei.polygons is not None
    assert nuclei.polygons[0].is_valid
    assert nuclei.polygons[0].area == pytest.approx(600)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", [], "holds no nuclei"),
        ("a.geojson", {"type": "FeatureCollection", "features": []}, "holds no nuclei"),
        ("a.geojson", [feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]})], "object 1 is a LineString"),
        ("a.geojson", [feature(polygon(100, 50)), {"type": "Fish"}], "object 2: expected a Feature"),
        (
            "a.geojson",
            [feature({"type": "Point", "coordinates": [1, "x"]})],
            "object 1: expected points of two numbers",
        ),
        ("cells.json", cellvit(), "holds no nuclei"),
        ("cells.json", cellvit(cellvit_cell(9, 9), {"type": 1}), "cell 2: has neither 'bbox' nor a 'contour'"),
        ("cells.json", cellvit({"bbox": [[9, 9], [1, 1]]}), "cell 1: bbox .* expected"),
        ("cells.json", cellvit({"contour": [[1, 2], [3]]}), "cell 1: contour: expected pairs"),
        ("cells.json", cellvit({"bbox": [[float("nan"), 1], [2, 2]]}), "cell 1: bbox: expected pairs"),
        ("cells.csv", [], "expected nuclei as .geojson"),
        ("cells.json.snappy", [], "without --compression"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nuclei_from_file(write(tmp_path / name, content), MPP)


@pytest.mark.parametrize("keep", [0, 1, 40, 300, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    text = json.dumps(cellvit(cellvit_cell(100, 50), cellvit_cell(200, 50)))
    (tmp_path / "cells.json").write_text(text[:keep])
    with pytest.raises(InputError, match="not JSON"):
        nuclei_from_file(tmp_path / "cells.json", MPP)


def test_nuclei_of_another_image_are_refused() -> None:
    nuclei = Nuclei(boxes((100, 50), (500, 80)), np.ones(2, np.float32))
    check_nuclei(nuclei, 600, 100, MPP)
    with pytest.raises(InputError, match=r"1 of 2 nuclei lie outside of the image of 400 x 100 px.*another slide"):
        check_nuclei(nuclei, 400, 100, MPP)
    with pytest.raises(InputError, match="not in level-0 pixels"):
        check_nuclei(nuclei, 600, 100, 0.05)
    with pytest.raises(InputError, match="no nuclei"):
        check_nuclei(Nuclei(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)), 600, 100, MPP)


@pytest.mark.parametrize("polygons", [False, True])
def test_nuclei_are_kept(tmp_path: Path, polygons: bool) -> None:
    geometry = np.array([shapely.box(90, 45, 110, 55), None], dtype=object) if polygons else None
    scores = np.array([0.25, 1], np.float32)
    nuclei = Nuclei(boxes((100, 50), (500, 80)), scores, geometry, {"format": "x"})
    write_nuclei(nuclei, tmp_path / "nuclei.parquet")
    back = read_nuclei(tmp_path / "nuclei.parquet")
    np.testing.assert_array_equal(back.boxes, nuclei.boxes)
    np.testing.assert_array_equal(back.scores, scores)
    if geometry is None:
        assert back.polygons is None
    else:
        assert back.polygons is not None
        assert back.polygons.tolist() == geometry.tolist()
        geopandas = pytest.importorskip("geopandas")
        frame = geopandas.read_parquet(tmp_path / "nuclei.parquet")
        assert frame.geometry[0].equals(geometry[0])
    with pytest.raises(InputError, match="no such file"):
        read_nuclei(tmp_path / "other.parquet")
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "nuclei.parquet").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read"):
        read_nuclei(tmp_path / "bad.parquet")


def test_points_stay_points_when_kept(tmp_path: Path) -> None:
    nuclei = Nuclei(boxes((100, 50)), np.ones(1, np.float32), np.array([None], dtype=object))
    write_nuclei(nuclei, tmp_path / "nuclei.parquet")
    assert read_nuclei(tmp_path / "nuclei.parquet").polygons is not None


def test_nuclei_of_a_model_are_those_of_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``predict_slide`` itself has tests of its own; here it is a stand-in that writes a table."""
    cells = random_cells(30)
    asked: dict[str, Any] = {}

    def stand_in(image: Path, out: Path, progress: Callable[[Any], None], **options: Any) -> SimpleNamespace:
        asked.update(options)
        progress(SimpleNamespace(tiles=3, tiles_total=4))
        return SimpleNamespace(directory=write_run(out / image.stem, cells, random_embeddings(cells)))

    class StandIn:
        def describe(self) -> dict[str, str]:
            return {"name": "small-20x"}

    # The module loads torch, which this needs not.
    api = SimpleNamespace(predict_slide=stand_in, load_model=lambda *_: StandIn(), Model=StandIn)
    monkeypatch.setitem(sys.modules, "celldetr.api", api)
    (tmp_path / "run" / "predicted-of-another-model").mkdir(parents=True)
    heard: list[float] = []
    nuclei = nuclei_from_model(tmp_path / "he.png", tmp_path / "run", "small-20x", mpp=0.5, progress=heard.append)
    assert heard == [0.75]
    assert isinstance(asked.pop("model"), StandIn)
    assert asked == {"mpp": 0.5, "resume": True}
    assert len(list((tmp_path / "run").iterdir())) == 1
    np.testing.assert_allclose(nuclei.points, cells[["x_px", "y_px"]].to_numpy(), atol=1e-3)
    size = nuclei.boxes[:, 2:] - nuclei.boxes[:, :2]
    np.testing.assert_allclose(size, cells[["w_px", "h_px"]].to_numpy(), atol=1e-3)
    np.testing.assert_array_equal(nuclei.scores, cells["score"].to_numpy())
    assert nuclei.polygons is None
    none = write_run(tmp_path / "none", cells.iloc[:0], random_embeddings(cells)[:0])
    with pytest.raises(InputError, match="no nucleus was found"):
        nuclei_from_cells(none)
