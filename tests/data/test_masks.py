"""Masks: drawing against a loop over pixels, moving, and reading them from every format that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from celldetr.data.augment import orient
from celldetr.data.card import DatasetCard
from celldetr.data.masks import InstanceMap, Polygons, draw, number_nuclei
from celldetr.data.readers.coco_masks import read_area
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.data.tiling import cut
from celldetr.errors import InputError
from helpers.qupath import disc, feature, write


def random_areas(seed: int, count: int = 12, side: int = 40) -> np.ndarray:
    """Stars around random centres, some beyond the border, one of two parts and one missing."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (count, 9)))
    rays = np.stack([np.cos(angles), np.sin(angles)], -1) * rng.uniform(2, 9, (count, 9, 1))
    areas = shapely.polygons(rng.uniform(0, side, (count, 1, 2)) + rays).astype(object)
    areas[0] = shapely.MultiPolygon([shapely.box(1.2, 1.2, 5.6, 4), shapely.box(8.3, 1.1, 9.9, 7)])
    areas[1] = None
    return areas


def drawn_slowly(areas: np.ndarray, order: list[int], shape: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(shape, int)
    for y in range(shape[0]):
        for x in range(shape[1]):
            over = [i for i in order if areas[i] is not None and areas[i].contains(shapely.Point(x + 0.5, y + 0.5))]
            canvas[y, x] = over[-1] + 1 if over else 0
    return canvas


@pytest.mark.parametrize("seed", range(3))
def test_a_pixel_belongs_to_the_last_polygon_over_its_centre(seed: int) -> None:
    areas, shape = random_areas(seed), (36, 40)
    order = np.random.default_rng(seed).permutation(len(areas)).tolist()
    assert np.array_equal(draw(areas, order, shape), drawn_slowly(areas, order, shape))
    small_last = sorted(range(len(areas)), key=lambda i: -areas[i].area if areas[i] else 0)
    assert np.array_equal(Polygons(areas).map(shape), drawn_slowly(areas, small_last, shape))
    assert not Polygons(areas).complete
    assert Polygons(areas[2:]).complete


def labelled(masks: Any, boxes: np.ndarray, shape: tuple[int, int]) -> Sample:
    points = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32)
    image = np.zeros((*shape, 3), np.uint8)
    types = np.zeros(len(boxes), np.int64)
    return Sample("a", image, 0.5, boxes.astype(np.float32), types, ("a",), points, masks=masks)


