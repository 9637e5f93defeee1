"""What dropout costs a training step: PyTorch's, ours, none; they take turns in one process, on the same batch.

CELLDETR_DATA=<folder> python benchmarks/dropout_speed.py | tee benchmarks/results/dropout_speed.txt
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.data.dataset import TrainingSet, collate
from celldetr.model import detection
from celldetr.model.celldetr import CellDETR
from celldetr.model.dropout import Dropout
from celldetr.recipes import load_recipe
from celldetr.training.data import load_data
from celldetr.training.optim import build_optimizer, clip_gradients
from celldetr.training.supervised import SupervisedLoss

TURNS, WARM = 14, 2


class Everywhere:
    """``torch.nn.functional`` as the attention among queries sees it, with dropout of its weights."""

    def __init__(self, p: float) -> None:
        self.p = p

    def scaled_dot_product_attention(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=self.p)


def main() -> None:
    recipe = load_recipe("small-20x")
    data, settings = load_data(recipe), recipe.training
    crops = TrainingSet(data.samples, recipe.augment, 0, settings.batch_size, data.weights)
    batch = collate([crops[i] for i in range(settings.batch_size)])
    torch.manual_seed(0)
    network = CellDETR(recipe.model)
    objective = SupervisedLoss(network, settings, torch.ones(len(recipe.model.types))).train()
    optimizer = build_optimizer(network, settings)
    ours, share = Dropout.forward, recipe.model.dropout

    def pytorchs(self: Dropout, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training)

    def step(way: str) -> float:
        Dropout.forward = pytorchs if way == "PyTorch's" else ours  # type: ignore[method-assign]
        detection.functional: Any = Everywhere(share) if way == "PyTorch's" else nn.functional
        for module in network.modules():
            if isinstance(module, Dropout):
                module.p = 0.0 if way == "none" else share
        start = time.perf_counter()
        generators = [torch.Generator().manual_seed(i) for i in range(len(batch.images))]
        objective(batch, generators)[0].backward()
        clip_gradients(network, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    seconds: dict[str, list[float]] = {"PyTorch's": [], "ours": [], "none": []}
    for _ in range(WARM + TURNS):
        for way, taken in seconds.items():
            taken.append(step(way))
    print(f"{torch.get_num_threads()} threads, batch of {settings.batch_size}, float32: median of {TURNS} steps")
    for way, taken in seconds.items():
        print(f"{way:10} {statistics.median(taken[WARM:]):.2f} s")


if __name__ == "__main__":
    main()
