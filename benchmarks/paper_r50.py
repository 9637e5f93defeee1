"""The recipe ``paper-r50``: does it learn, what memory does it need, what does it compute? No stage is made smaller.

CELLDETR_DATA=<folder> python benchmarks/paper_r50.py | tee benchmarks/results/paper_r50.txt

Fifty steps on 25 tiles show that the loss falls and nothing else; the recipe itself is a GPU's work of 16,600 steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from celldetr.config import ModelConfig, Recipe
from celldetr.data.dataset import Batch, Targets, TrainingSet, collate, no_outlines
from celldetr.model.celldetr import CellDETR
from celldetr.recipes import load_recipe
from celldetr.training.criterion import class_weights
from celldetr.training.data import load_data
from celldetr.training.optim import build_optimizer, clip_gradients, set_rate
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators

SAMPLE = "{card: pannuke-breast-mini, split: all, types: {neoplastic: neoplastic, other: ''}}"
CHANGES = (
    f"train=[{SAMPLE}]",
    f"validation=[{SAMPLE}]",
    "model.pretrained=none",  # no ImageNet weights of a ResNet-50 come with this project
    "training.precision=32",
    "training.warmup=10",  # of 600, which would end after the last of our steps
)
STAGES = ("backbone", "projections", "encoder", "detector", "representer", "type_head")
PROBE = 4  # tiles on which the loss is taken before and after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1, help="of the training; the recipe has 16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("paper-r50", [*CHANGES, f"training.batch_size={options.batch}"])
    side, model = recipe.augment.crop, recipe.model
    print(f"paper-r50: {side} x {side} px at {model.mpp} um, {model.num_queries} queries, float32, one thread of a CPU")
    print("\nPeak resident memory, each in a process of its own (MB); before: imports and weights")
    print("batch  pass                before    peak  seconds")
    for batch in (1, 2):
        for name, work in (("forward", forward), ("forward + backward", both)):
            before, peak, seconds = alone(work, recipe, batch)
            print(f"{batch:5d}  {name:18s}  {before:6.0f}  {peak:6.0f}  {seconds:7.1f}", flush=True)
    count(recipe)
    learn(recipe, options.steps)


def images(recipe: Recipe, batch: int) -> Tensor:
    side = recipe.augment.crop
    return torch.randint(0, 256, (batch, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def forward(network: CellDETR, recipe: Recipe, batch: int) -> None:
    """As in prediction, but that all queries are represented."""
    with torch.inference_mode():
        network.eval()(images(recipe, batch))


def both(network: CellDETR, recipe: Recipe, batch: int) -> None:
    """As in training: 25 nuclei an image, losses of all layers, gradients of all weights."""
    draw = torch.Generator().manual_seed(1)
    targets = []
    for _ in range(batch):
        boxes = torch.cat([torch.rand(25, 2, generator=draw), torch.full((25, 2), 0.1)], 1)
        types, order = torch.randint(0, 5, (25,), generator=draw), torch.arange(25)
        spots = torch.full_like(order, -1), torch.zeros(0, 5)
        targets.append(Targets(boxes, types, torch.ones(25), *spots, order, no_outlines(25)))
    objective = SupervisedLoss(network, recipe.training, torch.ones(len(recipe.model.types))).train()
    objective(Batch(images(recipe, batch), targets), image_generators(0, 0, 0, batch))[0].backward()


def alone(work: Callable[[CellDETR, Recipe, int], None], recipe: Recipe, batch: int) -> tuple[float, float, float]:
    """Resident MB before and at the peak, and seconds, of work in a process of its own."""
    context = multiprocessing.get_context("fork")  # has imported everything; nothing has been computed yet
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, recipe, batch, sender))
    process.start()
    sender.close()
    found: tuple[float, float, float] = receiver.recv()
    process.join()
    return found


def _measure(work: Callable[[CellDETR, Recipe, int], None], recipe: Recipe, batch: int, sender: Connection) -> None:
    torch.manual_seed(0)
    network = CellDETR(recipe.model)
    page = resource.getpagesize() / 1e6
    before = int(Path("/proc/self/statm").read_text().split()[1]) * page
    start = time.perf_counter()
    work(network, recipe, batch)
    seconds = time.perf_counter() - start
    sender.send((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, seconds))


def count(recipe: Recipe) -> None:
    """Parameters and floating-point operations of one image, by stage."""
    torch.manual_seed(0)
    network = CellDETR(recipe.model).eval()  # dropout off; with gradients, so that no layer takes a fused way
    # The counter knows matrix products and convolutions. Attention is computed by its definition, hence counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, depth=8) as counter:
        output = network(images(recipe, 1))
        ahead = by_stage(counter)
        loss = output.representation.logits.sum()
        for layer in output.detection.layers:
            loss = loss + layer.boxes.sum() + layer.logits.sum()
        loss.backward()
    total = counter.get_total_flops() / 1e9
    sampled = sampling(recipe.model, recipe.augment.crop)
    print("\nOne image, forward, by stage. GFLOP, a multiply-add being two: matrix products and convolutions by")
    print(
        "torch.utils.flop_counter; and the sampling of deformable attention, which it cannot see, by hand: ten a point"
    )
    print("and channel, four neighbours and then the weight")
    print("stage         parameters  products  sampling")
    rows = [
        (
            stage,
            sum(p.numel() for name, p in network.named_parameters() if name.startswith(f"{stage}.")),
            ahead[stage],
            sampled.get(stage, 0.0),
        )
        for stage in STAGES
    ]
    whole = sum(p.numel() for p in network.parameters())
    rows.append(("all", whole, sum(row[2] for row in rows), sum(row[3] for row in rows)))
    for stage, parameters, products, points in rows:
        print(f"{stage:12s}  {parameters:10,d}  {products:8.2f}  {points:8.2f}")
    print(f"forward and backward: {total:.2f} GFLOP of products")
    print(
        "The representer is counted for all queries; in prediction it sees cells above the threshold only.", flush=True
    )


def by_stage(counter: FlopCounterMode) -> dict[str, float]:
    """GFLOP that were counted in each stage so far."""
    found = {}
    for stage in STAGES:
        names = {f"CellDETR.{stage}"} if stage != "projections" else {f"CellDETR.projections.{i}.0" for i in range(9)}
        counts = counter.get_flop_counts()
        found[stage] = sum(sum(counts[name].values()) for name in names if name in counts) / 1e9
    return found


def sampling(model: ModelConfig, side: int) -> dict[str, float]:
    """GFLOP of reading points in deformable attention, by stage."""

    def of(queries: int, layers: int, levels: int) -> float:
        return 10e-9 * layers * queries * levels * model.points * model.d_model

    tokens = sum((side // stride) ** 2 for stride in model.encoder_strides)
    return {
        "encoder": of(tokens, model.encoder_layers, len(model.encoder_strides)),
        "detector": of(model.num_queries, model.detection_layers, len(model.encoder_strides)),
        "representer": of(model.num_queries, model.representation_layers, len(model.representation_strides)),
    }


def learn(recipe: Recipe, steps: int) -> None:
    """Train, and take the loss of the same few tiles before and after."""
    settings, data = recipe.training, load_data(recipe)
    crops = TrainingSet(data.samples, recipe.augment, settings.seed, steps * settings.batch_size, data.weights)
    torch.manual_seed(settings.seed)
    network = CellDETR(recipe.model)
    objective = SupervisedLoss(network, settings, class_weights(data.drawn, settings.class_balance)).train()
    optimizer = build_optimizer(network, settings)
    probe = collate([crops[i] for i in range(PROBE)])
    print(f"\n{steps} steps of {settings.batch_size} tile(s) of pannuke-breast-mini, from random weights")
    before = losses(objective, probe)
    print("steps    loss, mean of five", flush=True)
    recent: list[float] = []
    start = time.perf_counter()
    for step in range(steps):
        size = settings.batch_size
        batch = collate([crops[i] for i in range(step * size, (step + 1) * size)])
        set_rate(optimizer, step, settings)
        torch.manual_seed(step)
        loss, _ = objective(batch, image_generators(settings.seed, step, 0, size))
        loss.backward()
        clip_gradients(network, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(float(loss.detach()))
        if (step + 1) % 5 == 0:
            print(f"{step - 3:2d}-{step + 1:2d}  {sum(recent[-5:]) / 5:9.3f}", flush=True)
    seconds = (time.perf_counter() - start) / steps
    after = losses(objective, probe)
    print(f"{seconds:.1f} s a step. The loss of {PROBE} of the tiles, before and after:")
    for name in ("all", "class", "l1", "giou", "type"):
        print(f"{name:6s}  {before[name]:8.3f}  {after[name]:8.3f}")


@torch.no_grad()
def losses(objective: SupervisedLoss, batch: Batch) -> dict[str, float]:
    """The loss of tiles, and the sums of its parts over layers, unweighted; dropout with the same seed each time."""
    found = dict.fromkeys(("all", "class", "l1", "giou", "type"), 0.0)
    for i in range(len(batch.images)):
        torch.manual_seed(i)
        one = Batch(batch.images[i : i + 1], batch.targets[i : i + 1])
        total, terms = objective(one, image_generators(0, 0, i, 1))
        found["all"] += float(total) / len(batch.images)
        for name, value in terms.items():
            found[name.rpartition("/")[2]] += float(value) / len(batch.images)
    return found


if __name__ == "__main__":
    main()
