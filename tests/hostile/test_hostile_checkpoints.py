"""Checkpoints from strangers: whoever changes a file can also make its hash right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from celldetr.config import ModelConfig
from celldetr.model import checkpoint as module
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import CARD_FILE, WEIGHTS_FILE, Card, load_checkpoint, save_checkpoint
from celldetr.model.onnx import _file_name
from helpers.hostile import in_little_memory, refused

TINY: dict[str, Any] = {
    "types": ["a", "b"], "backbone": "test_efficientnet", "d_model": 32, "heads": 4, "points": 1, "ffn": 32,
    "encoder_layers": 1, "detection_layers": 1, "representation_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "toy"
    card = Card.model_validate({"name": "toy", "config": TINY, "threshold": 0.3})
    save_checkpoint(folder, CellDETR(ModelConfig.model_validate(TINY)), card)
    return folder


def forge(good: Path, weights: bytes | None = None, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    """A changed checkpoint whose hashes are right, and whose weights have the config of its card."""
    folder = good.parent / "forged"
    folder.mkdir(exist_ok=True)
    card = json.loads((good / CARD_FILE).read_text())
    card["config"] |= config
    save_file(
        load_file(good / WEIGHTS_FILE) | (tensors or {}),
        folder / WEIGHTS_FILE,
        metadata={"config": json.dumps(card["config"])},
    )
    if weights is not None:
        (folder / WEIGHTS_FILE).write_bytes(weights)
    card["sha256"] = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    card["card_sha256"] = module._card_digest(card)
    (folder / CARD_FILE).write_text(json.dumps(card))
    return folder


def test_a_forged_checkpoint_is_as_good_as_another(good: Path) -> None:
    assert refused(lambda: load_checkpoint(forge(good))) is None


@pytest.mark.parametrize(
    "weights",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (76).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,4]}}  '
        + bytes(4),
    ],
    ids=["a header of exabytes", "nested", "a shape of exabytes"],
)
def test_weights_that_are_meant_to_hurt(weights: bytes, good: Path) -> None:
    folder = forge(good, weights)
    assert in_little_memory(lambda: load_checkpoint(folder)) is not None


@pytest.mark.parametrize("value", [torch.tensor([float("nan"), 0.0]), torch.zeros(3)])
def test_tensors_of_other_values_and_shapes(value: torch.Tensor, good: Path) -> None:
    assert "type_head.bias" in str(refused(lambda: load_checkpoint(forge(good, tensors={"type_head.bias": value}))))


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "local-dir:/tmp/model", "../x"])
def test_backbones_are_not_looked_for_elsewhere(name: str, good: Path) -> None:
    assert refused(lambda: load_checkpoint(forge(good, backbone=name))) is not None


@pytest.mark.parametrize("name", ["../../x", "..", "\0", "x" * 5000])
def test_the_name_of_a_model_is_no_path(name: str) -> None:
    path = Path(_file_name(name))
    assert path.name == str(path)
    assert path.suffix == ".onnx"
    assert len(path.stem) in range(1, 101)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": [[]]}'])
def test_cards_that_are_meant_to_hurt(content: str, good: Path) -> None:
    folder = forge(good)
    (folder / CARD_FILE).write_text(content)
    assert refused(lambda: load_checkpoint(folder)) is not None
