"""Data sets from strangers: COCO, CSV, lists, instance maps and NumPy arrays, as a card has them read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from celldetr.data.autocard import SPLIT, find_card, read_own
from celldetr.data.card import DatasetCard, load_card
from celldetr.data.readers.instance_maps import read_map
from celldetr.data.sources import load_samples
from helpers.hostile import examples, flipped, in_little_memory, nothing_written, refused

COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
    "categories": [{"id": 1, "name": "r"}, {"id": 2, "name": "l"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 10, 12]}],
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def a_card(folder: Path, **changes: Any) -> DatasetCard:
    values = {
        "name": "toy", "title": "Toy", "format": "coco", "mpp": 0.5, "types": {"round": ["r"], "long": ["l"]},
        "splits": {"train": "train.json"}, "licence": "CC0-1.0", "citation": "none",
    }  # fmt: skip
    (folder / "toy.yaml").write_text(yaml.safe_dump(values | changes))
    return load_card(folder / "toy.yaml")


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(90, 255, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def coco(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CELLDETR_DATA", raising=False)
    folder = tmp_path_factory.mktemp("coco")
    image(folder / "images" / "a.png")
    image(folder / "secret.png")
    return folder


def read(folder: Path, content: Any, **changes: Any) -> str | None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "train.json").write_text(text)
    card = a_card(folder, **changes)
    with nothing_written(folder):
        return refused(lambda: load_samples(card, "train"))


@given(
    part=st.sampled_from(["images", "categories", "annotations"]),
    key=st.sampled_from(["id", "file_name", "name", "image_id", "category_id", "bbox", "iscrowd"]),
    value=json_values,
)
@examples(150)
def test_any_value_in_coco(part: str, key: str, value: Any, coco: Path) -> None:
    read(coco, COCO | {part: [{**COCO[part][0], key: value}]})


@given(content=json_values, part=st.sampled_from([None, "images", "annotations"]))
@examples(60)
def test_any_json_as_coco(content: Any, part: str | None, coco: Path) -> None:
    read(coco, content if part is None else COCO | {part: content})


def test_json_that_is_nested_too_deeply(coco: Path) -> None:
    assert "nested too deeply" in str(read(coco, "[" * 100_000))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "x/../../secret.png"])
def test_a_file_name_does_not_lead_out_of_the_folder(name: str, coco: Path) -> None:
    message = read(coco, COCO | {"images": [{"id": 1, "file_name": name}]})
    assert "leads out of the folder of images" in str(message)
    assert read(coco, COCO) is None


@given(
    text=st.text(st.sampled_from('01.,-+eEnai x\n\t"rlclassy;\0\ufeff'), max_size=60),
    form=st.sampled_from(["points_csv", "brca_m2c"]),
)
@examples(120)
def test_any_text_as_points(text: str, form: str, coco: Path) -> None:
    image(coco / "train" / "images" / "a.png")
    labels = coco / ("labels" if form == "brca_m2c" else "train/labels")
    labels.mkdir(parents=True, exist_ok=True)
    for suffix in (".csv", "_gt_class_coords.txt"):
        (labels / f"a{suffix}").write_text(text)
    splits: dict[str, Any] = {"train": ["a"] if form == "brca_m2c" else "train"}
    read(coco, COCO, format=form, splits=splits)


@pytest.mark.parametrize(
    "content", ["x" * 200_000 + ",1,r", '"' + "1,2,r\n" * 50_000, "1e999,1,r", "nan,nan,r", "\0,1,r"]
)
def test_csv_that_is_meant_to_hurt(content: str, coco: Path) -> None:
    image(coco / "train" / "images" / "a.png")
    (coco / "train" / "labels").mkdir()
    (coco / "train" / "labels" / "a.csv").write_text(content)
    assert read(coco, COCO, format="points_csv", splits={"train": "train"}) is not None
    table = {"table": {"file": "train/labels/a.csv", "image": "image", "split": "split"}}
    assert read(coco, COCO, format="points_csv", splits={"train": "train"}, options=table) is not None


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text: str) -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@given(changes=st.lists(st.tuples(st.floats(0, 0.4), st.integers(0, 255)), max_size=4), cut=st.none() | st.floats(0, 1))
@examples(100)
def test_mutated_arrays(changes: list[tuple[float, int]], cut: float | None, coco: Path) -> None:
    path = coco / "map.npy"
    path.write_bytes(flipped(npy(np.arange(100, dtype=np.int32).reshape(10, 10)), changes, cut))
    refused(lambda: read_map(path))
    fold(coco, path.read_bytes(), npy(np.zeros((2, 16, 16, 3))))
    fold(coco, npy(np.zeros((2, 16, 16, 3))), path.read_bytes())


def fold(folder: Path, images: bytes, masks: bytes) -> str | None:
    (folder / "i.npy").write_bytes(images)
    (folder / "m.npy").write_bytes(masks)
    options = {"images": "i.npy", "masks": "m.npy", "tissues": ""}
    types = {"round": ["0"], "long": ["1"]}
    return read(folder, COCO, format="pannuke", splits={"train": 1}, types=types, options=options)


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '<i4', 'fortran_order': False, 'shape': (1099511627776, 16), }"),
        header("{'descr': '<i4', 'fortran_order': False, 'shape': (-1, 16), }"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        header("__import__('os').system('exit')"),
        header("(" * 3000),
        npy(np.array([["a", "b"]])),
        npy(np.array([[1 + 2j]])),
        npy(np.zeros((4, 0))),
        npy(np.full((2, 2), np.nan)),
        b"PK\x05\x06" + bytes(18),
        b"",
    ],
)
def test_arrays_that_are_meant_to_hurt(content: bytes, coco: Path) -> None:
    path = coco / "map.npy"
    path.write_bytes(content)
    message = in_little_memory(lambda: read_map(path))
    assert message is not None or b"(4, 0)" in content
    assert in_little_memory(lambda: fold(coco, content, npy(np.zeros((2, 16, 16, 3))))) is None
    (coco / "i.npy").write_bytes(content)
    assert fold(coco, content, npy(np.zeros((2, 16, 16, 3)))) is not None


@pytest.mark.parametrize("kind", ["U3", "c16", "M8[s]", "?", "i1", "f2"])
def test_folds_of_other_types(kind: str, coco: Path) -> None:
    images, masks = np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 16, 16, 3))
    fold(coco, npy(images.astype(kind)), npy(masks))
    fold(coco, npy(images), npy(masks.astype(kind)))
    fold(coco, npy(images), npy(np.full((2, 16, 16, 3), np.nan)))
    fold(coco, npy(images), npy(np.full((2, 16, 16, 3), 1e300)))
    fold(coco, npy(images[:, :0]), npy(masks[:, :0]))
    fold(coco, npy(images), npy(masks[..., :1]))


FEATURE: dict[str, Any] = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [[[3, 4], [13, 4], [13, 14], [3, 4]]]},
    "properties": {"objectType": "cell", "classification": {"name": "r"}},
}


@given(
    key=st.sampled_from(["type", "geometry", "properties", "nucleusGeometry"]),
    part=st.sampled_from([None, "type", "coordinates", "objectType", "classification", "name"]),
    value=json_values,
)
@examples(150)
def test_any_value_in_qupath_geojson(key: str, part: str | None, value: Any, coco: Path) -> None:
    inner = {**FEATURE.get(key, FEATURE["geometry"]), part: value} if part and key != "type" else value
    features = [FEATURE, {**FEATURE, key: inner}]
    (coco / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    image(coco / "a.png")
    card = a_card(coco, format="qupath_geojson", splits={"train": ["a"]})
    with nothing_written(coco):
        refused(lambda: load_samples(card, "train"))
        refused(lambda: read_own(coco / "a.geojson", 0.5))


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), name=st.sampled_from(["a.csv", "a.json"]))
@examples(60)
def test_any_file_as_own_labels(content: bytes, name: str, coco: Path) -> None:
    image(coco / "a.png")
    folder = coco / "own"
    folder.mkdir(exist_ok=True)
    image(folder / "a.png")
    (folder / name).write_bytes(content)
    with nothing_written(coco):
        refused(lambda: load_samples(find_card(folder / name, 0.5), SPLIT))
