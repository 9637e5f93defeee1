"""What oneDNN keeps is bounded, unless the user has said otherwise."""

from __future__ import annotations

import os

import pytest

import celldetr
from celldetr.model import inference
from celldetr.model.cpu_caches import ENTRIES, VARIABLES, limit_caches


def test_a_network_first_runs_with_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    network, order = celldetr.load_model(device="cpu").network, []  # not the one of other tests: it is changed
    monkeypatch.setattr(inference, "limit_caches", lambda: order.append("bound"))
    monkeypatch.setattr(inference, "for_inference", lambda moved: order.append("folded") or moved)
    inference.TilePredictor(network, threshold=0.5)
    assert order == ["bound", "folded"]


def test_the_users_word_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = VARIABLES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "x")  # so that it is restored
    monkeypatch.delenv(second)
    limit_caches()
    assert (os.environ[first], os.environ[second]) == ("7", str(ENTRIES))
