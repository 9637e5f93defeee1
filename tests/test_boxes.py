"""Normalised boxes."""

from __future__ import annotations

import pytest
import torch

from celldetr.boxes import normalise_boxes


def test_normalised_boxes_are_fractions_of_each_side() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    assert normalise_boxes(box, 100, 200).tolist() == [pytest.approx([0.2, 0.2, 0.2, 0.2])]
    assert normalise_boxes(torch.empty(0, 4), 5, 7).shape == (0, 4)
