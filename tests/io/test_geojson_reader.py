"""Features of QuPath's GeoJSON are the same objects whatever version wrote them; what is none is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from celldetr.errors import InputError
from celldetr.io.geojson import Feature, read_features

SQUARE = [[0, 0], [4, 0], [4, 2], [0, 2], [0, 0]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE]}
NUCLEUS = {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2]]]}
BARE = {"type": "Feature", "geometry": POLYGON}


def features(path: Path, content: Any) -> list[Feature]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(read_features(path))


def feature(geometry: Any = POLYGON, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


@pytest.mark.parametrize(
    ("value", "kind", "class_name"),
    [
        # QuPath 0.2: the class of the object is its id.
        ({**feature(classification={"name": "Tumor"}), "id": "PathCellObject"}, "cell", "Tumor"),
        ({**feature(), "id": "PathAnnotationObject"}, "annotation", ""),
        ({**feature(), "id": "TMACoreObject"}, "tmacore", ""),
        # 0.3: the id is another; 0.4: a UUID; 0.5: names of derived classes.
        (feature(objectType="detection", classification={"name": "Tumor: Positive"}), "detection", "Tumor: Positive"),
        ({**feature(objectType="tmaCore"), "id": "5d0b9f0e-3c1f-5c58-9d0a-6a1f3f1f7f0a"}, "tmacore", ""),
        (feature(objectType="cell", classification={"names": ["Tumor", "Positive"]}), "cell", "Tumor: Positive"),
        # Other programs.
        (feature(object_type="tma_core", classification="Stroma"), "tmacore", "Stroma"),
        ({"type": "Feature", "geometry": POLYGON, "properties": None}, "annotation", ""),
    ],
)
def test_kind_and_class_whatever_version_wrote_it(value: Any, kind: str, class_name: str, tmp_path: Path) -> None:
    (found,) = features(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": [value]})
    assert (found.kind, found.class_name) == (kind, class_name)
    assert found.where.endswith("a.geojson: object 1")


def test_names_are_all_that_an_object_is_called(tmp_path: Path) -> None:
    value = feature(name="left", classification={"names": ["Stroma", "Positive"]})
    assert features(tmp_path / "a.geojson", [value])[0].names == {"left", "Stroma: Positive", "Stroma", "Positive"}
    assert features(tmp_path / "a.geojson", [feature(name=None)])[0].names == set()


@pytest.mark.parametrize(
    "content",
    [[BARE], {"type": "FeatureCollection", "features": [BARE]}, BARE, POLYGON, {"features": [BARE], "type": "F"}],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_of_a_file(content: Any, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    (found,) = read_features(path)
    assert found.area().equals(shapely.box(0, 0, 4, 2))


def test_measurements_that_are_no_numbers(tmp_path: Path) -> None:
    """QuPath before 0.5 writes NaN, which is no JSON."""
    text = json.dumps([feature(objectType="cell", measurements={"Nucleus: Area": float("nan"), "b": float("inf")})])
    assert "NaN" in text
    (found,) = features(tmp_path / "a.geojson", text)
    assert found.area().area == 8


def test_areas_and_points(tmp_path: Path) -> None:
    many = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[9, 9], [10, 9], [10, 10]]]]}
    nested = {"type": "GeometryCollection", "geometries": [{"type": "GeometryCollection", "geometries": [many]}]}
    height = {"type": "Polygon", "coordinates": [[[*point, 3.5] for point in SQUARE]]}
    cell = feature(objectType="cell") | {"nucleusGeometry": NUCLEUS}
    areas = [
        each.area()
        for each in features(tmp_path / "a.geojson", [feature(many), feature(nested), feature(height), cell])
    ]
    assert [area.geom_type for area in areas] == ["MultiPolygon", "MultiPolygon", "Polygon", "Polygon"]
    assert [area.area for area in areas] == [8.5, 8.5, 8, 0.5]  # of a cell its nucleus
    one, two = {"type": "Point", "coordinates": [1, 2]}, {"type": "MultiPoint", "coordinates": [[1, 2, 0], [3, 4, 0]]}
    found = features(tmp_path / "a.geojson", [feature(one), feature(two)])
    assert all(each.has_points for each in found)
    assert np.concatenate([each.points() for each in found]).tolist() == [[1, 2], [1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not GeoJSON"),
        ("7", "expected a GeoJSON FeatureCollection, Feature or list of Features, got int"),
        ({"type": "Topology"}, "got type 'Topology'"),
        ({"type": "FeatureCollection", "features": 3}, "got type 'FeatureCollection'"),
        ([1], "object 1: expected a Feature, got 1"),
        ([BARE, {"type": "Fish"}], "object 2: expected a Feature"),
    ],
)
def test_what_is_no_geojson(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        features(tmp_path / "a.geojson", content)


def test_an_empty_collection_has_no_features(tmp_path: Path) -> None:
    assert features(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": []}) == []
    assert features(tmp_path / "a.geojson", []) == []


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "object 1 is a Point; expected an area"),
        ({"type": "LineString", "coordinates": SQUARE}, "object 1 is a LineString; expected an area"),
        (None, "object 1 has no geometry"),
        ({"type": "Polygon", "coordinates": "x"}, "without coordinates"),
        ({"type": "Polygon", "coordinates": []}, "without coordinates"),
        ({"type": "GeometryCollection"}, "a GeometryCollection without coordinates"),
        ({"type": "Polygon", "coordinates": [[]]}, "expected points of two numbers"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [0, 0]]]}, "a polygon of 2 points; expected at least 3"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [5, float("nan")], [9, 0]]]}, "expected points of two numbers"),
        ({"type": "Polygon", "coordinates": [[[0, 0], ["5", 5], [9, 0]]]}, "expected points of two numbers"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1e12, 5], [9, 0]]]}, "pixels of full resolution; got"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [10**400, 5], [9, 0]]]}, "."),
        ({"type": "Polygon", "coordinates": [[0, 1, 2]]}, "expected points of two numbers"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1], [9, 0]]]}, "expected points of two numbers"),
    ],
)
def test_malformed_geometries_are_named(geometry: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        features(tmp_path / "a.geojson", [feature(geometry)])[0].area()
