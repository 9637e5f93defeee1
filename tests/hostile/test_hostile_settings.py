"""YAML from strangers: dataset cards and recipes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from celldetr.data.card import DatasetCard, load_card
from celldetr.data.sources import load_samples
from celldetr.errors import InputError
from celldetr.io.safe_io import YAML_BYTES, parse_yaml, read_yaml
from celldetr.recipes import load_recipe
from celldetr.slide.find import find_slides
from helpers.hostile import examples, flipped, in_little_memory, nothing_written, refused

CARD: dict[str, Any] = {
    "name": "toy",
    "title": "Toy",
    "format": "points_csv",
    "mpp": 0.5,
    "types": {"round": ["r"], "long": ["l", "e"]},
    "splits": {"train": "train", "named": ["a"]},
    "licence": "CC0-1.0",
    "citation": "none",
    "group_pattern": "^(a)",
}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"types": ["lymphocyte", "epithelial"], "mpp": 0.25},
    "train": [{"card": "brca-m2c", "split": "train"}],
    "validation": [{"card": "brca-m2c", "split": "validation"}],
}
PATHS = [
    "..",
    "../..",
    "/",
    "/etc",
    "/proc/self",
    "a\0b",
    "x" * 5000,
    "~nobody-of-this-name/x",
    "",
    ".",
    "{split}",
    "\n",
]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(PATHS),
    st.sampled_from([10**400, -1, 0, 2**63, "2020-99-99", "\x1b[31m", "\ud800"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
)


def load(path: Path) -> None:
    card = load_card(path)
    for split in card.splits:
        refused(lambda split=split: load_samples(card, split))


@given(key=st.sampled_from(sorted(DatasetCard.model_fields)), value=values)
@examples(100)
def test_any_value_in_a_card(key: str, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "cards"
    folder.mkdir(exist_ok=True)
    try:
        text = yaml.safe_dump(CARD | {key: value}).encode("utf-8")
    except (yaml.YAMLError, UnicodeError, ValueError):
        return
    (folder / "toy.yaml").write_bytes(text)
    with nothing_written(folder):
        refused(lambda: load(folder / "toy.yaml"))


@given(
    keys=st.lists(
        st.sampled_from(["model", "types", "mpp", "backbone", "train", "card", "split", "training"]), max_size=3
    ),
    value=values,
)
@examples(60)
def test_any_value_in_a_recipe(keys: list[str], value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    changed: Any = value
    for key in reversed(keys):
        changed = {key: changed}
    try:
        path.write_text(yaml.safe_dump({**RECIPE, **(changed if isinstance(changed, dict) else {"name": changed})}))
    except (yaml.YAMLError, UnicodeError, ValueError):
        return
    refused(lambda: load_recipe(path))


@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), cut=st.none() | st.floats(0, 1))
@examples(80)
def test_any_bytes(
    changes: list[tuple[float, int]], cut: float | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(flipped(yaml.safe_dump(CARD).encode(), changes, cut))
    refused(lambda: load_card(path))
    refused(lambda: load_recipe(path))


@given(st.text(st.sampled_from("ab01.:-&*!|>[]{}'\"\\\n \t#%@`,?~<=_eE+xoT"), max_size=60))
@examples(150)
def test_any_text(text: str) -> None:
    with suppress(ValueError):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "more than 1,000,000 values"),
        ("a: &a [*a]", "inside what it stands for"),
        ("a: &a {b: {*a : 1}}", "not valid YAML"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " * 5000 + "1", "not valid YAML"),
        ("x: 2020-99-99", "not valid YAML"),
        ("x: !!timestamp nonsense", "not valid YAML"),
        ("x: !!int nonsense", "not valid YAML"),
        ("x: " + ":".join(["1"] * 100_000), "too many digits"),
        ("x: " + "9" * 100_000, "too many digits"),
        ("x: !!python/object/apply:os.system [exit]", "not valid YAML"),
        ("x: '" + "y" * YAML_BYTES + "'", "holds more than 1 MB"),
        ("x: \x00", "not valid YAML"),
    ],
)  # fmt: skip
def test_yaml_that_is_meant_to_hurt(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    message = in_little_memory(lambda: read_yaml(path))
    assert message is not None
    assert says in message


def card(folder: Path, **changes: Any) -> DatasetCard:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(CARD | changes))
    return load_card(path)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)(.*)(.*)(.*)x", "((a{1,9}){1,9}){1,9}"])
def test_patterns_that_take_for_ever_are_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can take for ever"):
        card(tmp_path, group_pattern=pattern)


def test_patterns_as_they_are_used_are_not(tmp_path: Path) -> None:
    for pattern in (r"^(TCGA-\w\w-\w{4})", r"^([^_]+)_\d+_.*$", r"(\d{2,4})"):
        found = card(tmp_path, group_pattern=pattern)
        assert refused(lambda found=found: found.group_of("a" * 100_000 + "!")) is not None


@pytest.mark.parametrize("root", ["~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_roots_that_no_folder_can_have(root: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        card(tmp_path, root=root).directory()


def test_names_of_types_are_one_line_of_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for name in ("", "a\nb", "\x1b[31mred", "x" * 200):
        path.write_text(yaml.safe_dump(RECIPE | {"model": {"types": [name, "b"]}}))
        with pytest.raises(InputError, match="printable characters"):
            load_recipe(path)


@pytest.mark.parametrize("content", ["slide\n" + "x" * 200_000, "slide,mpp\na.svs,1e999x", '"', "slide\n\0", "\udcff"])
def test_lists_of_slides(content: str, tmp_path: Path) -> None:
    for name in ("list.csv", "list.txt"):
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        with nothing_written(tmp_path):
            refused(lambda name=name: find_slides([tmp_path / name]))


def test_honest_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x [1, {b: 2}]\nc: *x\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
    assert parse_yaml("") is None
