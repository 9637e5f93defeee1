"""QuPath's GeoJSON: which objects are cells, what regions delimit, and that pixels and labels meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from celldetr.data.card import DatasetCard
from celldetr.data.readers.qupath_objects import read_objects
from celldetr.data.sources import load_samples
from celldetr.demo_slide import sample_slide
from celldetr.errors import InputError
from helpers.qupath import disc, feature, write


def picture(folder: Path, size: tuple[int, int] = (300, 200), name: str = "a.png") -> np.ndarray:
    """A gradient, so that every place has its own colour."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = np.stack([x % 256, y % 256, (x + y) // 4 % 256], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return pixels


def card(folder: Path, **changes: Any) -> DatasetCard:
    values: dict[str, Any] = {
        "name": "own", "title": "Own", "format": "qupath_geojson", "root": str(folder), "mpp": 0.5,
        "types": {"tumour": ["Tumor"], "immune": ["Immune cells"]}, "splits": {"all": ["a"]},
        "licence": "none", "citation": "",
    }  # fmt: skip
    return DatasetCard.model_validate(values | changes)


def test_polygons_become_their_bounds_and_points_get_boxes(tmp_path: Path) -> None:
    pixels = picture(tmp_path)
    cell = feature(
        disc(100, 100, 12), "cell", "Immune cells", nucleusGeometry=json.loads(shapely.to_geojson(disc(98, 101, 5)))
    )
    points = feature(shapely.MultiPoint([(200, 50), (220, 60)]), "annotation")
    write(tmp_path, [feature(disc(40, 50)), cell, points, feature(disc(60, 150, 7), "annotation", None)])
    (sample,) = load_samples(card(tmp_path), "all")
    assert np.array_equal(sample.image, pixels)
    assert (sample.name, sample.group, sample.mpp) == ("a", "a", 0.5)
    assert sample.types.tolist() == [0, 1, 0, 0, -1]
    assert sample.boxes[0].tolist() == pytest.approx([34, 44, 46, 56])
    assert sample.boxes[1].tolist() == pytest.approx([93, 96, 103, 106])  # the nucleus, not the cell
    assert sample.points[2:4].tolist() == [[200, 50], [220, 60]]
    assert sample.derived_boxes
    low, high = sample.boxes[2:4, :2], sample.boxes[2:4, 2:]
    assert (low < sample.points[2:4]).all()
    assert (high > sample.points[2:4]).all()


def test_only_what_lies_in_a_region_is_seen(tmp_path: Path) -> None:
    """A rectangle is cut out as it is; of a triangle the rest of its bounds is painted over."""
    pixels = picture(tmp_path)
    regions = [
        feature(shapely.box(10, 20, 110, 90), "annotation", "Region*"),
        feature(shapely.Polygon([(150, 100), (290, 100), (150, 190)]), "annotation", "Region*"),
    ]
    inside, corner, outside = feature(disc(160, 110)), feature(disc(280, 180)), feature(disc(130, 50))
    write(tmp_path, [*regions, feature(disc(15, 25)), feature(disc(109, 50)), inside, corner, outside])
    samples = {s.image.shape[:2]: s for s in load_samples(card(tmp_path), "all")}
    rectangle, triangle = samples[70, 100], samples[90, 140]
    assert np.array_equal(rectangle.image, pixels[20:90, 10:110])
    assert rectangle.points.tolist() == [[5, 5], [99, 30]]
    assert rectangle.boxes[0].tolist() == pytest.approx([0, 0, 11, 11])  # clipped
    assert rectangle.boxes[1].tolist() == pytest.approx([93, 24, 100, 36])
    assert triangle.points.tolist() == [[10, 10]]
    assert np.array_equal(triangle.image[:20, :20], pixels[100:120, 150:170])
    assert len(np.unique(triangle.image[60:, 100:].reshape(-1, 3), axis=0)) == 1
    assert {s.group for s in samples.values()} == {"a"}
    assert len({s.name for s in samples.values()}) == 2


def test_large_regions_come_in_pieces_that_lose_no_cell(tmp_path: Path) -> None:
    pixels = picture(tmp_path, (2100, 900))
    rng = np.random.default_rng(0)
    centres = rng.uniform((10, 10), (2090, 890), (200, 2))
    write(tmp_path, [feature(disc(x, y)) for x, y in centres])
    samples = load_samples(card(tmp_path), "all")
    assert len(samples) == 6  # pieces of at most 400 um
    assert sum(s.image.size for s in samples) == pixels.size
    assert sum(len(s) for s in samples) == 200
    for sample in samples:
        x, y = (int(part.partition("=")[2]) for part in sample.name.split("[")[1].split(",")[:2])
        height, width = sample.image.shape[:2]
        assert np.array_equal(sample.image, pixels[y : y + height, x : x + width])
        for point in sample.points + np.array([x, y]):
            assert np.abs(centres - point).sum(1).min() < 1e-2


def test_of_a_large_image_without_regions_only_places_with_cells_are_read(tmp_path: Path) -> None:
    picture(tmp_path, (4000, 800))
    write(tmp_path, [feature(disc(50, 50)), feature(disc(3900, 700))])
    assert [len(sample) for sample in load_samples(card(tmp_path), "all")] == [1, 1]


