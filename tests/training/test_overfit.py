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
from celldetr.training.criterion import class_weights
from celldetr.training.optim import average_weights
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators
from helpers.drawn_cells import draw_cells
from helpers.targets import targets

STEPS = 60
PAPER = {"border": "zeros", "encoder_position": "absolute", "query_position": "absolute", "level_norm": "group"}
LEARNED = {"queries": "learned", "coordinates": "image", "num_queries": 10, **PAPER}
SMALL, LARGE = 0, 1  # the types: they differ by colour, too
CELLS = [
    [(16, 18, 5, SMALL), (46, 14, 8, LARGE), (30, 46, 7, -1)],
    [(20, 44, 8, LARGE), (48, 46, 5, SMALL), (44, 16, 5, SMALL), (14, 14, 7, -1)],
    [],
]


@pytest.fixture(scope="module")
def tiles() -> Batch:
    images, labels = [], []
    for cells in CELLS:
        picture = np.array(draw_cells([(x, y, r) for x, y, r, _ in cells]))
        for x, y, r, kind in cells:
            if kind == LARGE:
                part = picture[y - r : y + r + 1, x - r : x + r + 1]
                part[part[..., 0] < 100] = (150, 40, 60)
        images.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
        corners = [(x + 0.5, y + 0.5, 2 * r + 1, 2 * r + 1) for x, y, r, _ in cells]
        boxes = torch.tensor(corners, dtype=torch.float32).view(-1, 4) / 64
        labels.append(targets(boxes, torch.tensor([kind for *_, kind in cells], dtype=torch.long)))
    return Batch(torch.stack(images), labels)


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
    known = torch.cat([each.types for each in tiles.targets])
    weights = class_weights(torch.bincount(known[known >= 0], minlength=2).tolist(), settings.class_balance)
    objective = SupervisedLoss(network, settings, weights).train()
    average = average_weights(network, 0.8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    history = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 10, (STEPS - step) / 30)
        loss, _ = objective(tiles, image_generators(0, step, 0, 3))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        history.append(float(loss.detach()))
    assert history[-1] < 0.25 * history[0]
    predictor = TilePredictor(average.module, threshold=0.3, precision="32")
    for image, true in zip(tiles.images, tiles.targets, strict=True):
        (found,) = predictor.predict_tiles([image.permute(1, 2, 0).numpy()])
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        assert len(found) == len(true)
        for (x, y, side, _), kind in zip((64 * true.boxes).tolist(), true.types.tolist(), strict=True):
            apart = np.hypot(centres[:, 0] - x, centres[:, 1] - y)
            assert apart.min() < side / 2
            assert kind in (-1, found.probabilities[apart.argmin()].argmax())
