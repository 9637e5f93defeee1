"""Another library may have set PyTorch's default to float64: results are those of float32 all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from celldetr.model.at_boxes import cells_at_boxes
from helpers.networks import TILES, assert_same, predictor

BOXES = np.array([[4.0, 5, 20, 30], [30, 30, 50, 44]])


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_model_made_and_used_in_float64_finds_the_same(request: pytest.FixtureRequest) -> None:
    expected, given = predictor().predict_tiles(TILES), cells_at_boxes(predictor(), TILES[0], BOXES)
    request.getfixturevalue("float64")
    model = predictor()
    assert {each.dtype for each in model.network.state_dict().values() if each.is_floating_point()} == {torch.float32}
    for found, other in zip(model.predict_tiles(TILES), expected, strict=True):
        assert_same(found, other)
    assert_same(cells_at_boxes(model, TILES[0], BOXES), given)
    assert torch.get_default_dtype() == torch.float64
