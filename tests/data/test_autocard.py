"""Labels without a card: the format is seen from the files, and the classes found are the types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from celldetr.data.autocard import SPLIT, find_card, read_own
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from celldetr.recipes import load_recipe
from celldetr.recipes.own_data import own_sources
from helpers.folders import write_csv, write_image
from helpers.qupath import disc, feature, write


def coco(folder: Path) -> None:
    write_image(folder / "images" / "a.png")
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "r"}, {"id": 2, "name": "never used"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [x, 4, 9, 9]} for x in (3, 15)],
    }
    (folder / "labels.json").write_text(json.dumps(content))


def points(folder: Path) -> None:
    write_image(folder / "images" / "a.png")
    write_csv(folder / "labels" / "a.csv", [["Class", "Y", "X"], ["r", 10, 20], ["r", 20, 30]])


def plain_points(folder: Path) -> None:
    write_image(folder / "a.png")
    write_csv(folder / "a.csv", [[20, 10, "r"], [30, 20, "r"]])


def exported(folder: Path) -> None:
    """The columns of celldetr's own CSV."""
    write_image(folder / "a.png")
    write_csv(folder / "a.csv", [["cell_id", "x_px", "y_px", "type"], [0, 20, 10, "r"], [1, 30, 20, "r"]])


def qupath(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_image(folder / "a.png")
    write(folder, [feature(disc(20, 10, 4), name="r"), feature(disc(30, 20, 4), name="r")])


@pytest.mark.parametrize("make", [coco, points, plain_points, exported, qupath])
def test_a_folder_is_read_for_what_it_is(make: Any, tmp_path: Path) -> None:
    make(tmp_path)
    found = read_own(tmp_path, 0.5)
    assert found.counts == {"r": 2}
    assert found.card.types == {"r": ["r"]}
    (sample,) = load_samples(find_card(tmp_path, 0.5), SPLIT)
    assert (sample.name, sample.types.tolist(), sample.mpp) == ("a", [0, 0], 0.5)
    if make is not coco:
        assert sample.points.tolist() == [[20, 10], [30, 20]]
    file = next(path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".json", ".geojson"))
    assert len(load_samples(find_card(file, 0.5), SPLIT)) == 1


def test_cells_without_any_class_are_one_type(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_csv(tmp_path / "a.csv", [["x", "y"], [20, 10], [30, 20]])
    assert own_sources(tmp_path, 0.5)["model"] == {"types": ["nucleus"]}
    (sample,) = load_samples(find_card(tmp_path, 0.5), SPLIT)
    assert sample.types.tolist() == [0, 0]


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        read_own(tmp_path / "none")
    with pytest.raises(InputError, match=r"no labels; expected QuPath GeoJSON"):
        read_own(tmp_path)
    qupath(tmp_path)
    write_csv(tmp_path / "a.csv", [[20, 10, "r"]])
    with pytest.raises(InputError, match=r"labels of 2 formats \(points_csv, qupath_geojson\); name a file"):
        read_own(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="no image of the name of a CSV file"):
        read_own(tmp_path / "a.csv")


def test_classes_are_types_unless_said_otherwise(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    rows = [[10 + i, 10, kind] for i, kind in enumerate("aabbccd")]
    write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(InputError, match=r"type 'd' has 1 labelled cell, expected at least 2; .*`mapping=d=`"):
        own_sources(tmp_path, 0.5)
    values = own_sources(tmp_path, 0.5, {"d": "", "b": "a"})
    assert values["model"] == {"types": ["a", "c"]}
    assert values["train"][0]["types"] == {"a": "a", "b": "a", "c": "c", "d": ""}
    with pytest.raises(InputError, match="has no class 'e'"):
        own_sources(tmp_path, 0.5, {"e": "x"})
    recipe = load_recipe("finetune", ["training.steps=7"], values)
    assert (recipe.model.types, recipe.training.steps, recipe.model.mpp) == (("a", "c"), 7, 0.4)
    assert recipe.train[0].mpp == 0.5


def test_folders_train_and_val_are_what_they_say(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        qupath(tmp_path / name)
    values = own_sources(tmp_path, 0.5)
    assert [Path(source["card"]).name for key in ("train", "validation") for source in values[key]] == ["train", "val"]


def test_labels_win_over_other_files_beside_them(tmp_path: Path) -> None:
    points(tmp_path)
    write_csv(tmp_path / "clinical.csv", [["patient", "age"], ["a", 40]])
    (tmp_path / "settings.json").write_text("{}")
    assert read_own(tmp_path, 0.5).counts == {"r": 2}
    assert len(load_samples(find_card(tmp_path, 0.5), SPLIT)[0]) == 2


def test_coco_names_may_say_their_folder(tmp_path: Path) -> None:
    """What several tools export: file_name with images/; and the same name in two folders."""
    coco(tmp_path)
    content = json.loads((tmp_path / "labels.json").read_text())
    for number, slide in enumerate(("s1", "s2")):
        write_image(tmp_path / "images" / slide / "t.png", number)
    content["images"] = [{"id": 1, "file_name": "images/s1/t.png"}, {"id": 2, "file_name": "images/s2/t.png"}]
    content["images"].append({"id": 3, "file_name": "images/a.png"})
    (tmp_path / "labels.json").write_text(json.dumps(content))
    samples = load_samples(find_card(tmp_path, 0.5), SPLIT)
    assert [(sample.name, len(sample)) for sample in samples] == [("images/s1/t", 2), ("images/s2/t", 0), ("a", 0)]


def test_a_large_image_comes_in_pieces(tmp_path: Path) -> None:
    points(tmp_path)  # 60 x 40 px
    parts = load_samples(find_card(tmp_path, 15), SPLIT)
    assert {part.group for part in parts} == {"a"}
    assert len(parts) == 6
    assert sum(map(len, parts)) == 2
