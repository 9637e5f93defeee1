"""Training a representation decoder alone, on the remembered memory of a detector.

The detector has learned boxes only (no type loss), so that no variant is favoured by what its features were made for.
Its memory of training crops, the boxes it finds in them, and which nucleus each is, are computed once; a variant's
decoder and type head are then trained on them in minutes, with the losses and feeding modes of any training. Levels
that only the representation decoder reads are remembered as the backbone gives them: the detector has not learned their
projection, so the variant learns it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from celldetr.config import DETECTION, Recipe
from celldetr.data.dataset import TrainingSet, collate
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Checkpoint, save_checkpoint
from celldetr.model.device import in_bf16
from celldetr.model.memory import Memory
from celldetr.research.ablation.study import Study
from celldetr.research.ablation.trial import find_result, score_trial, trial_folder
from celldetr.training.box_sources import feed
from celldetr.training.card import make_card
from celldetr.training.criterion import balance
from celldetr.training.crops import image_generators
from celldetr.training.data import load_data
from celldetr.training.ema import Average
from celldetr.training.folder import MODEL_FOLDER
from celldetr.training.labels import Labels
from celldetr.training.loop import Listener, Progress, train
from celldetr.training.matcher import match
from celldetr.training.optim import build_optimizer, clip_gradients, set_rate
from celldetr.training.processes import normaliser
from celldetr.training.supervised import ORIGIN_PX, Supervised, matched, matching_costs

DETECTOR = "detector"  # folder beside the variants'


@dataclass(frozen=True)
class Crop:
    """What is remembered of a training crop.

    Attributes:
        tokens: (S, d) float16, of the encoder's levels.
        levels: stride -> (C, h, w) float16 of the backbone, of the levels that only the representation decoder reads.
        boxes, types: of its nuclei, (N, 4) and (N,).
        found: boxes (M, 4) that were detected on a nucleus, and which nucleus (M,).
        origin: (2,) pixels.
    """

    tokens: Tensor
    levels: dict[int, Tensor]
    boxes: Tensor
    types: Tensor
    found: tuple[Tensor, Tensor]
    origin: Tensor


@dataclass(frozen=True)
class Memo:
    """Remembered crops of one detector, and the geometry that they share (``Memory`` of one crop, without tokens)."""

    crops: list[Crop]
    layout: Memory
    counts: list[int]


def train_detector(study: Study, seed: int, out: Path, device: str = "auto", listener: Listener | None = None) -> Path:
    """The detector of a seed; trained unless it is there. Returns the folder of its checkpoint."""
    folder = trial_folder(out, study, DETECTOR, seed)
    return train(study.detector_recipe(seed), folder, resume=True, device=device, listener=listener)


@torch.no_grad()
def remember(study: Study, seed: int, checkpoint: Checkpoint, device: torch.device) -> Memo:
    """Run the detector over training crops.

    Args:
        study: says how many; crops and their augmentation are those of the detector's recipe.
        seed: of the crops.
        checkpoint: the detector.
        device: where to run; what is remembered stays on the CPU.
    """
    recipe = study.detector_recipe(seed)
    data = load_data(recipe)
    crops = TrainingSet(data.samples, recipe.augment, seed, study.crops, data.weights)
    network = checkpoint.network.eval().to(device)
    remembered: list[Crop] = []
    layout = None
    weights = matching_costs(recipe.training)
    half = in_bf16(recipe.training.precision, device)
    for batch in DataLoader(crops, batch_size=4, num_workers=recipe.training.workers, collate_fn=collate):
        origin = torch.stack(
            [torch.rand(2, generator=each) for each in image_generators(seed, 0, len(remembered), len(batch.images))]
        )
        origin = origin * ORIGIN_PX
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            sizes = torch.full((len(batch.images), 2), float(batch.images.shape[-1]), device=device)
            levels = network.levels(network.normalise(batch.images.to(device)))
            memories = network.encode_levels(levels, sizes, None, origin.to(device))
            found = network.detect(memories, origin.to(device)).last
        pairs = match(found.logits[None], found.boxes[None], [b.to(device) for b in batch.boxes], **weights)[0]
        memory = memories.detection
        layout = layout or replace(
            memory, tokens=memory.tokens[:1, :0], ratios=memory.ratios[:1], sizes=memory.sizes[:1]
        )
        indices = [(query.cpu(), nucleus.cpu()) for query, nucleus in pairs]
        each = zip(batch.boxes, batch.types, matched(found.boxes.float().cpu(), indices), strict=True)
        for i, (boxes, types, hits) in enumerate(each):
            extra = {stride: levels[stride][i].half().cpu() for stride in network.own_strides}
            remembered.append(Crop(memory.tokens[i].half().cpu(), extra, boxes, types, hits, origin[i]))
    assert layout is not None
    return Memo(remembered, layout, data.counts)


def run_variant(
    study: Study,
    variant: str,
    seed: int,
    out: Path,
    detector: Checkpoint,
    memo: Memo,
    device: str = "auto",
    listener: Listener | None = None,
) -> Path:
    """Train a variant's decoder and type head on a memo, put them into the detector, and score that.

    Returns:
        the file of the result.
    """
    folder = trial_folder(out, study, variant, seed)
    if path := find_result(study, variant, seed, out):
        return path
    recipe = study.recipe_of(variant, seed)
    start = time.monotonic()
    network, loss = fit(recipe, detector, memo, listener)
    seconds = time.monotonic() - start
    folder.mkdir(parents=True, exist_ok=True)
    card = make_card(recipe, detector.card.threshold, {}, recipe.training.steps)
    save_checkpoint(folder / MODEL_FOLDER, network, card, dtype=torch.float16)
    curve = [(seconds, None, None)]
    return score_trial(study, variant, seed, folder / MODEL_FOLDER, folder, curve, device, {"type_loss": loss})


def fit(recipe: Recipe, detector: Checkpoint, memo: Memo, listener: Listener | None = None) -> tuple[CellDETR, float]:
    """Train the representation decoder and type head of a recipe's network, and the projections of its own levels.

    Args:
        recipe: the variant; ``training.steps``, ``batch_size`` and rates are of the decoder's training.
        detector: gives all other weights, which stay as they are.
        memo: of the detector, ``remember``.
        listener: told of progress.

    Returns:
        the whole network with averaged weights, and the mean type loss of the last tenth of the steps.
    """
    settings = recipe.training
    device = memo.layout.ratios.device
    torch.manual_seed(settings.seed)
    network = CellDETR(recipe.model.model_copy(update={"pretrained": "none"})).to(device)
    own = {name for name in network.state_dict() if name.startswith(("representer.", "type_head."))}
    shared = {name: value for name, value in detector.network.state_dict().items() if name not in own}
    network.load_state_dict(network.state_dict() | shared)
    frozen = settings.model_copy(update={"freeze": DETECTION})
    objective = Supervised(network, frozen, balance(memo.counts, settings.class_balance).to(device)).train()
    for stride in network.own_strides:
        network.projections[network.config.strides.index(stride)].requires_grad_(True)
    optimizer, average = build_optimizer(network, settings), Average(network, settings.ema)
    chance = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    clock = time.monotonic()
    order: list[int] = []
    for step in range(settings.steps):
        set_rate(optimizer, step, settings)
        if len(order) < settings.batch_size:
            order = torch.randperm(len(memo.crops), generator=chance).tolist() + order
        batch = [memo.crops[order.pop()] for _ in range(settings.batch_size)]
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=chance)))  # dropout draws from the global generator
        loss = _type_loss(objective, memo, batch, step)
        if not math.isfinite(now := float(loss.detach())):
            raise InputError(f"{recipe.name}: loss is {now} at step {step}; lower training.lr={settings.lr:g}")
        loss.backward()
        clip_gradients(network, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(network, step)
        losses.append(now)
        if listener:
            speed = (step + 1) * settings.batch_size / max(time.monotonic() - clock, 1e-9)
            listener(Progress(step + 1, settings.steps, losses[-1], speed))
    last = losses[-max(1, len(losses) // 10) :]
    return average.network, sum(last) / len(last)


def _type_loss(objective: Supervised, memo: Memo, batch: Sequence[Crop], step: int) -> Tensor:
    """Weighted type loss of remembered crops, by the mode of the objective."""
    network, settings, layout = objective.network, objective.config, memo.layout
    device, count = layout.ratios.device, len(batch)
    tokens = torch.stack([crop.tokens for crop in batch]).to(device).float()
    memory = replace(
        layout,
        tokens=tokens,
        ratios=layout.ratios.expand(count, -1, -1),
        sizes=layout.sizes.expand(count, -1),
    )
    levels = {s: torch.stack([crop.levels[s] for crop in batch]).to(device).float() for s in network.own_strides}
    with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(settings.precision, device)):
        memories = network.complete(memory, levels)
        fed = feed(
            settings,
            [(boxes.to(device), nucleus.to(device)) for boxes, nucleus in (crop.found for crop in batch)],
            [crop.boxes.to(device) for crop in batch],
            image_generators(settings.seed, step, 0, count),
        )
        origin = torch.stack([crop.origin for crop in batch]).to(device)
        nuclei = normaliser(sum(len(crop.boxes) for crop in batch), device)
        labels = Labels([crop.types.to(device) for crop in batch])
        terms = objective.type_losses(memories, fed, labels, origin, nuclei)
    return settings.w_type * torch.stack(list(terms.values())).sum()