def discs() -> tuple[np.ndarray, np.ndarray]:
    """Twelve discs on a grid, as areas, and their boxes."""
    areas = np.array([disc(20 + 40 * (i % 4), 20 + 40 * (i // 4), 6 + i) for i in range(12)], dtype=object)
    return areas, shapely.bounds(areas)


@pytest.mark.parametrize("kind", ["map", "polygons"])
def test_masks_go_with_their_nuclei(kind: str) -> None:
    areas, boxes = discs()
    shape = (120, 160)
    masks = Polygons(areas) if kind == "polygons" else InstanceMap(Polygons(areas).map(shape))
    sample = labelled(masks, boxes, shape)
    for made in (sample.keep(np.arange(12) % 3 > 0), rescale(sample, 0.25), rescale(sample, 0.7)):
        assert made.masks is not None
        found = made.masks.map(made.image.shape)
        assert found.shape == made.image.shape[:2]
        assert found.max() == len(made)
        for i, box in enumerate(made.boxes, 1):
            y, x = np.nonzero(found == i)
            assert np.allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], box, atol=1.5)
    assert orient(sample, 3).masks is None


@pytest.mark.parametrize("kind", ["map", "polygons"])
def test_pieces_have_the_masks_of_their_nuclei(kind: str) -> None:
    areas = np.array([disc(100 * i + 50, 60, 30) for i in range(20)], dtype=object)
    shape = (130, 2000)
    whole = Polygons(areas).map(shape)
    sample = labelled(Polygons(areas) if kind == "polygons" else InstanceMap(whole), shapely.bounds(areas), shape)
    pieces = list(cut(sample))
    assert len(pieces) == 3
    assert sum(map(len, pieces)) == 20
    left = 0
    for piece in pieces:
        assert piece.masks is not None
        found, (height, width) = piece.masks.map(piece.image.shape), piece.image.shape[:2]
        there = whole[:height, left : left + width]
        # A nucleus whose centre is in another piece is none here.
        own = np.isin(there, np.unique(there[60])[1:] if len(piece) else [])
        for i, box in enumerate(piece.boxes, 1):
            assert (found[:, int(box[0]) + 1 : int(box[2]) - 1] == i).any()
        assert (found > 0).sum() <= own.sum()
        assert found.max() == len(piece)
        left += width


# ---- COCO


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths by a loop over pixels, column by column."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compressed(runs: list[int]) -> str:
    """Run lengths as text, after the description of the format in pycocotools."""
    out = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            five = value & 31
            value >>= 5
            more = value != (-1 if five & 16 else 0)
            out += chr((five | 32 if more else five) + 48)
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", [False, True])
def test_run_lengths_are_their_pixels(seed: int, text: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((23, 31)) < (0.5, 0.03, 0.97, 0.2)[seed]
    if seed == 3:
        mask[:, 5:9], mask[0, 0], mask[-1, -1] = True, True, True
    runs = runs_of(mask)
    area = read_area({"size": [23, 31], "counts": compressed(runs) if text else runs}, (23, 31, 3), "here")
    assert area is not None
    assert area.area == mask.sum()
    assert np.array_equal(draw(np.array([area], dtype=object), [0], (23, 31)) > 0, mask)


def test_published_run_lengths() -> None:
    """An example of the COCO tools: three background pixels, then two of the object in a 3 x 3 image."""
    area = read_area({"size": [3, 3], "counts": "324"}, (3, 3), "here")
    assert shapely.equals(area, shapely.box(1, 0, 2, 2))


@pytest.mark.parametrize(
    ("segmentation", "empty"),
    [
        (None, True),
        ([], True),
        ([[0, 0, 1, 1]], True),  # two points
        ({"size": [20, 30], "counts": [600]}, True),
        ([[0, 0, 4, 0, 4, 4]], False),
        ("text", None),
        ([[0, 0, 4, 0, 4]], None),
        ([[0, 0, 4, 0, float("nan"), 4]], None),
        ([{"x": 1}], None),
        ({"size": [30, 20], "counts": [600]}, None),
        ({"size": [20, 30], "counts": [599]}, None),
        ({"size": [20, 30], "counts": [601, -1]}, None),
        ({"size": [20, 30], "counts": "~~~~~~~~~~~~~~~~"}, None),
        ({"size": [20, 30], "counts": [10**30]}, None),
        ({"size": [20, 30], "counts": {"a": 1}}, None),
        ({"size": [20, 30]}, None),
    ],
)
def test_other_segmentations(segmentation: Any, empty: bool | None) -> None:
    if empty is None:
        with pytest.raises(InputError, match=r"here: (segmentation must be|run lengths must be)"):
            read_area(segmentation, (20, 30), "here")
    else:
        assert (read_area(segmentation, (20, 30), "here") is None) == empty


# ---- readers


def made_card(folder: Path, **values: Any) -> DatasetCard:
    base = {"name": "own", "title": "Own", "root": str(folder), "mpp": 0.5, "licence": "none", "citation": ""}
    return DatasetCard.model_validate(base | {"types": {"nucleus": []}} | values)


def coco_set(folder: Path) -> DatasetCard:
    areas, _ = discs()
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(folder / "a.png")
    annotations = []
    for area in areas:
        x0, y0, x1, y1 = area.bounds
        ring = np.array(area.exterior.coords).ravel().tolist()
        annotations.append(
            {"image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [ring]}
        )
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "n"}],
        "annotations": annotations,
    }
    (folder / "c.json").write_text(json.dumps(content))
    return made_card(folder, format="coco", splits={"all": "c.json"}, options={"images": "."})


def qupath_set(folder: Path) -> DatasetCard:
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(folder / "a.png")
    write(folder, [feature(area) for area in discs()[0]])
    return made_card(folder, format="qupath_geojson", splits={"all": ["a"]})


def map_set(folder: Path) -> DatasetCard:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(folder / "images/a.png")
    numbers = Polygons(discs()[0]).map((120, 160)) * 7
    Image.fromarray(numbers.astype(np.uint16)).save(folder / "labels/a.png")
    return made_card(
        folder, format="instance_maps", splits={"all": ["a.png"]}, options={"images": "images", "labels": "labels"}
    )


def pannuke_set(folder: Path) -> DatasetCard:
    numbers = Polygons(discs()[0]).map((120, 160))
    masks = np.stack([np.where(numbers % 2 == k, numbers, 0) for k in (0, 1)] + [numbers == 0], -1)[None]
    np.save(folder / "i.npy", np.zeros((1, 120, 160, 3), np.uint8))
    np.save(folder / "m.npy", masks.astype(np.float64))
    options = {"images": "i.npy", "masks": "m.npy", "tissues": ""}
    return made_card(folder, format="pannuke", splits={"all": 1}, types={"a": [0], "b": [1]}, options=options)


@pytest.mark.parametrize("make", [coco_set, qupath_set, map_set, pannuke_set])
def test_every_format_with_masks_reads_the_same(make: Any, tmp_path: Path) -> None:
    card = make(tmp_path)
    areas, _ = discs()
    (sample,) = load_samples(card, "all", shapes="masks")
    assert sample.masks is not None
    assert sample.masks.complete
    assert sample.outlines is None
    found, true = sample.masks.map(sample.image.shape), Polygons(areas).map((120, 160))
    assert np.array_equal(found > 0, true > 0)
    for i, point in enumerate(sample.points.astype(int), 1):
        assert found[point[1], point[0]] == i
    (outlined,) = load_samples(card, "all", shapes="outlines")
    assert outlined.masks is None
    assert outlined.outlines is not None
    order = true[tuple(sample.points.astype(int).T[::-1])] - 1
    for points, area in zip(outlined.outlines, areas[order], strict=True):
        drawn = shapely.Polygon(points)
        assert drawn.intersection(area).area / drawn.union(area).area > 0.9
    (plain,) = load_samples(card, "all")
    assert plain.masks is None
    assert plain.outlines is None


def test_doubtful_nuclei_teach_a_box_and_no_outline(tmp_path: Path) -> None:
    """A disc, and two discs that a watershed would have cut."""
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(tmp_path / "a.png")
    pair = shapely.union(disc(80, 60, 12), disc(102, 60, 12))
    write(tmp_path, [feature(disc(30, 60, 12)), feature(pair)])
    for least, known in ((0.0, [True, True]), (0.93, [True, False])):
        card = made_card(tmp_path, format="qupath_geojson", splits={"all": ["a"]}, least_solidity=least)
        (sample,) = load_samples(card, "all", shapes="outlines")
        assert sample.outlines is not None
        assert np.isfinite(sample.outlines).all((1, 2)).tolist() == known
        assert len(sample.boxes) == 2
        (masked,) = load_samples(card, "all", shapes="masks")
        assert masked.masks is not None
        assert masked.masks.complete


def test_points_beside_polygons_have_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.full((120, 160, 3), 200, np.uint8)).save(tmp_path / "a.png")
    card = made_card(tmp_path, format="qupath_geojson", splits={"all": ["a"]})
    point = feature(shapely.MultiPoint([(100, 50)]), "annotation")
    write(tmp_path, [feature(disc(40, 50, 8)), point])
    (both,) = load_samples(card, "all", shapes="masks")
    assert both.masks is not None
    assert not both.masks.complete
    (outlined,) = load_samples(card, "all", shapes="outlines")
    assert outlined.outlines is not None
    assert np.isfinite(outlined.outlines).all((1, 2)).tolist() == [True, False]
    write(tmp_path, [point])
    (alone,) = load_samples(card, "all", shapes="masks")
    assert alone.masks is None


