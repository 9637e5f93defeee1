"""Every way of training learns two tiles by heart, beside an empty one and with cells of unknown type.

That gradients flow is tested elsewhere; here they must lead somewhere: the averaged weights find each cell, name its
type, and find nothing where there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from celldetr.config import ModelConfig, TrainConfig
from celldetr.data.dataset import Batch
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.training.criterion import balance
from celldetr.training.crops import image_generators
from celldetr.training.ema import Average
from celldetr.training.supervised import Supervised
from helpers.drawn_cells import draw_cells

STEPS = 60
LEARNED = {"queries": "learned", "coordinates": "image", "num_queries": 10}
SMALL, LARGE = 0, 1  # the types: they differ by colour, too
CELLS = [
    [(16, 18, 5, SMALL), (46, 14, 8, LARGE), (30, 46, 7, -1)],
    [(20, 44, 8, LARGE), (48, 46, 5, SMALL), (44, 16, 5, SMALL), (14, 14, 7, -1)],
    [],
]


@pytest.fixture(scope="module")
def tiles() -> Batch:
    images, boxes, types = [], [], []
    for cells in CELLS:
        picture = np.array(draw_cells([(x, y, r) for x, y, r, _ in cells]))
        for x, y, r, kind in cells:
            if kind == LARGE:
                part = picture[y - r : y + r + 1, x - r : x + r + 1]
                part[part[..., 0] < 100] = (150, 40, 60)
        images.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
        corners = [(x + 0.5, y + 0.5, 2 * r + 1, 2 * r + 1) for x, y, r, _ in cells]
        boxes.append(torch.tensor(corners, dtype=torch.float32).view(-1, 4) / 64)
        types.append(torch.tensor([kind for *_, kind in cells], dtype=torch.long))
    return Batch(torch.stack(images), boxes, types)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({}, {"mode": "parallel", "auxiliary_types": False, "denoising": 1}),
        ({"self_attention": "after_first"}, {"mode": "parallel_jittered", "class_balance": 0.0}),
        ({"self_attention": "after_first"}, {"mode": "mixed", "dense_queries": 0.0, "denoising": 2}),
        ({}, {"mode": "positive_negative"}),
        (LEARNED, {"mode": "sequential", "denoising": 2, "class_balance": 0.0}),
    ],
    ids=lambda changes: ",".join(map(str, changes.values())),
)
def test_two_tiles_are_learnt_by_heart(
    model: dict[str, Any], training: dict[str, Any], tiny_model: Callable[..., ModelConfig], tiles: Batch
) -> None:
    torch.manual_seed(0)
    network = CellDETR(tiny_model(**model))
    settings = TrainConfig.model_validate(training)
    known = torch.cat(tiles.types)
    weights = balance(torch.bincount(known[known >= 0], minlength=2).tolist(), settings.class_balance)
    objective = Supervised(network, settings, weights).train()
    average = Average(network, 0.8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    history = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 10, (STEPS - step) / 30)
        loss, _ = objective(tiles.images, tiles.boxes, tiles.types, image_generators(0, step, 0, 3))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update(network, step)
        history.append(float(loss.detach()))
    assert history[-1] < 0.25 * history[0]
    predictor = TilePredictor(average.network, threshold=0.3, precision="32")
    for image, boxes, types in zip(tiles.images, tiles.boxes, tiles.types, strict=True):
        (found,) = predictor.predict_tiles([image.permute(1, 2, 0).numpy()])
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        assert len(found) == len(boxes)
        for (x, y, side, _), kind in zip((64 * boxes).tolist(), types.tolist(), strict=True):
            apart = np.hypot(centres[:, 0] - x, centres[:, 1] - y)
            assert apart.min() < side / 2
            assert kind in (-1, found.probabilities[apart.argmin()].argmax())
