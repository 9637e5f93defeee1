"""Training a representation decoder alone, on the stored memory of a detector.

The detector has learned boxes only, so that no variant is favoured by its features. Its memory of training crops, the
boxes it detects in them, and the nucleus of each box are computed once; a variant's decoder and type head are then
trained on them in minutes. Levels that only the representation decoder reads are stored as the backbone gives them,
and the variant learns their projection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from celldetr.config import DETECTION, Recipe, TrainConfig
from celldetr.data.dataset import Targets, TrainingSet, collate
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Checkpoint, load_checkpoint
from celldetr.model.device import in_bf16, pick_device
from celldetr.model.memory import Memory
from celldetr.research.ablation.study import Study
from celldetr.research.ablation.trial import Trial, score_trial
from celldetr.training.box_sources import box_sources
from celldetr.training.card import provenance, save_model
from celldetr.training.criterion import Losses, TrainingOutput, class_weights
from celldetr.training.data import load_data
from celldetr.training.folder import MODEL_FOLDER
from celldetr.training.loop import Listener, TrainingProgress, train
from celldetr.training.processes import start_fabric
from celldetr.training.supervised import SupervisedLoss, matched_boxes
from celldetr.training.trainer import Trainer, image_generators, random_places

DETECTOR = "detector"  # folder beside the variants'


@dataclass(frozen=True)
class StoredCrop:
    """Memory of a training crop.

    Attributes:
        tokens: (S, d) float16, of the encoder's levels.
        levels: stride -> (C, h, w) float16 of the backbone, of the levels that only the representation decoder reads.
        targets: its nuclei.
        detected: boxes (M, 4) that were matched to a nucleus, and which nucleus (M,).
        origin: (2,) pixels.
    """

    tokens: Tensor
    levels: dict[int, Tensor]
    targets: Targets
    detected: tuple[Tensor, Tensor]
    origin: Tensor


@dataclass(frozen=True)
class StoredBatch:
    """Memory of B crops; attributes as of ``StoredCrop``, as float32, with the geometry of one."""

    memory: Memory
    levels: dict[int, Tensor]
    targets: list[Targets]
    detected: list[tuple[Tensor, Tensor]]
    origin: Tensor

    def to(self, device: torch.device) -> StoredBatch:
        """The same batch on a device, that of ``memory``."""
        return StoredBatch(
            self.memory.with_tokens(self.memory.tokens.to(device)),
            {stride: level.to(device) for stride, level in self.levels.items()},
            [each.to(device) for each in self.targets],
            [(boxes.to(device), nucleus.to(device)) for boxes, nucleus in self.detected],
            self.origin.to(device),
        )


@dataclass(frozen=True)
class StoredCrops(Dataset[StoredCrop]):
    """Stored crops of one detector, drawn anew in each epoch: ``TrainConfig`` says how many.

    Attributes:
        crops: all there are.
        layout: the geometry that they share, ``Memory`` of one crop without tokens.
        counts: cells of each type in the training data.
        seed: of the order.
    """

    crops: list[StoredCrop]
    layout: Memory
    counts: list[int]
    seed: int = 0

    def __getitem__(self, index: int) -> StoredCrop:
        epoch, place = divmod(index, len(self.crops))
        return self.crops[int(np.random.default_rng([self.seed, epoch]).permutation(len(self.crops))[place])]

    def collate(self, crops: Sequence[StoredCrop]) -> StoredBatch:
        """Crops -> a batch."""
        count, layout = len(crops), self.layout
        memory = replace(
            layout,
            tokens=torch.stack([crop.tokens for crop in crops]).float(),
            ratios=layout.ratios.expand(count, -1, -1),
            sizes=layout.sizes.expand(count, -1),
        )
        levels = {s: torch.stack([crop.levels[s] for crop in crops]).float() for s in crops[0].levels}
        targets, detected = [crop.targets for crop in crops], [crop.detected for crop in crops]
        return StoredBatch(memory, levels, targets, detected, torch.stack([crop.origin for crop in crops]))


class DecoderLoss(SupervisedLoss):
    """A network with the loss of types, on stored memory."""

    def __init__(self, network: CellDETR, config: TrainConfig, type_weights: Tensor) -> None:
        """Freeze all but the representation decoder, the type head and the projections that only the former reads."""
        super().__init__(network, config.model_copy(update={"freeze": DETECTION}), type_weights)
        for stride in set(network.own_strides) - set(network.config.encoder_strides):  # the encoder's memory is stored
            network.projections[network.config.strides.index(stride)].requires_grad_(True)

    def forward(
        self, batch: Any, generators: Sequence[torch.Generator], measure: bool = False
    ) -> tuple[Tensor, Losses]:
        """See ``TrainingLoss``; the batch is a ``StoredBatch``."""
        memories = self.network.complete(batch.memory, batch.levels)
        sources = box_sources(self.config, batch.detected, batch.targets, generators)
        output = TrainingOutput(types=self.box_types(memories, batch.origin, sources))
        losses = self.criterion(output, batch.targets)
        return self.criterion.total(losses), {name: value.detach() for name, value in losses.items()}


def run_variants(trials: Sequence[Trial], device: str = "auto", listener: Listener | None = None) -> None:
    """Train and score the trials of a seed on the crops of its detector, which is trained unless it is there."""
    study, seed = trials[0].study, trials[0].seed
    detector = load_checkpoint(train_detector(trials[0], device, listener), device=pick_device(device))
    crops = store_crops(study, seed, detector, pick_device(device))
    for trial in trials:
        run_variant(trial, detector, crops, device, listener)


def train_detector(trial: Trial, device: str = "auto", listener: Listener | None = None) -> Path:
    """The detector of a trial's seed; trained unless it is there. Returns the folder of its checkpoint."""
    folder = replace(trial, variant=DETECTOR).folder
    recipe = trial.study.detector_recipe(trial.seed)
    return train(recipe, folder, resume=True, device=device, listener=listener)


