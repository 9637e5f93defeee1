"""Labels that are read wrongly are noticed by their size and by what lies under them; those in order are not."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.label_checks import check_labels, look_under, without_repeats
from celldetr.data.nucleus_parts import nuclei_of
from celldetr.data.readers.instance_maps import check_map, read_map
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.errors import DataWarning, InputError
from celldetr.io.left_out import LeftOut
from corpus.scene import HEIGHT, MPP, NUCLEI, WIDTH, pixels


def sample(shapes: Any = None, mpp: float = MPP, **changes: Any) -> Sample:
    boxes = np.array([n.box for n in NUCLEI] if shapes is None else shapes, dtype=np.float32)
    points = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32)
    types = np.array([n.kind == "immune" for n in NUCLEI][: len(boxes)], dtype=np.int64)
    types = changes.pop("types", types)
    return Sample("a", pixels(), mpp, boxes, types, ("tumour", "immune"), points, **changes)


def test_labels_in_order_pass_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        check_labels([sample()], Path("a"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda xy: xy[:, ::-1], "exchanged"),
        (lambda xy: xy * MPP, "micrometres|twice as fine"),
        (lambda xy: xy * [1, -1] + [0, HEIGHT], "from the bottom"),
        (lambda xy: xy * [-1, 1] + [WIDTH, 0], "mirrored"),
        (lambda xy: [WIDTH, HEIGHT] - xy, "upside down"),
        (lambda xy: xy / 4, "4 times|quarter"),
        (lambda xy: xy - 7, "corners"),
    ],
)
def test_places_read_otherwise_are_told(change: Any, words: str) -> None:
    made = sample()
    points = np.asarray(change(made.points.astype(np.float64)), dtype=np.float32)
    inside = ((points >= 0) & (points < [WIDTH, HEIGHT])).all(1)
    moved = replace(made, points=points, boxes=made.boxes + np.tile(points - made.points, 2)).keep(inside)
    assert look_under([made]).is_wrong is False
    assert look_under([moved]).is_wrong
    with pytest.raises(InputError, match=f"do not lie on nuclei, but would if .*({words})"):
        check_labels([moved], Path("a"))


@pytest.mark.parametrize("shift", [(25, 18), (-30, 5), (0, -22)])
def test_labels_that_are_shifted_are_told_by_how_much(shift: tuple[int, int]) -> None:
    made = sample()
    points = made.points + np.float32(shift)
    inside = ((points >= 0) & (points < [WIDTH, HEIGHT])).all(1)
    moved = replace(made, points=points, boxes=made.boxes + np.tile(np.float32(shift), 2)).keep(inside)
    with pytest.raises(InputError, match="px further right") as refused:
        check_labels([moved], Path("a"))
    told = [int(number) for number in re.findall(r"([+-]\d+) px", str(refused.value))]
    assert np.abs(np.add(told, shift)).max() <= 4  # within a nucleus, which is dark all over


def test_labels_of_another_image_are_doubted() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform((10, 10), (WIDTH - 10, HEIGHT - 10), (400, 2))
    far = [p for p in places if all(np.hypot(p[0] - n.x, p[1] - n.y) > 12 for n in NUCLEI)][:40]
    with pytest.warns(DataWarning, match="no darker places than chance"):
        check_labels([sample([[x - 6, y - 6, x + 6, y + 6] for x, y in far])], Path("a"))


@pytest.mark.parametrize(
    ("factor", "outcome"), [(0.125, "refused"), (0.5, "doubt"), (1, ""), (2, "doubt"), (8, "refused")]
)
def test_sizes_tell_the_resolution(factor: float, outcome: str) -> None:
    made = sample(mpp=MPP * factor)
    size = float(np.median(np.sqrt([4 * n.a * n.b for n in NUCLEI]))) * MPP * factor
    likely = f"rather near {MPP:.2g}?"
    if outcome == "refused":
        with pytest.raises(InputError, match=re.escape(f"{size:.1f} um in the median") + ".*" + re.escape(likely)):
            check_labels([made], Path("a"))
    elif outcome == "doubt":
        with pytest.warns(DataWarning, match=re.escape(likely)):
            check_labels([made], Path("a"))
    if outcome:  # a card that knows better is believed
        check_labels([made], Path("a"), (size / 2, size * 2))


def test_what_is_labelled_twice_counts_once(recwarn: Any) -> None:
    made = sample()
    order = np.random.default_rng(0).permutation(2 * len(made))
    boxes = np.concatenate([made.boxes, made.boxes + 0.5])[order]
    types = np.concatenate([made.types, np.where(np.arange(len(made)) < 5, 1 - made.types, UNKNOWN)])[order]
    doubled = sample(boxes, types=types)
    left = LeftOut("a", "counted")
    once = without_repeats(doubled, left)
    left.tell()
    assert len(once) == len(made)
    nearest = np.abs(once.boxes[:, None] - made.boxes).max(2).argmin(1)
    expected = np.where(nearest < 5, UNKNOWN, made.types[nearest])
    assert once.types.tolist() == expected.tolist()
    assert f"{len(made)} nuclei that are labelled twice" in str(recwarn[-1].message)
    assert "5 of them with two types" in str(recwarn[-1].message)


def disc(x: float, y: float, radius: float, b: float | None = None) -> shapely.Polygon:
    turn = np.linspace(0, 2 * math.pi, 60)
    return shapely.Polygon(np.column_stack([x + radius * np.cos(turn), y + (b or radius) * np.sin(turn)]))


def cut(area: shapely.Polygon, *lines: shapely.Polygon) -> shapely.Geometry:
    return shapely.difference(area, shapely.union_all(lines))


@pytest.mark.parametrize(
    ("area", "count"),
    [
        (disc(50, 50, 12), 1),
        (shapely.MultiPolygon([disc(50, 50, 12), disc(90, 50, 12)]), 2),  # apart
        (shapely.MultiPolygon([disc(50, 50, 12), disc(75, 50, 12)]), 2),  # a pixel apart
        (shapely.MultiPolygon([disc(50, 50, 12), disc(74, 50, 12), disc(62, 71, 12)]), 3),
        (shapely.MultiPolygon([shapely.box(0, 0, 24, 24), shapely.box(25, 0, 49, 24)]), 2),  # a straight border
        (cut(disc(50, 50, 12), shapely.box(49, 0, 51, 99)), 1),  # halves
        (cut(disc(50, 50, 14, 9), shapely.box(0, 49.5, 99, 50.5)), 1),  # halves along
        (cut(disc(50, 50, 12), shapely.box(49.5, 0, 50.5, 99), shapely.box(0, 49.5, 99, 50.5)), 1),  # quarters
        (shapely.MultiPolygon([disc(50, 50, 12), disc(63, 58, 2)]), 1),  # a crumb
    ],
)
def test_nuclei_and_their_pieces(area: shapely.Geometry, count: int) -> None:
    nuclei = nuclei_of(area, 0.25)
    assert len(nuclei) == count
    assert sum(each.area for each in nuclei) == pytest.approx(area.area)


def drawn_map() -> NDArray[np.int32]:
    instances = np.zeros((HEIGHT, WIDTH), np.int32)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for number, n in enumerate(NUCLEI, 1):
        instances[np.hypot((x - n.x) / n.a, (y - n.y) / n.b) <= 1] = number
    return instances


def test_maps_of_classes_are_refused() -> None:
    instances = drawn_map()
    check_map(instances, Path("a.png"), MPP)
    for damaged in (np.minimum(instances, 1), instances % 20, np.where(instances > 0, instances % 2 + 1, 0)):
        with pytest.raises(InputError, match=r"of several nuclei that lie apart; is it a map of classes"):
            check_map(damaged, Path("a.png"), MPP)
    seam = instances.copy()
    seam[:, 100] = 0  # a line through some nuclei
    check_map(seam, Path("a.png"), MPP)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_maps_whose_background_is_a_number_are_refused(kind: type[np.integer]) -> None:
    instances = (drawn_map() - 1).astype(kind)  # -1 becomes the largest number of a type without sign
    if kind is np.int32:
        instances[instances < 0] = 1000
    instances[0, 0] = 3
    with pytest.raises(InputError, match=r"covers most of it, as the background does, which must be 0"):
        check_map(instances, Path("a.png"), MPP)
    large = np.zeros((40, 40), np.int32)
    large[:, 5:] = 1  # a nucleus larger than its crop
    check_map(large, Path("a.png"), MPP)


@pytest.mark.parametrize(
    "options",
    [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib", "predictor": True}, {"tile": (64, 64)}],
)
def test_maps_in_all_kinds_of_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", drawn_map().astype(np.uint16), **options)
    np.testing.assert_array_equal(read_map(tmp_path / "a.tif"), drawn_map())


def test_maps_of_which_nobody_knows_what_they_show_are_refused(tmp_path: Path) -> None:
    instances = drawn_map()
    pages, turned, lossy, signed = (tmp_path / name for name in ("p.tif", "t.png", "l.jpg", "s.tif"))
    tifffile.imwrite(pages, np.stack([instances > 0, instances]).astype(np.uint16), photometric="minisblack")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(instances).astype(np.uint16)).save(turned, exif=exif)
    Image.fromarray(instances.astype(np.uint8)).save(lossy, quality=100)
    tifffile.imwrite(signed, instances - 1)
    said = {pages: "2 pages", turned: "stored turned", lossy: "JPEG changes", signed: "expected one whole number >= 0"}
    for path, text in said.items():
        with pytest.raises(InputError, match=text):
            read_map(path)