def test_later_channels_of_pannuke_own_shared_pixels(tmp_path: Path) -> None:
    masks = np.zeros((1, 16, 16, 3))
    masks[0, 2:8, 2:8, 0], masks[0, 6:12, 6:12, 1] = 1, 1
    np.save(tmp_path / "i.npy", np.zeros((1, 16, 16, 3), np.uint8))
    np.save(tmp_path / "m.npy", masks)
    options = {"images": "i.npy", "masks": "m.npy", "tissues": ""}
    card = made_card(tmp_path, format="pannuke", splits={"all": 1}, types={"a": [0], "b": [1]}, options=options)
    (sample,) = load_samples(card, "all", shapes="masks")
    assert sample.masks is not None
    found = sample.masks.map((16, 16))
    assert ((found == 1).sum(), (found == 2).sum()) == (36 - 4, 36)
    assert sample.boxes.tolist() == [[2, 2, 8, 8], [6, 6, 12, 12]]


def test_numbers_of_a_map_become_places() -> None:
    raw = np.array([[0, 9, 9], [4, 0, 70_000]])
    numbers, masks = number_nuclei(raw)
    assert numbers.tolist() == [4, 9, 70_000]
    assert masks.numbers.tolist() == [[0, 2, 2], [1, 0, 3]]
    assert masks.keep(np.array([True, False, True])).numbers.tolist() == [[0, 0, 0], [1, 0, 2]]
