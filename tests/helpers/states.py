"""Comparison of the states that two training runs left."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from celldetr.training.state import STATE_FILE


def assert_same_state(first: Path, second: Path) -> None:
    """Two runs have the same weights, averages and moments, bit for bit."""
    expected, found = load_file(first / STATE_FILE), load_file(second / STATE_FILE)
    assert expected.keys() == found.keys()
    assert {name.partition("/")[0] for name in expected} == {"network", "average", "optimizer"}
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