@torch.no_grad()
def store_crops(study: Study, seed: int, checkpoint: Checkpoint, device: torch.device) -> StoredCrops:
    """Run the detector over training crops.

    Args:
        study: says how many; crops and their augmentation are those of the detector's recipe.
        seed: of the crops.
        checkpoint: the detector.
        device: where to run; crops stay on the CPU.
    """
    recipe = study.detector_recipe(seed)
    data = load_data(recipe)
    crops = TrainingSet(data.samples, recipe.augment, seed, study.crops, data.weights)
    loss = SupervisedLoss(checkpoint.network.to(device), recipe.training, class_weights(data.counts, 0)).eval()
    network = loss.network
    stored: list[StoredCrop] = []
    layout = None
    half = in_bf16(recipe.training.precision, device)
    for batch in DataLoader(crops, batch_size=4, num_workers=recipe.training.workers, collate_fn=collate):
        batch = batch.to(device)
        origin, sizes = random_places(batch.images, image_generators(seed, 0, len(stored), len(batch.images)))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            levels = network.levels(network.normalise(batch.images))
            memories = network.encode_levels(levels, sizes, None, origin)
            last = network.detect(memories, origin).last
        matches = loss.criterion.match([last], batch.targets)[0]
        detected = matched_boxes(last.boxes.float(), matches)
        memory = memories.detection
        layout = layout or replace(
            memory, tokens=memory.tokens[:1, :0], ratios=memory.ratios[:1], sizes=memory.sizes[:1]
        )
        for i, (targets, (boxes, nucleus)) in enumerate(zip(batch.targets, detected, strict=True)):
            extra = {stride: levels[stride][i].half().cpu() for stride in network.own_strides}
            tokens, pairs = memory.tokens[i].half().cpu(), (boxes.cpu(), nucleus.cpu())
            stored.append(StoredCrop(tokens, extra, targets.to(torch.device("cpu")), pairs, origin[i].cpu()))
    assert layout is not None
    return StoredCrops(stored, layout, data.counts, seed)


def run_variant(
    trial: Trial,
    detector: Checkpoint,
    crops: StoredCrops,
    device: str = "auto",
    listener: Listener | None = None,
) -> None:
    """Train a variant's decoder and type head on stored crops, put them into the detector, and score that."""
    recipe = trial.study.recipe_of(trial.variant, trial.seed)
    start = time.monotonic()
    network, loss = fit(recipe, detector, crops, device, listener)
    seconds = time.monotonic() - start
    trial.folder.mkdir(parents=True, exist_ok=True)
    save_model(
        trial.folder / MODEL_FOLDER,
        network,
        recipe,
        detector.card.threshold,
        metrics={"step": recipe.training.steps},
        sources=provenance(recipe),
        dtype=torch.float16,
    )
    score_trial(trial, trial.folder / MODEL_FOLDER, [(seconds, None, None)], device, {"type_loss": loss})


def fit(
    recipe: Recipe, detector: Checkpoint, crops: StoredCrops, device: str = "auto", listener: Listener | None = None
) -> tuple[CellDETR, float]:
    """Train the representation decoder and type head of a recipe's network, and the projections of its own levels.

    Args:
        recipe: the variant; ``training.steps``, ``batch_size`` and rates are of the decoder's training.
        detector: gives all other weights, which stay as they are.
        crops: of the detector.
        device: where to train.
        listener: called after every step.

    Returns:
        the whole network with averaged weights, and the mean loss of the last tenth of the steps.
    """
    settings = recipe.training.model_copy(update={"workers": 0})  # the crops are in memory
    torch.manual_seed(settings.seed)
    network = CellDETR(recipe.model.model_copy(update={"pretrained": "none"}))
    own = {name for name in network.state_dict() if name.startswith(("representer.", "type_head."))}
    shared = {name: value for name, value in detector.network.state_dict().items() if name not in own}
    network.load_state_dict(network.state_dict() | shared)
    loss = DecoderLoss(network, settings, class_weights(crops.counts, settings.class_balance))
    trainer = Trainer(loss, settings, start_fabric(device, 1))
    trainer.distribute()
    losses: list[float] = []
    clock = time.monotonic()
    for step, batch in enumerate(trainer.batches(replace(crops, seed=settings.seed), crops.collate)):
        losses.append(trainer.step(step, batch)["loss"])
        if listener:
            speed = (step + 1) * settings.batch_size / max(time.monotonic() - clock, 1e-9)
            listener(TrainingProgress(step + 1, settings.steps, losses[-1], speed))
    last = losses[-max(1, len(losses) // 10) :]
    return cast(DecoderLoss, trainer.average.module).network, sum(last) / len(last)
