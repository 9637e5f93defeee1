"""Readout of place finds what is there, and nothing where there is nothing; movements have the units they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from celldetr.config import ModelConfig
from celldetr.data.sample import Sample
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.probe.location import PlacedCells, measure_location, movement, occluded, place_in_tile, readout

SMALL = {"types": ("a", "b"), "d_model": 32, "heads": 2, "ffn": 32, "encoder_layers": 1, "detection_layers": 1}


def cells(leak: float) -> PlacedCells:
    """1,500 cells of 10 images whose embeddings hold the place, times ``leak``, in a random rotation."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 256, (1500, 2))
    vectors = rng.normal(size=(1500, 16))
    vectors[:, :2] += leak * (centres / 256 - 0.5)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    index = np.arange(1500)
    return PlacedCells((vectors @ rotation).astype(np.float32), index % 2, place_in_tile(centres), index % 10, index)


@pytest.mark.slow
def test_readout_finds_a_place_that_is_there_and_none_where_there_is_none() -> None:
    blind, leaky = readout(cells(0.0)), readout(cells(30.0))
    for name in ("ridge", "perceptron"):
        assert max(blind[name].values()) < 0.02
        assert min(leaky[name][axis] for axis in "xy") > 0.8
    # The distance to the border is no linear function of the place.
    assert leaky["perceptron"]["border"] > leaky["ridge"]["border"] + 0.3


def test_movement_is_in_units_of_the_spread() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 4000, 32))
    assert movement(first, first) == 0
    assert movement(first, other) == pytest.approx(np.sqrt(2), abs=0.02)  # of cells that have nothing in common
    assert movement(7 * first, 7 * other) == pytest.approx(movement(first, other))


def test_only_the_surroundings_are_painted_over() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    painted = occluded(image, np.array([40.2, 30.0, 50.0, 45.0]), 10)
    assert np.array_equal(painted[20:55, 30:60], image[20:55, 30:60])
    outside = np.ones((100, 120), bool)
    outside[20:55, 30:60] = False
    assert (painted[outside] == image.mean((0, 1)).round()).all()


def samples() -> list[Sample]:
    rng = np.random.default_rng(1)
    made = []
    for i in range(5):
        image = rng.integers(0, 256, (400, 420, 3), dtype=np.uint8)
        centres = rng.uniform(20, 380, (30, 2)).astype(np.float32)
        boxes = np.concatenate([centres - 8, centres + 8], axis=1)
        made.append(Sample(f"image {i}", image, 0.5, boxes, np.zeros(30, np.int64), ("a", "b"), centres))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("absolute", [False, True])
def test_origin_moves_embeddings_of_the_papers_form_only(absolute: bool) -> None:
    torch.manual_seed(0)
    form = {"query_position": "absolute", "encoder_position": "absolute"} if absolute else {}
    network = CellDETR(ModelConfig(**SMALL, **form))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    steps: list[tuple[int, int]] = []
    report = measure_location(
        TilePredictor(network, threshold=0.5, precision="32"), samples(), progress=lambda *step: steps.append(step)
    )
    assert report.images == 5
    assert steps[-1][0] == steps[-1][1]
    moved = [movement for movement, _ in report.origin.values()]
    assert min(moved) > 1e-3 if absolute else max(moved) < 1e-6
    assert 0 <= report.tile[1] <= 1
