"""Boxes found from points: right on drawn nuclei, sane on everything else, good on real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.ops import box_iou

from celldetr.data.card import load_card
from celldetr.data.pseudo_boxes import LARGEST_UM, pseudo_boxes
from celldetr.data.sources import load_samples, rescale
from celldetr.stain import STAINS, from_optical_density


def drawn(ellipses: list[tuple[float, float, float, float]], size: int = 120) -> np.ndarray:
    """Stained ellipses (x, y, half width, half height) on eosin, with a soft edge and noise."""
    y, x = np.mgrid[:size, :size] + 0.5
    inside = np.zeros((size, size))
    for cx, cy, rx, ry in ellipses:
        inside = np.maximum(inside, ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1)
    amount = ndimage.gaussian_filter(inside, 0.6)[..., None] * 0.9
    density = amount * STAINS[0] + (1 - amount) * 0.25 * STAINS[1]
    noise = np.random.default_rng(0).normal(0, 0.02, density.shape)
    return np.clip(from_optical_density(density + noise), 0, 255).astype(np.uint8)


ELLIPSES = [(20.0, 20, 8, 8), (60, 25, 12, 6), (100, 60, 5, 11), (40, 80, 10, 10), (62, 80, 8, 10), (116, 110, 8, 8)]


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_drawn_nuclei_are_found_at_their_size(mpp: float) -> None:
    ellipses = [tuple(value * 0.5 / mpp for value in ellipse) for ellipse in ELLIPSES]
    size = round(120 * 0.5 / mpp)
    truth = np.array([[x - rx, y - ry, x + rx, y + ry] for x, y, rx, ry in ellipses]).clip(0, size)
    points = np.array([[x, y] for x, y, *_ in ellipses])
    found = pseudo_boxes(drawn(ellipses, size), points, mpp)
    overlap = box_iou(torch.from_numpy(found), torch.from_numpy(truth.astype(np.float32))).diagonal()
    assert overlap.min() > 0.7
    assert overlap.median() > 0.85


def test_the_order_of_points_does_not_matter() -> None:
    image = drawn(ELLIPSES)
    points = np.array([[x, y] for x, y, *_ in ELLIPSES])
    order = np.random.default_rng(0).permutation(len(points))
    assert np.array_equal(pseudo_boxes(image, points, 0.5)[order], pseudo_boxes(image, points[order], 0.5))


def test_points_in_one_place_share_a_box() -> None:
    image = drawn(ELLIPSES)
    alone = pseudo_boxes(image, np.array([[20.0, 20], [60, 25]]), 0.5)
    twice = pseudo_boxes(image, np.array([[20.0, 20], [20, 20], [60, 25]]), 0.5)
    assert np.array_equal(twice[0], twice[1])
    assert twice[1:] == pytest.approx(alone, abs=0.6)


def test_no_points_no_boxes() -> None:
    boxes = pseudo_boxes(drawn(ELLIPSES), np.zeros((0, 2)), 0.5)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 30)), min_size=1, max_size=12),
    st.sampled_from(["noise", "white", "black", "grey"]),
    st.floats(0.2, 2),
)
def test_any_box_is_in_the_image_and_holds_its_point(points: list[tuple[float, float]], kind: str, mpp: float) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    image = noise if kind == "noise" else np.full((30, 50, 3), {"white": 255, "black": 0, "grey": 128}[kind], np.uint8)
    at = np.array(points, dtype=np.float32)
    boxes = pseudo_boxes(image, at, mpp)
    assert np.isfinite(boxes).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [50, 30]).all()
    assert (boxes[:, :2] <= at).all()
    assert (boxes[:, 2:] >= at).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2:] - boxes[:, :2] <= 2 * LARGEST_UM / mpp + 1e-3).all()


def test_real_nuclei(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole of the train split is benchmarks/pseudo_boxes.py; one tile keeps what it reports from rotting.
    monkeypatch.setenv("CELLDETR_DATA", str(shared_data))
    tiles = [rescale(tile, 0.5) for tile in load_samples(load_card("consep"), "train", limit=1)]
    overlaps = [
        box_iou(torch.from_numpy(pseudo_boxes(tile.image, tile.points, 0.5)), torch.from_numpy(tile.boxes)).diagonal()
        for tile in tiles
    ]
    assert torch.cat(overlaps).median() > 0.65
