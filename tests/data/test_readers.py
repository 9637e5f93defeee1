"""Each format reads back what was written in it, and a card or a file that lies is named, with row and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celldetr.data.card import load_card
from celldetr.data.masks import number_nuclei
from celldetr.data.sample import UNKNOWN
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from helpers.folders import HEIGHT, WIDTH, write_card, write_csv, write_image, write_instances

BOXES = {3: (4, 5, 10, 9), 700: (20, 30, 60, 40)}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLDETR_DATA", raising=False)


def write_points(folder: Path, rows: list[list[Any]]) -> None:
    write_image(folder / "train/images/a.png")
    write_csv(folder / "train/labels/a.csv", rows)


# ---- points


def test_points_without_header(tmp_path: Path) -> None:
    write_points(tmp_path, [[10, 20, "r"], [30.5, 8, "e"]])
    (sample,) = load_samples(write_card(tmp_path), "train")
    assert sample.name == "a"
    assert sample.points.tolist() == [[10, 20], [30.5, 8]]
    assert sample.types.tolist() == [0, 1]
    assert (sample.mpp, sample.type_names, sample.group) == (0.5, ("round", "long"), "a")
    assert (sample.boxes[:, :2] <= sample.points).all()
    assert (sample.boxes[:, 2:] >= sample.points).all()


def test_points_with_header_in_another_order_and_offset(tmp_path: Path) -> None:
    write_points(tmp_path, [["id", "kind", "y", "x"], [1, "l", 20, 10]])
    card = write_card(tmp_path, options={"label": "kind", "offset": 0.5})
    (sample,) = load_samples(card, "train")
    assert sample.points.tolist() == [[10.5, 20.5]]
    assert sample.types.tolist() == [1]


@pytest.mark.parametrize("rows", [[], [["x", "y", "class"]]])
def test_an_image_without_nuclei(rows: list[list[Any]], tmp_path: Path) -> None:
    write_points(tmp_path, rows)
    (sample,) = load_samples(write_card(tmp_path), "train")
    assert len(sample) == 0
    assert sample.boxes.shape == (0, 4)


def test_a_single_type_needs_no_label(tmp_path: Path) -> None:
    write_points(tmp_path, [[10, 20], [11, 5]])
    (sample,) = load_samples(write_card(tmp_path, types={"nucleus": []}), "train")
    assert sample.types.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[10, 20, "r"], [10, 20, "q"]], r"a\.csv, row 2: label 'q'"),
        ([[10, 20, "r"], [10, "?", "r"]], r"a\.csv, row 2"),
        ([[10, HEIGHT + 5, "r"]], r"a\.csv, row 1: point \(10, 45\).*60 x 40 px"),
        ([["x", "y", "kind"], [1, 2, "r"]], r"a\.csv: no column 'class'"),
    ],
)
def test_a_lying_table_of_points(rows: list[list[Any]], message: str, tmp_path: Path) -> None:
    write_points(tmp_path, rows)
    with pytest.raises(InputError, match=message):
        load_samples(write_card(tmp_path), "train")


def test_brca_rows_are_y_x_class(tmp_path: Path) -> None:
    write_image(tmp_path / "images/TCGA-AA-BBBB-1.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/TCGA-AA-BBBB-1_gt_class_coords.txt").write_text("20 50 1\n3 4 2\n\n")
    (tmp_path / "list.txt").write_text("TCGA-AA-BBBB-1.png\n")
    settings: dict[str, Any] = {"format": "brca_m2c", "types": {"a": [1], "b": [2]}, "splits": {"train": "list.txt"}}
    (sample,) = load_samples(write_card(tmp_path, **settings), "train")
    assert sample.points.tolist() == [[50.5, 20.5], [4.5, 3.5]]
    assert sample.types.tolist() == [0, 1]
    (tmp_path / "labels/TCGA-AA-BBBB-1_gt_class_coords.txt").write_text("20 50\n")
    with pytest.raises(InputError, match=r"row 1.*'20 50'"):
        load_samples(write_card(tmp_path, **settings), "train")


# ---- folders, lists, tables


def test_images_that_are_not_there_or_not_images(tmp_path: Path) -> None:
    write_points(tmp_path, [])
    with pytest.raises(InputError, match=r"no image 'b.png'"):
        load_samples(write_card(tmp_path, splits={"s": ["b.png"]}, options={"images": "train/images"}), "s")
    with pytest.raises(InputError, match=r"split 'train': no directory .*nowhere"):
        load_samples(write_card(tmp_path, splits={"train": "nowhere"}), "train")
    content = (tmp_path / "train/images/a.png").read_bytes()
    for broken in (content[: len(content) // 2], b"not an image", b""):
        (tmp_path / "train/images/a.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"a\.png: cannot be read as an image"):
            load_samples(write_card(tmp_path), "train")
    (tmp_path / "train/images/a.png").unlink()
    with pytest.raises(InputError, match="no image found"):
        load_samples(write_card(tmp_path), "train")


def test_missing_labels_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "train/images/a.png")
    with pytest.raises(InputError, match=r"a\.csv: cannot be read"):
        load_samples(write_card(tmp_path), "train")


def test_two_images_of_one_name(tmp_path: Path) -> None:
    write_points(tmp_path, [])
    options = {"images": "train/images", "labels": "train/labels"}
    with pytest.raises(InputError, match="two images are named 'a'"):
        load_samples(write_card(tmp_path, splits={"s": ["a.png", "a"]}, options=options), "s")


def test_table_of_splits_and_resolutions(tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / f"images/{name}.png")
        write_csv(tmp_path / f"labels/{name}.csv", [])
    write_csv(
        tmp_path / "t.csv", [["file", "part", "res"], ["a.png", "x", 0.25], ["b.png", "y", 1], ["c.png", "x", 0.5]]
    )
    table = {"file": "t.csv", "image": "file", "split": "part", "mpp": "res"}
    options = {"images": "images", "labels": "labels", "table": table}
    card = write_card(tmp_path, options=options, splits={"x": "x", "both": ["y", "x"], "z": "z"}, mpp=None)
    assert [(s.name, s.mpp) for s in load_samples(card, "x")] == [("a", 0.25), ("c", 0.5)]
    assert len(load_samples(card, "both")) == 3
    with pytest.raises(InputError, match=r"t\.csv: no image of split 'z'"):
        load_samples(card, "z")
    write_csv(tmp_path / "t.csv", [["file", "part", "res"], ["a.png", "x", "fine"]])
    with pytest.raises(InputError, match=r"image 'a.png': mpp must be above 0, got 'fine'"):
        load_samples(card, "x")
    write_csv(tmp_path / "t.csv", [["file", "part"], ["a.png", "x"]])
    with pytest.raises(InputError, match=r"t\.csv: no column 'res'"):
        load_samples(card, "x")
    with pytest.raises(InputError, match=r"mpp .* is missing"):
        load_samples(
            write_card(tmp_path, options=options | {"table": table | {"mpp": ""}}, splits={"x": "x"}, mpp=None), "x"
        )


def test_unknown_format_and_option_name_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format 'point_csv'; did you mean 'points_csv'"):
        load_samples(write_card(tmp_path, format="point_csv"), "train")
    with pytest.raises(InputError, match="unknown key 'offsett'; did you mean 'offset'"):
        load_samples(write_card(tmp_path, options={"offsett": 1}), "train")


# ---- instance maps


def instance_card(folder: Path, **options: Any) -> Any:
    write_image(folder / "train/images/a.png")
    options = {"suffix": "_inst.png", "types_suffix": "_types.json"} | options
    return write_card(folder, format="instance_maps", options=options)


def test_instances_become_their_exact_extents(tmp_path: Path) -> None:
    write_instances(tmp_path / "train", "a", BOXES, {3: "l", 700: "r"})
    (sample,) = load_samples(instance_card(tmp_path), "train")
    assert sample.boxes.tolist() == [list(box) for box in BOXES.values()]
    assert sample.types.tolist() == [1, 0]
    assert sample.points.tolist() == [[7, 7], [40, 35]]


def test_extents_of_scattered_and_negative_free_maps() -> None:
    rng = np.random.default_rng(1)
    instances = rng.choice([0, 2, 9, 1_000_000], size=(17, 23), p=[0.9, 0.04, 0.03, 0.03])
    numbers, masks = number_nuclei(instances)
    boxes, areas = masks.extents()
    assert numbers.tolist() == [2, 9, 1_000_000]
    for number, box, area in zip(numbers, boxes, areas, strict=True):
        rows, columns = np.nonzero(instances == number)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert area == len(rows)
    assert number_nuclei(np.ones((2, 3), dtype=int))[1].extents()[0].tolist() == [[0, 0, 3, 2]]
    assert number_nuclei(np.zeros((2, 3), dtype=int))[1].extents()[0].shape == (0, 4)


def test_scale_from_the_median_nucleus(tmp_path: Path) -> None:
    write_instances(tmp_path / "train", "a", {1: (0, 0, 10, 10), 2: (20, 0, 30, 10)}, {})
    card = instance_card(tmp_path, median_diameter_um=8)
    card = card.model_copy(update={"types": {"nucleus": []}, "mpp": None})
    card._folder = tmp_path
    (sample,) = load_samples(card, "train")
    assert np.pi * (8 / sample.mpp / 2) ** 2 == pytest.approx(100)


def test_types_of_some_nuclei_come_from_a_file_beside_the_card(tmp_path: Path) -> None:
    write_instances(tmp_path / "train", "a", BOXES, {})
    (tmp_path / "types.csv").write_text(
        "# by hand\nimage,nucleus,x,y,type,named\na,700,40,35,e,single\nb,1,5,5,r,region\n"
    )
    card = instance_card(tmp_path, types_file="types.csv")
    (sample,) = load_samples(card, "train")
    assert sample.types.tolist() == [UNKNOWN, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,700,40,35,q", r"types\.csv, row 3: label 'q'"),
        ("a,seven,40,35,e", r"types\.csv, row 3: nucleus, x and y must be numbers"),
        ("a,700,40", r"types\.csv, row 3: nucleus, x and y must be numbers"),
        ("a,3,40,35,e", r"nucleus 3 of 'a' lies in \[4, 5, 10, 9\], not at \(40, 35\)"),
        ("a,9,40,35,e", r"the map of 'a' has no nucleus 9"),
        ("a,3,5,6,e\na,3,5,6,e", r"types\.csv, row 4: nucleus 3 of 'a' is there twice"),
    ],
)
def test_a_lying_file_of_types(row: str, message: str, tmp_path: Path) -> None:
    write_instances(tmp_path / "train", "a", BOXES, {})
    (tmp_path / "types.csv").write_text(f"# by hand\nimage,nucleus,x,y,type\n{row}\n")
    with pytest.raises(InputError, match=message):
        load_samples(instance_card(tmp_path, types_file="types.csv"), "train")


def test_lying_instance_maps(tmp_path: Path) -> None:
    card = instance_card(tmp_path)
    with pytest.raises(InputError, match=r"a_inst\.png: no such instance map"):
        load_samples(card, "train")
    write_instances(tmp_path / "train", "a", BOXES, {3: "l"})
    with pytest.raises(InputError, match=r"a_types\.json: no label for nucleus 700"):
        load_samples(card, "train")
    write_instances(tmp_path / "train", "a", BOXES, {3: "l", 700: "q"})
    with pytest.raises(InputError, match=r"nucleus 700: label 'q' is not in the card"):
        load_samples(card, "train")
    with pytest.raises(InputError, match=r"expected one whole number .* got uint8 of shape \(40, 60, 3\)"):
        load_samples(instance_card(tmp_path, labels="train/images", suffix=".png"), "train")
    np.save(tmp_path / "train/labels/a.npy", np.zeros((4, 4), dtype=int))
    with pytest.raises(InputError, match=r"a\.npy: \(4, 4\).*its image has \(40, 60\)"):
        load_samples(instance_card(tmp_path, suffix=".npy"), "train")


# ---- images without nuclei


def test_images_without_nuclei_or_the_part_of_one(tmp_path: Path) -> None:
    first, second = (write_image(tmp_path / f"glass/{name}.png", seed) for seed, name in enumerate("ab"))
    card = write_card(
        tmp_path, format="no_nuclei", splits={"train": "glass"}, options={"crops": {"b": [5, 10, WIDTH, 30]}}
    )
    whole, part = load_samples(card, "train")
    assert np.array_equal(whole.image, first)
    assert np.array_equal(part.image, second[10:30, 5:])
    assert len(whole) == len(part) == 0
    assert whole.boxes.shape == (0, 4)


@pytest.mark.parametrize("crop", [[0, 0, WIDTH + 1, 9], [9, 0, 9, 9]])
def test_a_part_that_leaves_its_image(tmp_path: Path, crop: list[int]) -> None:
    write_image(tmp_path / "glass/a.png")
    card = write_card(tmp_path, format="no_nuclei", splits={"train": "glass"}, options={"crops": {"a": crop}})
    with pytest.raises(InputError, match=rf"a\.png: crop .*{WIDTH} x {HEIGHT} px"):
        load_samples(card, "train")


# ---- COCO


def coco(**changes: Any) -> dict[str, Any]:
    values = {
        "images": [{"id": 5, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "r"}, {"id": 2, "name": "unlisted"}],
        "annotations": [
            {"image_id": 5, "category_id": 1, "bbox": [4, 5, 6, 4]},
            {"image_id": 5, "category_id": 1, "bbox": [-1, 0, 3, 2], "segmentation": [[0, 0, 1, 1]]},
            {"image_id": 5, "category_id": 1, "bbox": [0, 0, 30, 30], "iscrowd": 1},
        ],
    }
    return values | changes


def read_coco(folder: Path, content: Any, **changes: Any) -> Any:
    write_image(folder / "images/a.png")
    (folder / "c.json").write_text(json.dumps(content))
    return load_samples(write_card(folder, **({"format": "coco", "splits": {"all": "c.json"}} | changes)), "all")[0]


def test_coco_boxes_are_xywh_and_clipped(tmp_path: Path) -> None:
    sample = read_coco(tmp_path, coco())
    assert sample.boxes.tolist() == [[4, 5, 10, 9], [0, 0, 2, 2]]
    assert sample.types.tolist() == [0, 0]


def test_coco_by_category_id_inclusive_and_by_list(tmp_path: Path) -> None:
    changes = {
        "types": {"first": [1]},
        "options": {"annotations": "c.json", "inclusive": True},
        "splits": {"all": ["a.png"]},
    }
    sample = read_coco(tmp_path, coco(), **changes)
    assert sample.boxes[0].tolist() == [4, 5, 11, 10]
    assert sample.types.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not COCO: no list 'images'"),
        (coco(images=[{"id": 5}]), r"images\[0\] has no 'file_name'"),
        (coco(images=[{"id": 5, "file_name": "b.png"}]), r"b\.png: no such image"),
        (coco(images=[]), r"annotations\[0\] is of image 5"),
        (coco(categories=[]), r"annotations\[0\] is of category 1"),
    ],
)
def test_lying_coco(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_coco(tmp_path, content)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([50, 5, 20, 4], rf"annotations\[0\]: box \(50, 5, 70, 9\).*{WIDTH} x {HEIGHT} px"),
        ([5, 5, 0, 4], r"\(5, 5, 5, 9\)"),
        ([5, 5, float("nan"), 4], r"annotations\[0\]"),
        ([5, 5, 4], r"annotations\[0\]: bbox"),
    ],
)
def test_lying_coco_boxes(box: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_coco(tmp_path, coco(annotations=[{"image_id": 5, "category_id": 1, "bbox": box}]))


def test_coco_category_the_card_does_not_know(tmp_path: Path) -> None:
    content = coco(annotations=[{"image_id": 5, "category_id": 2, "bbox": [1, 1, 2, 2]}])
    with pytest.raises(InputError, match=r"annotations\[0\]: label 'unlisted' is not in the card"):
        read_coco(tmp_path, content)


# ---- PanNuke


def pannuke_card(folder: Path, **options: Any) -> Any:
    names = {"images": "f{split}_images.npy", "masks": "f{split}_masks.npy", "tissues": "f{split}_types.npy"}
    return write_card(folder, format="pannuke", splits={"f": 1}, types={"a": [0], "b": [1]}, options=names | options)


def write_fold(folder: Path, dtype: Any = np.float64) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(dtype)
    masks = np.zeros((2, 16, 16, 3), dtype=np.float64)
    masks[0, 2:5, 3:9, 0] = 4
    masks[0, 8:9, 0:1, 1] = 4  # the same number in another channel is another nucleus
    masks[..., 2] = 1 - masks[..., :2].max(-1)
    np.save(folder / "f1_images.npy", images)
    np.save(folder / "f1_masks.npy", masks)
    np.save(folder / "f1_types.npy", np.array(["Breast", "Colon"]))


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_pannuke_fold(dtype: Any, tmp_path: Path) -> None:
    write_fold(tmp_path, dtype)
    first, second = load_samples(pannuke_card(tmp_path), "f")
    assert (first.name, second.name) == ("fold1_0000_Breast", "fold1_0001_Colon")
    assert first.boxes.tolist() == [[3, 2, 9, 5], [0, 8, 1, 9]]
    assert first.types.tolist() == [0, 1]
    assert (first.tissue, second.tissue) == ("Breast", "Colon")
    assert not first.derived_boxes
    assert len(second) == 0
    assert np.array_equal(first.image, np.load(tmp_path / "f1_images.npy")[0].astype(np.uint8))
    (unnamed,) = load_samples(pannuke_card(tmp_path, tissues=""), "f", limit=1)
    assert (unnamed.name, unnamed.tissue) == ("fold1_0000", "")


def test_lying_pannuke(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"f1_images\.npy: no such array"):
        load_samples(pannuke_card(tmp_path), "f")
    write_fold(tmp_path)
    np.save(tmp_path / "f1_types.npy", np.array(["Breast", "Colon"], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"f1_types\.npy: cannot be read as a NumPy array without pickles"):
        load_samples(pannuke_card(tmp_path), "f")
    np.save(tmp_path / "f1_images.npy", np.full((2, 16, 16, 3), 300.0))
    with pytest.raises(InputError, match=r"image 0: pixel values must be 0 to 255, got 300 to 300"):
        load_samples(pannuke_card(tmp_path, tissues=""), "f")
    np.save(tmp_path / "f1_images.npy", np.zeros((3, 16, 16, 3)))
    with pytest.raises(InputError, match=r"do not fit images \(3, 16, 16, 3\)"):
        load_samples(pannuke_card(tmp_path, tissues=""), "f")


# ---- the development sets, by the cards of the package


@pytest.mark.parametrize(
    ("name", "split", "images"),
    [
        ("brca-m2c", "val", 10),
        ("consep", "test", 14),
        ("dsb2018", "pink", 4),
        ("nucls-examples", "test", 5),
        ("pannuke-breast-mini", "all", 25),
    ],
)
def test_cards_of_the_package(
    name: str, split: str, images: int, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLDETR_DATA", str(shared_data))
    samples = load_samples(load_card(name), split, limit=2)
    assert len(samples) == 2
    assert all(len(sample) for sample in samples)
    nuclei = np.concatenate([(sample.boxes[:, 2:] - sample.boxes[:, :2]) * sample.mpp for sample in samples])
    assert 3 < np.median(nuclei) < 12  # micrometres: the resolution in the card is right


def test_a_point_without_a_class_is_of_unknown_type(tmp_path: Path) -> None:
    card = write_card(tmp_path)
    write_image(tmp_path / "train" / "images" / "a.png")
    write_csv(tmp_path / "train" / "labels" / "a.csv", [["x", "y", "class"], [10, 10, ""], [20, 20, "e"]])
    (sample,) = load_samples(card, "train")
    assert sample.types.tolist() == [-1, 1]