@pytest.mark.parametrize(
    ("name", "image"), [("a.geojson.gz", "a.png"), ("s.geojson", "s.tif"), ("b.geojson", "only.jpg")]
)
def test_the_image_is_the_one_of_the_name_or_the_only_one(name: str, image: str, tmp_path: Path) -> None:
    picture(tmp_path, name=image)
    write(tmp_path, [feature(disc(40, 50))], name)
    (sample,) = load_samples(card(tmp_path, splits={"all": "."}), "all")
    assert len(sample) == 1
    picture(tmp_path, name="other.png")
    picture(tmp_path, name="another.png")
    if image.startswith("only"):
        with pytest.raises(InputError, match="no image or slide called 'b'"):
            load_samples(card(tmp_path, splits={"all": "."}), "all")


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([feature(disc(40, 50), name="Tumour")], "object 1: label 'Tumour'.*'Tumor'"),
        (
            [feature(disc(400, 50))],
            r"object 1.*\(400, 50\).*300 x 200 px",
        ),
        ([feature(disc(150, 100, 90))], "object 1.*90 x 90 um"),
        (
            [feature(shapely.box(0, 0, 99, 99), "annotation"), feature(disc(40, 50))],
            "object 1: annotation Tumor lies around",
        ),
        ([feature(shapely.LineString([(0, 0), (9, 9)]))], "object 1 is a LineString"),
    ],
)
def test_what_is_no_cell_is_named(features: list[dict[str, Any]], says: str, tmp_path: Path) -> None:
    picture(tmp_path)
    write(tmp_path, features)
    with pytest.raises(InputError, match=says):
        load_samples(card(tmp_path), "all")


def test_an_image_without_resolution_says_what_to_do(tmp_path: Path) -> None:
    picture(tmp_path)
    write(tmp_path, [feature(disc(40, 50))])
    with pytest.raises(InputError, match="mpp"):
        load_samples(card(tmp_path, mpp=None), "all")


def test_outlines_beside_regions_and_ignored_objects_are_no_types(tmp_path: Path) -> None:
    outline = feature(shapely.box(0, 0, 200, 150), "annotation", "Tumor")
    region = feature(shapely.box(0, 0, 150, 150), "annotation", "Region*")
    tile = feature(shapely.box(0, 0, 50, 50), "tile", "Tumor")
    path = write(tmp_path, [outline, region, tile, feature(disc(40, 50)), feature(disc(80, 50), name="Ignore*")])
    objects = read_objects(path)
    assert objects.classes == ["Tumor", ""]
    assert objects.regions is not None
    assert len(objects.regions) == 1


def test_derived_classes_are_named_as_qupath_shows_them(tmp_path: Path) -> None:
    one = feature(disc(40, 50), name=None)
    one["properties"]["classification"] = {"names": ["Tumor", "Positive"]}
    assert read_objects(write(tmp_path, [one])).classes == ["Tumor: Positive"]


def test_a_region_of_a_slide_is_what_openslide_reads_there(tmp_path: Path) -> None:
    """The sample slide knows its resolution; the file is beside it under another name, and the only one."""
    import openslide

    (tmp_path / "slide.svs").symlink_to(sample_slide())
    write(tmp_path, [feature(shapely.box(1000, 1500, 1300, 1700), "annotation", "train"), feature(disc(1100, 1600))])
    (sample,) = load_samples(card(tmp_path, mpp=None), "all")
    with openslide.OpenSlide(sample_slide()) as slide:
        wanted = np.asarray(slide.read_region((1000, 1500), 0, (300, 200)).convert("RGB"))
    assert np.array_equal(sample.image, wanted)
    assert sample.points.tolist() == [[100, 100]]
    assert sample.mpp == pytest.approx(0.499)


def test_objects_of_qupath_before_0_3_and_cores(tmp_path: Path) -> None:
    """The kind of an object was the id of its Feature."""
    nucleus = json.loads(shapely.to_geojson(disc(98, 101, 5)))
    old = [
        feature(disc(40, 50, 40)) | {"id": "TMACoreObject"},
        feature(shapely.box(0, 0, 99, 99)) | {"id": "PathTileObject"},
        feature(disc(100, 100, 12), nucleusGeometry=nucleus) | {"id": "PathCellObject"},
        feature(disc(40, 50)) | {"id": "PathDetectionObject"},
        feature(shapely.box(5, 5, 150, 150), name="Region*") | {"id": "PathAnnotationObject"},
    ]
    for item in old:
        del item["properties"]["objectType"]
    found = read_objects(write(tmp_path, [*old, feature(disc(60, 60, 50), "tma_core", None)]))
    assert found.boxes[:, 0].tolist() == pytest.approx([93, 34])
    assert found.regions is not None


def test_a_classification_may_be_its_name(tmp_path: Path) -> None:
    item = feature(disc(40, 50))
    item["properties"]["classification"] = "Immune cells"
    assert read_objects(write(tmp_path, [item])).classes == ["Immune cells"]


def test_nuclei_drawn_by_hand_may_overlap(tmp_path: Path) -> None:
    """Each lies over the other's centre; around one that is much smaller, a detection, or two, it is an outline."""
    pair = [feature(disc(40, 50, 8), "annotation"), feature(disc(45, 50, 8), "annotation")]
    assert len(read_objects(write(tmp_path, pair)).boxes) == 2
    drawn = [feature(disc(36, 50, 6), "annotation"), feature(disc(44, 50, 6), "annotation")]
    for outlined in ([feature(disc(40, 50, 3), "annotation")], [feature(disc(40, 50, 8))], drawn):
        with pytest.raises(InputError, match="lies around other objects"):
            read_objects(write(tmp_path, [feature(disc(40, 50, 9), "annotation"), *outlined]))
