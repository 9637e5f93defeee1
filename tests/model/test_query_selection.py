"""At inference only the queries' boxes are computed, and only tokens that score enough become queries."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import celldetr
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.detection import QUERY_STEP
from celldetr.model.folding import for_inference
from celldetr.model.inference import QUERY_SHARE, TilePredictor
from helpers.sample_crop import crop


@pytest.fixture(scope="module")
def network() -> Any:
    return load_checkpoint(celldetr.list_models()["small-20x"]).network.eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.from_numpy(crop(width=320, height=320).transpose(2, 0, 1).copy())[None]


@torch.inference_mode()
def test_boxes_of_queries_alone_are_the_same_boxes(network: Any, image: torch.Tensor) -> None:
    memory = network.memorise(image).detection
    full, proposals, _ = network.detector.queries(memory)
    lean, none, _ = for_inference(network).detector.queries(memory)
    assert none is None
    assert proposals is not None
    assert torch.equal(full.content, lean.content)
    torch.testing.assert_close(full.reference, lean.reference, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_the_best_tokens_remain_in_steps(network: Any, image: torch.Tensor) -> None:
    memory = network.memorise(image).detection
    _, proposals, _ = network.detector.queries(memory)
    queries = for_inference(network).detector.queries
    everything = queries(memory)[0]
    scores = proposals.logits.sigmoid()
    for least in (1e-6, 0.2, 0.5, 0.999999):
        queries.least_score = least
        kept = queries(memory)[0]
        count = kept.reference.shape[1]
        worth = int((scores >= least).sum())
        assert count == min(max(1, math.ceil(worth / QUERY_STEP)) * QUERY_STEP, everything.reference.shape[1])
        torch.testing.assert_close(kept.reference, everything.reference[:, :count])


def test_training_is_not_touched(network: Any) -> None:
    for_inference(network)
    assert network.detector.queries.least_score is None


def test_a_lower_threshold_afterwards_shows_more_of_the_same_cells(network: Any) -> None:
    tile = crop(width=320, height=320)
    predictor = TilePredictor(network, threshold=0.3, precision="32")
    (strict,) = predictor.predict_tiles([tile])
    assert predictor.network.detector.queries.least_score == pytest.approx(0.3 * QUERY_SHARE)
    (loose,) = predictor.predict_tiles([tile], least_score=0.1)
    assert len(loose.scores) > len(strict.scores) > 20
    above = loose.scores >= 0.3
    assert above.sum() == len(strict.scores)
    assert (loose.boxes[above] == strict.boxes).all()
