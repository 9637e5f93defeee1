"""Normalised boxes, and the space in which they are refined."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from celldetr.boxes import inverse_sigmoid, normalise_boxes


def test_normalised_boxes_are_fractions_of_each_side() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    assert normalise_boxes(box, 100, 200).tolist() == [pytest.approx([0.2, 0.2, 0.2, 0.2])]
    assert normalise_boxes(torch.empty(0, 4), 5, 7).shape == (0, 4)


@given(st.floats(1e-4, 1 - 1e-4))
def test_inverse_sigmoid_undoes_the_sigmoid(p: float) -> None:
    x = torch.tensor(p, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)
    torch.testing.assert_close(inverse_sigmoid(x), torch.logit(x))


@pytest.mark.parametrize("value", [-3.0, 0.0, 1.0, 4.0])
def test_inverse_sigmoid_is_finite_everywhere(value: float) -> None:
    limit = torch.logit(torch.tensor(1e-5, dtype=torch.float64)).abs()
    x = torch.tensor(value, dtype=torch.float64)
    assert inverse_sigmoid(x).abs().item() == pytest.approx(limit.item(), rel=1e-4)
    assert inverse_sigmoid(x).sign() == (1 if value >= 1 else -1)
