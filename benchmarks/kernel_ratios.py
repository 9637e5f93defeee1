"""What each hand-written kernel and folding brings: a whole tile, or a step of training, without it and with it.

python benchmarks/kernel_ratios.py | tee benchmarks/results/kernel_ratios.txt

With and without take turns in one process (A B, B A, ...), and the median of the pairs' ratios is printed: what else
runs on the machine hits both. A tile goes from uint8 pixels to cells; a step of training from a batch of 256 px to its
gradients.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from celldetr.config import Precision, TrainConfig
from celldetr.data.dataset import Batch, Targets, no_outlines
from celldetr.model import deformable, depthwise_cpu, detection, dropout, inference, layers, near_attention
from celldetr.model.checkpoint import Checkpoint, load_checkpoint
from celldetr.model.folding import SameConvolution
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.training.supervised import SupervisedLoss
from tile_speed import tissue

Without = Callable[[nn.Module], Any]
SIZES = ((256, 4), (512, 4))
STEP_PX = 256
PAIRS, WARM = 11, 2


@contextmanager
def plain_attention(network: nn.Module) -> Iterator[None]:
    """Multi-scale deformable attention of PyTorch's grid_sample."""
    found = [module for module in network.modules() if isinstance(module, layers.DeformableAttention)]
    for module in found:
        module.fused = False
    try:
        yield
    finally:
        for module in found:
            module.fused = True


def attention_in_float32(_: nn.Module) -> Any:
    """The kernel reads float32 copies of bfloat16 values."""
    fused = deformable.deformable_attention_fused

    def single(value: Tensor, shapes: Any, offsets: Tensor, logits: Tensor, *others: Any, inside: bool) -> Tensor:
        out = fused(value.float(), shapes, offsets.float(), logits.float(), *others, inside=inside)
        return out.to(value.dtype)

    return patch.object(layers, "deformable_attention_fused", single)


def masked_near_attention(_: nn.Module) -> Any:
    """PyTorch's attention among queries, with those that are not near masked."""

    def masked(q: Tensor, k: Tensor, v: Tensor, heads: int, neighbours: near_attention.NearQueries) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=neighbours.mask())
        return mixed.transpose(1, 2).flatten(2)

    return patch.object(detection, "near_attention", masked)


def all_queries(network: nn.Module) -> Any:
    """PyTorch's attention among all queries."""
    return patch.object(network.detector, "near", False)


@contextmanager
def unfolded(network: nn.Module) -> Iterator[None]:
    """The backbone as it was trained, BatchNorm apart."""
    folded = network._modules["backbone"]
    network._modules["backbone"] = network.plain  # type: ignore[assignment]
    try:
        yield
    finally:
        network._modules["backbone"] = folded


@contextmanager
def activation_apart(network: nn.Module) -> Iterator[None]:
    """BatchNorm folded, but each activation a pass of its own, and weights converted each time."""
    found = [m for m in network._modules["backbone"].modules() if type(m).__name__ == "FoldedConvolution"]  # type: ignore[union-attr]
    flags = [m.fusible for m in found]
    for module in found:
        module.fusible = False
    try:
        yield
    finally:
        for module, flag in zip(found, flags, strict=True):
            module.fusible = flag


@contextmanager
def images_padded(network: nn.Module) -> Iterator[None]:
    """Images copied with their zeros before each convolution of TensorFlow's padding."""
    found = [m for m in network._modules["backbone"].modules() if isinstance(m, SameConvolution)]  # type: ignore[union-attr]
    kept = [m._modules.pop("whole") for m in found]
    for module in found:
        module.whole = None
    try:
        yield
    finally:
        for module, whole in zip(found, kept, strict=True):
            del module.whole
            module._modules["whole"] = whole


def any_number_of_queries(_: nn.Module) -> Any:
    """As many queries as score enough, not the next multiple of 128."""
    return patch.object(detection, "QUERY_STEP", 1)


@contextmanager
def one_thread(_: nn.Module) -> Iterator[None]:
    """Kernels on one thread."""
    with ExitStack() as stack:
        for name in ("deformable_cpu", "near_attention_cpu", "depthwise_cpu"):
            module = sys.modules.get(f"celldetr.model.{name}")
            if module is not None:
                stack.enter_context(patch.object(module, "run_in_pieces", lambda work, items, threads: work(0, items)))
        yield


TILE: dict[str, Without] = {
    "deformable attention: kernel / grid_sample": plain_attention,
    "deformable attention: bfloat16 pairs / float32 copies": attention_in_float32,
    "near attention: kernel / mask": masked_near_attention,
    "near attention: kernel / all queries": all_queries,
    "folding: BatchNorm and activation inside / as trained": unfolded,
    "folding: activation inside / apart": activation_apart,
    "folding: one more zero in the kernel / image padded": images_padded,
    "query step of 128 / 1": any_number_of_queries,
    "kernels on all threads / on one": one_thread,
}


def unfrozen(network: nn.Module) -> Any:
    """BatchNorm as a layer of its own in training."""
    return patch.object(network.backbone, "_frozen", (network.backbone.body,))


