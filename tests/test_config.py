"""Settings refuse what they do not know or cannot use, in one line that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from celldetr.config import (
    AugmentConfig,
    Config,
    DataSource,
    ModelConfig,
    Recipe,
    TrainConfig,
    override,
    parse,
)
from celldetr.errors import InputError, near
from celldetr.io.safe_io import read_yaml

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"types": ["lymphocyte", "epithelial"], "mpp": 0.25},
    "train": [{"card": "brca-m2c", "split": "train"}],
    "validation": [{"card": "brca-m2c", "split": "validation"}],
}


def message(cls: type[Config], values: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        parse(cls, values, "here.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_is_read_as_written() -> None:
    recipe = parse(Recipe, RECIPE, "here.yaml")
    assert recipe.model.types == ("lymphocyte", "epithelial")
    assert recipe.model.mpp == 0.25
    assert recipe.train == (DataSource(card="brca-m2c", split="train"),)
    assert recipe.training == TrainConfig()
    assert recipe.model.embedding_dim == recipe.model.d_model


@pytest.mark.parametrize(
    "config", [parse(Recipe, RECIPE, "x"), ModelConfig(types=("a",)), AugmentConfig(), TrainConfig()]
)
def test_settings_survive_yaml_and_json(config: Config) -> None:
    plain = config.model_dump(mode="json")
    assert type(config).model_validate(yaml.safe_load(yaml.safe_dump(plain))) == config
    assert type(config).model_validate(json.loads(json.dumps(plain))) == config


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "key", "meant"),
    [
        ({"modle": {}}, "modle", "model"),
        ({"training": {"step": 5}}, "training.step", "steps"),
        ({"model": {"types": ["a"], "head": 4}}, "model.head", "heads"),
        ({"augment": {"orientation": True}}, "augment.orientation", "orientations"),
        ({"train": [{"card": "c", "split": "s", "wieght": 2}]}, "train.0.wieght", "weight"),
    ],
)
def test_an_unknown_key_lists_the_near_ones(change: dict[str, Any], key: str, meant: str) -> None:
    text = message(Recipe, RECIPE | change)
    assert text.startswith(f"here.yaml: unknown key '{key}'; did you mean ")
    assert repr(meant) in text


def test_an_unknown_key_near_nothing_lists_all() -> None:
    text = message(DataSource, {"card": "c", "split": "s", "zzzzzz": 1})
    known = ("card", "image_share", "label_seed", "label_share", "mpp", "split", "types", "weight")
    assert text.endswith(f"expected one of {', '.join(map(repr, known))}")


def test_a_missing_key_is_named() -> None:
    assert message(Recipe, {k: v for k, v in RECIPE.items() if k != "name"}) == "here.yaml: name: Field required"


@pytest.mark.parametrize(
    ("cls", "values", "says"),
    [
        (ModelConfig, {"mpp": 0}, "mpp: Input should be greater than or equal to 0.05, got 0"),
        (ModelConfig, {"mpp": float("nan")}, "mpp: "),
        (ModelConfig, {"dropout": 1.5}, "dropout: "),
        (ModelConfig, {"self_attention": "all"}, "self_attention: Input should be 'none' or 'after_first', got 'all'"),
        (ModelConfig, {"mean": [0.5, 0.5]}, "mean.2: "),
        (ModelConfig, {"d_model": 100}, "d_model=100 must be a multiple of heads=8"),
        (ModelConfig, {"d_model": 6, "heads": 3}, "d_model=6 must be a multiple of heads=3 and of 32"),
        (ModelConfig, {"types": []}, "types "),
        (ModelConfig, {"types": ["a", "a"]}, "['a', 'a']"),
        (ModelConfig, {"queries": "learned", "coordinates": "pixels"}, "coordinates='image'"),
        (ModelConfig, {"strides": [8, 4, 16, 32]}, "[8, 4, 16, 32]"),
        (ModelConfig, {"encoder_strides": [8, 64]}, "encoder_strides=[8, 64] must rise and be among [4, 8, 16, 32]"),
        (ModelConfig, {"representation_strides": [8, 4]}, "representation_strides=[8, 4]"),
        # A query is an encoder token: a level that the encoder does not see has none.
        (ModelConfig, {"query_strides": [4]}, "query_strides=[4] must rise and be among [8, 16, 32]"),
        (AugmentConfig, {"blur_p": 2}, "blur_p: "),
        (TrainConfig, {"steps": 1.5}, "steps: "),
        (TrainConfig, {"lr": "fast"}, "got 'fast'"),
        (DataSource, {"weight": 0}, "weight: "),
        (TrainConfig, {"jitter": [0.5, 0.3, 0.5, 0.6]}, "[low, high, grow, share]"),
    ],
)
def test_a_value_out_of_range_is_named(cls: type[Config], values: dict[str, Any], says: str) -> None:
    needed = {ModelConfig: {"types": ["a"]}, DataSource: {"card": "c", "split": "s"}}.get(cls, {})
    text = message(cls, {**needed, **values})
    assert text.startswith("here.yaml: ")
    assert says in text


def test_override_changes_a_copy_in_depth() -> None:
    before = json.dumps(RECIPE)
    out = override(
        RECIPE, ["training.steps=20", "training.lr=1e-3", "model.types=[a, b]", "model.constrained=false", "notes="]
    )
    assert json.dumps(RECIPE) == before
    assert out["model"] == {"types": ["a", "b"], "mpp": 0.25, "constrained": False}
    recipe = parse(Recipe, {**out, "notes": ""}, "x")
    # PyYAML takes 1e-3, without a point, for text.
    assert (recipe.training.steps, recipe.training.lr, recipe.model.constrained) == (20, 1e-3, False)


def test_override_takes_the_last_of_two() -> None:
    assert override({}, ["a.b=1", "a.b=2", "a.c=x=y"]) == {"a": {"b": 2, "c": "x=y"}}


@given(
    st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=1, max_size=4),
    st.one_of(
        st.integers(),
        st.booleans(),
        st.text("abc :#[]{}'\"", max_size=8),
        st.none(),
        st.lists(st.integers(), max_size=3),
    ),
)
def test_override_reads_back_any_yaml_value(path: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    node: Any = override({}, [f"{'.'.join(path)}={text}"])
    for key in path:
        assert list(node) == [key]
        node = node[key]
    assert node == value


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("training.steps", "'training.steps': expected key=value"),
        ("=3", "'=3': expected key=value"),
        ("name.first=x", "'name' is not a group of settings"),
        ("train.split=x", "'train' is not a group of settings"),
        ("notes=[1, 2", "'[1, 2' is not a YAML value"),
    ],
)
def test_an_assignment_that_makes_no_sense_is_refused(assignment: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        override(RECIPE, [assignment])
    assert says in str(caught.value)


def test_an_unknown_key_of_the_command_line_is_refused_by_parse() -> None:
    with pytest.raises(InputError, match=r"unknown key 'training\.step'; did you mean 'steps'"):
        parse(Recipe, override(RECIPE, ["training.step=3"]), "command line")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"- 1\n- 2", "expected a mapping of settings, got list"),
        (b"", "expected a mapping of settings, got NoneType"),
        (b"\xff\xfe\x00", "cannot be read"),
        # A tag that would make a Python object is refused, and what it names is not run.
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_settings_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    assert read_yaml(path) == RECIPE


def test_near_prefers_what_looks_alike() -> None:
    assert near("lymphocite", ["stromal", "lymphocyte"]) == "did you mean 'lymphocyte'?"
    assert near("q", ["b", "a"]) == "expected one of 'a', 'b'"
    assert issubclass(InputError, ValueError)
