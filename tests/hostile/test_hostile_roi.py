"""GeoJSON from strangers, as ``--roi`` reads it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from celldetr.slide.options import PredictOptions
from celldetr.slide.roi import joined, read_roi, roi_of_run, roi_text
from helpers.hostile import examples, flipped, in_little_memory, refused

SQUARE = [[100, 100], [300, 100], [300, 250], [100, 250], [100, 100]]
FILE = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
            "properties": {"objectType": "annotation", "name": "Tumor", "classification": {"name": "Tumor"}},
        }
    ],
}
KINDS = [
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
    "Point",
    "LineString",
    "Feature",
    "FeatureCollection",
    "Polygone",
]
numbers = st.one_of(
    st.floats(),
    st.integers(),
    st.floats(-50, 50),
    st.integers(-9, 9),
    st.sampled_from([1e8, -1e8, 1e308, 10**400, 5e-324]),
)
ring = st.lists(st.lists(numbers, min_size=2, max_size=3), max_size=9)
near = st.lists(st.tuples(st.floats(-9, 9), st.integers(-9, 9)).map(list), min_size=3, max_size=12)
anything = st.recursive(
    numbers | st.none() | st.booleans() | st.text(max_size=8) | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "geometry", "coordinates", "features", "geometries", "properties", "name"]), inner
        )
    ),
    max_leaves=30,
)


def shape(kind: str, coordinates: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": {}}


def read(content: bytes, folder: Path) -> str | None:
    path = folder / "roi.geojson"
    path.write_bytes(content)

    def use() -> None:
        area = read_roi(path)
        assert area.is_valid
        assert area.area > 0
        assert PredictOptions(roi=area).roi == PredictOptions(roi=roi_text(area)).roi

    return refused(use)


@given(content=anything)
@examples(150)
def test_any_json(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    read(json.dumps(content).encode(), tmp_path_factory.getbasetemp())


@given(polygons=st.lists(st.lists(ring | near, max_size=3), max_size=3), kind=st.sampled_from(KINDS[:3]))
@examples(150)
def test_any_polygons(polygons: list[list[Any]], kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    coordinates = (polygons or [[]])[0] if kind == "Polygon" else polygons
    read(json.dumps(shape(kind, coordinates)).encode(), tmp_path_factory.getbasetemp())


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    cut=st.none() | st.floats(0, 1),
    packed=st.booleans(),
)
@examples(100)
def test_any_bytes(
    changes: list[tuple[float, int]], cut: float | None, packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = json.dumps(FILE).encode()
    read(flipped(gzip.compress(content) if packed else content, changes, cut), tmp_path_factory.getbasetemp())


@given(anything | st.text(max_size=30))
@examples(60)
def test_any_roi_in_run_json(value: Any) -> None:
    refused(lambda: roi_of_run({"options": {"roi": value, "roi_origin": value}, "bounds_px": value}))
    refused(lambda: roi_of_run({"options": {"roi": "POLYGON ((0 0, 9 0, 9 9, 0 0))"}, "bounds_px": value}))


def nested(depth: int, leaf: str) -> str:
    opening = '{"type":"GeometryCollection","geometries":['
    return f'{{"type":"Feature","properties":{{}},"geometry":{opening * depth}{leaf}{"]}" * depth}}}'


LEAF = json.dumps({"type": "Polygon", "coordinates": [SQUARE]})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 700 + "]" * 700, "expected Features"),
        (nested(200, LEAF), "GeometryCollections in each other"),
        (json.dumps(shape("Polygon", [[[0, 0], [9, 0], [9, "[" * 99]]])), "two finite numbers"),
        (json.dumps(shape("Polygon", [[[0, 0], [9, 0], [float("nan"), 1]]])), "two finite numbers"),
        (json.dumps(shape("Polygon", [[[0, 0], [9, 0], [10**400, 1]]])), "expected pixels"),
        ('{"type":"Polygon","coordinates":[[[0,0],[9,0],[' + "[" * 300 + "]" * 300 + ",1]]]}", "two finite numbers"),
        (f'{{"type":"Polygon","coordinates":[[[0,0],[9,0],[{"9" * 5000},1]]]}}', "not GeoJSON"),
    ],
)
def test_json_that_is_meant_to_hurt(content: str, says: str, tmp_path: Path) -> None:
    message = read(content.encode(), tmp_path)
    assert message is not None
    assert says in message


def test_a_gzip_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.geojson.gz"
    blank = gzip.compress(b" " * 2**27)
    path.write_bytes(blank * 40)  # 5 GB in 5 MB
    message = in_little_memory(lambda: read_roi(path))
    assert message is not None
    assert "holds more than 256 MB" in message


@pytest.mark.parametrize("kind", ["scribble", "hatch", "wound", "star"])
def test_outlines_that_cross_without_end(kind: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "scribble": [shapely.Polygon(rng.uniform(0, 1e5, (20_000, 2)))],
        "hatch": [shapely.box(0, i, 9000, i + 0.5) for i in range(999)]
        + [shapely.box(i, 0, i + 0.5, 9000) for i in range(999)],
        "wound": [shapely.Polygon([(0, 0), (10, 0), (10, 10), (0, 10)] * 9000)],
        "star": [shapely.Polygon([place for i in range(9000) for place in ((0, 0), (1e4, i))])],
    }
    message = in_little_memory(lambda: joined(shapes[kind], "here"))
    assert message is not None
    assert "cross themselves and each other more than" in message


def test_outlines_that_only_touch_are_joined() -> None:
    areas = [shapely.box(x, y, x + 10, y + 10) for x in range(0, 600, 10) for y in range(0, 600, 10)]
    assert joined(areas, "here").area == 600 * 600


def test_an_area_of_next_to_nothing_is_none(tmp_path: Path) -> None:
    # Found by a campaign: above zero, and zero after its corners were put in order.
    message = read(
        json.dumps(shape("Polygon", [[[0.0, 0], [1.557823544257731e-181, 0], [-1.0, 1]]])).encode(), tmp_path
    )
    assert "the ROI has no area" in str(message)