def gradients_of_onednn(_: nn.Module) -> Any:
    """Gradients of depthwise convolutions by oneDNN."""

    def plain(x: Tensor, weight: Tensor, grad: Tensor, stride: Any, before: Any, *, of_input: bool) -> Any:
        wanted, groups = (of_input, True, False), len(weight)
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, before, (1, 1), False, (0, 0), groups, wanted
        )[:2]

    return patch.object(depthwise_cpu, "depthwise_backward", plain)


def dropout_of_pytorch(_: nn.Module) -> Any:
    """Dropout as PyTorch draws it."""
    return patch.object(dropout.Dropout, "forward", lambda self, x: functional.dropout(x, self.p, self.training))


STEP: dict[str, Without] = {
    "dropout: ours / PyTorch's": dropout_of_pytorch,
    "deformable attention: kernel / grid_sample": plain_attention,
    "frozen BatchNorm in the weights / a layer": unfrozen,
    "depthwise convolutions: gradients of ours / of oneDNN": gradients_of_onednn,
    "kernels on all threads / on one": one_thread,
}


def ratio(turn: Callable[[], object], without: Callable[[], Any], pairs: int) -> str:
    """Milliseconds with, and the median of how many times longer a turn takes without: wall, and CPU of all threads."""
    times = np.zeros((pairs + WARM, 2, 2))
    for pair in range(pairs + WARM):
        for off in (0, 1) if pair % 2 == 0 else (1, 0):
            with without() if off else ExitStack():
                wall, cpu = time.perf_counter(), time.process_time()
                turn()
                times[pair, off] = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = np.median(times[WARM:, 1] / times[WARM:, 0], axis=0)
    return f"  {np.median(times[WARM:, 0, 0]) * 1e3:7.1f} ms x {wall:5.2f} (cpu {cpu:5.2f})"


def tiles(checkpoint: Checkpoint, precision: Precision, only: str, pairs: int) -> None:
    """Print the ratios of a tile."""
    predictor = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold, precision=precision)
    network = predictor.network
    object.__setattr__(network, "plain", checkpoint.network.backbone)
    batches = [tissue(batch, size) for size, batch in SIZES]
    for name, without in TILE.items():
        if only not in name or (precision == "32" and "bfloat16" in name):
            continue
        shown = []
        for images in batches:
            with torch.inference_mode():
                shown.append(ratio(partial(predictor.predict_tiles, images), partial(without, network), pairs))
        print(f"tile {precision:4} {name:62}" + "".join(shown), flush=True)


def batch_of(predictor: TilePredictor, images: list[NDArray[np.uint8]]) -> Batch:
    """Tiles whose nuclei are those that the model finds."""
    targets = []
    for image, cells in zip(images, predictor.predict_tiles(images), strict=True):
        boxes = box_convert(torch.from_numpy(np.asarray(cells.boxes, np.float32)) / image.shape[0], "xyxy", "cxcywh")
        types, count = torch.from_numpy(cells.probabilities).argmax(1), len(cells)
        nowhere = torch.full((count,), -1), torch.zeros(0, cells.probabilities.shape[1])
        targets.append(Targets(boxes, types, torch.ones(count), *nowhere, torch.arange(count), no_outlines(count)))
    return Batch(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()), targets)


def steps(checkpoint: Checkpoint, precision: Precision, only: str, pairs: int) -> None:
    """Print the ratios of a step of training."""
    network = copy.deepcopy(checkpoint.network)
    batch = batch_of(TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold), tissue(4, STEP_PX))
    loss = SupervisedLoss(network, TrainConfig(), torch.ones(len(network.config.types))).train()

    def step() -> None:
        generators = [torch.Generator().manual_seed(i) for i in range(len(batch.images))]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            value = loss(batch, generators)[0]
        value.backward()
        loss.zero_grad(set_to_none=True)

    step()
    for name, without in STEP.items():
        if only in name:
            shown = ratio(step, partial(without, network), pairs)
            print(f"step {precision:4} {name:62}{shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="only these")
    parser.add_argument("--only", default="", help="what the name contains")
    parser.add_argument("--of", choices=["tile", "step"], help="only these")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    given = parser.parse_args()
    if given.threads is None:
        print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}", flush=True)
        print("milliseconds with it, and how many times as long without it; tiles of 256 px x 4 and 512 px x 4")
        for count in (1, 2):  # a process each: the number of threads is settled once
            environment = {**os.environ, "OMP_NUM_THREADS": str(count)}
            subprocess.run([sys.executable, *sys.argv, "--threads", str(count)], check=True, env=environment)
        return
    torch.set_num_threads(given.threads)
    checkpoint = load_checkpoint(find_model("small-20x"))
    precisions: tuple[Precision, ...] = ("bf16", "32") if inference.in_bf16("auto", torch.device("cpu")) else ("32",)
    print(f"{given.threads} thread{'s' * (given.threads > 1)}", flush=True)
    for precision in precisions:
        if given.of != "step":
            tiles(checkpoint, precision, given.only, given.pairs)
        if given.of != "tile":
            steps(checkpoint, precision, given.only, given.pairs)


if __name__ == "__main__":
    main()
