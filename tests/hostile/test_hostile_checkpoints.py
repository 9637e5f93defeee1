"""Checkpoints from strangers: whoever changes a file can also make its hash right."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file, save_file

from celldetr.config import ModelConfig
from celldetr.errors import InputError
from celldetr.model import checkpoint as module
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    Card,
    least_weights,
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from celldetr.model.onnx import _file_name
from celldetr.report.models import models_table
from helpers.hostile import examples, flipped, in_little_memory, nothing_written, refused

TINY: dict[str, Any] = {
    "types": ["a", "b"], "backbone": "test_efficientnet", "d_model": 32, "heads": 4, "points": 1, "ffn": 32,
    "encoder_layers": 1, "detection_layers": 1, "representation_layers": 1,
}  # fmt: skip
HUGE = {"d_model": 8192, "ffn": 8192, "encoder_layers": 64, "detection_layers": 64, "representation_layers": 64}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, "../../x", "hf-hub:somebody/model", "\ud800", "[/bold]", "\x1b[31m"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "toy"
    card = Card.model_validate({"name": "toy", "config": TINY, "threshold": 0.3})
    save_checkpoint(folder, CellDETR(ModelConfig.model_validate(TINY)), card)
    return folder


def forge(good: Path, weights: bytes | None = None, **changes: Any) -> Path:
    """A changed checkpoint whose hashes are right, and whose weights have the config of its card."""
    folder = good.parent / "forged"
    folder.mkdir(exist_ok=True)
    if weights is None and "config" in changes:
        metadata = {"config": json.dumps(changes["config"])}
        save_file(load_file(good / WEIGHTS_FILE), folder / WEIGHTS_FILE, metadata=metadata)
        weights = (folder / WEIGHTS_FILE).read_bytes()
    content = (good / WEIGHTS_FILE).read_bytes() if weights is None else weights
    (folder / WEIGHTS_FILE).write_bytes(content)
    values = json.loads((good / CARD_FILE).read_text()) | {"sha256": hashlib.sha256(content).hexdigest()} | changes
    values["card_sha256"] = module._card_digest(values)
    (folder / CARD_FILE).write_text(json.dumps(values))
    return folder


def config_of(good: Path, **changes: Any) -> dict[str, Any]:
    return json.loads((good / CARD_FILE).read_text())["config"] | changes


def load(folder: Path) -> str | None:
    with nothing_written(folder.parent):
        return refused(lambda: load_checkpoint(folder))


@given(key=st.sampled_from(sorted(Card.model_fields)), value=json_values)
@examples(60)
def test_any_value_in_a_card(key: str, value: Any, good: Path) -> None:
    folder = forge(good, **{key: value})
    if load(folder) is None:
        Console(file=io.StringIO()).print(models_table([read_card(folder)]))


@given(key=st.sampled_from(sorted(ModelConfig.model_fields)), value=json_values | st.integers(-2, 10**9))
@examples(60)
def test_any_value_in_a_config(key: str, value: Any, good: Path) -> None:
    load(forge(good, config=config_of(good, **{key: value})))


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    front=st.booleans(),
    cut=st.none() | st.none() | st.floats(0, 1),
)
@examples(60)
def test_mutated_weights(changes: list[tuple[float, int]], front: bool, cut: float | None, good: Path) -> None:
    content = (good / WEIGHTS_FILE).read_bytes()
    if front:  # where the names, types and shapes are
        share = (8 + int.from_bytes(content[:8], "little")) / len(content)
        changes = [(where * share, value) for where, value in changes]
    load(forge(good, flipped(content, changes, cut)))


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        (2**63).to_bytes(8, "little") + b"{}",
        (99 * 10**6).to_bytes(8, "little") + b"{}",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (2).to_bytes(8, "little") + b"{}",
        (76).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,4]}}  '
        + bytes(4),
    ],
)
def test_weights_that_are_meant_to_hurt(weights: bytes, good: Path) -> None:
    folder = forge(good, weights)
    assert in_little_memory(lambda: load_checkpoint(folder)) is not None


@pytest.mark.parametrize("config", ["[" * 50_000, "[]", "3", "{", json.dumps(TINY | {"types": ["x", "y"]})])
def test_configs_in_the_weights(config: str, good: Path, tmp_path: Path) -> None:
    save_file(load_file(good / WEIGHTS_FILE), tmp_path / "w", metadata={"config": config})
    assert load(forge(good, (tmp_path / "w").read_bytes())) is not None


def with_tensor(good: Path, tmp_path: Path, name: str, value: torch.Tensor) -> Path:
    tensors = load_file(good / WEIGHTS_FILE)
    assert name in tensors
    metadata = {"config": json.dumps(config_of(good))}
    save_file(tensors | {name: value}, tmp_path / "w", metadata=metadata)
    return forge(good, (tmp_path / "w").read_bytes())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.tensor([float("nan"), 0.0]), "not finite"),
        (torch.tensor([float("inf"), 0.0]), "not finite"),
        (torch.tensor([1, 2]), "is torch.int64, not torch.float32"),
        (torch.tensor([1j, 2]), "is torch.complex64, not torch.float32"),
        (torch.tensor([True, False]), "is torch.bool, not torch.float32"),
        (torch.zeros(3), "weights do not fit the config"),
        (torch.zeros(2, 1), "weights do not fit the config"),
    ],
)
def test_tensors_of_other_types_and_shapes(value: torch.Tensor, says: str, good: Path, tmp_path: Path) -> None:
    assert says in str(load(with_tensor(good, tmp_path, "type_head.bias", value)))


def test_a_config_that_asks_for_terabytes(good: Path) -> None:
    folder = forge(good, config=config_of(good, **HUGE))
    assert "asks for more than the file can hold" in str(in_little_memory(lambda: load_checkpoint(folder)))


@pytest.mark.parametrize(
    "changes", [{}, {"d_model": 64, "ffn": 100}, {"encoder_layers": 0}, {"types": list("abcdefg")}]
)
def test_a_network_has_at_least_what_is_taken_for_least(changes: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(TINY | changes)
    assert least_weights(config) <= sum(value.numel() for value in CellDETR(config).state_dict().values())


@pytest.mark.parametrize(
    "name", ["hf-hub:somebody/model", "local-dir:/tmp/model", "../x", "resnet18.nothing", "", "x" * 500]
)
def test_backbones_are_not_looked_for_elsewhere(name: str, good: Path) -> None:
    with pytest.raises(InputError, match="is not"):
        load_checkpoint(forge(good, config=config_of(good, backbone=name)))


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "..", "", "\0", "x" * 5000, "é"])
def test_the_name_of_a_model_is_no_path(name: str) -> None:
    path = Path(_file_name(name))
    assert path.name == str(path)
    assert path.suffix == ".onnx"
    assert len(path.stem) in range(1, 101)


def test_a_name_is_not_markup(good: Path) -> None:
    card = read_card(forge(good, name="[/bold][red]", licence="[link=x]y", training_data=[{}], metrics={"x": 3}))
    text = io.StringIO()
    Console(width=200, file=text).print(models_table([card]))
    assert "[/bold][red]" in text.getvalue()
    assert "[link=x]y" in text.getvalue()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"format": 1' + ', "x": ' + "[" * 900 + "]" * 900 + "}", '{"format": [[]]}']
)
def test_cards_that_are_meant_to_hurt(content: str, good: Path) -> None:
    folder = forge(good)
    (folder / CARD_FILE).write_text(content)
    assert load(folder) is not None
