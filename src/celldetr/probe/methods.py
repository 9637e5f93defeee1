"""What is compared: ways to turn the nuclei of a labelled image into vectors.

A method embeds all boxes of an image in one call, so that what a network computes once an image is counted once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.api import Model, load_model
from celldetr.config import ModelConfig
from celldetr.data.sample import Sample
from celldetr.errors import InputError, UntypedWarning
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.backbone import LITE0
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, read_card
from celldetr.model.device import pick_device
from celldetr.model.display_names import short_titles
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.probe.crops import CROP_PX, CropEmbedder
from celldetr.probe.encoder import EncoderFile
from celldetr.probe.handmade import FEATURES, handmade_features
from celldetr.probe.pooled import PooledEmbedder

Embed = Callable[[Sample], NDArray[np.float32]]
"""A labelled image at the method's mpp -> (N, d) one vector for each of its boxes."""

LARGEST_CROP = 512
SEED = "$seed"  # in the name of a checkpoint: one was trained with each seed, and they are one row
_OTHERS = re.compile(r"crops(-\d{1,4})?|pooled|handmade|random|imagenet")  # rows that are no checkpoint


@dataclass(frozen=True)
class FinetuneStart:
    """What a network is fine-tuned from.

    Attributes:
        init: name or folder of a checkpoint; "": an untrained network.
        config: of the untrained network; None: the checkpoint's.
    """

    init: str = ""
    config: ModelConfig | None = None


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        name: as asked for, unique.
        title: for people.
        identity: changes with whatever changes the vectors; what was computed under another is not used.
        mpp: of the images that it looks at.
        seeded: whether its vectors depend on the seed (random weights).
        build: seed -> the embedder. Weights are read and networks built here, not before.
        start: seed -> what fine-tuning starts from; None: the row is no network.
        training_data: of a checkpoint, from its card.
    """

    name: str
    title: str
    identity: str
    mpp: float
    seeded: bool
    build: Callable[[int], Embed]
    start: Callable[[int], FinetuneStart] | None = None
    training_data: tuple[dict[str, Any], ...] = ()

    @property
    def file_name(self) -> str:
        """The name, fit for a file."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.")


def methods(
    model: str, against: Sequence[str], device: str = "auto", seeds: int = 1, encoder: EncoderFile | None = None
) -> list[Method]:
    """The model, then everything it is compared with.

    Args:
        model: name or folder of a checkpoint, with ``SEED`` in it of several.
        against: ``crops``, ``crops-N``, ``pooled``, ``handmade``, ``random``, ``imagenet``, or checkpoints.
        device: where networks run.
        seeds: how many; of checkpoints with ``SEED`` in their name, 0 to ``seeds`` - 1.
        encoder: one more row, the last.

    Raises:
        InputError: no such model, one without a representation decoder, something named twice.
    """
    config, where = _card(model, 0).config, pick_device(device)
    _check_names(against)
    checkpoints = [model, *(name for name in against if not _OTHERS.fullmatch(name))]
    titles = dict(zip(checkpoints, short_titles(checkpoints), strict=True))
    rows = [_checkpoint(model, titles[model], device, seeds)]
    for name in against:
        is_checkpoint = name in titles
        rows.append(_checkpoint(name, titles[name], device, seeds) if is_checkpoint else _method(name, config, where))
    if encoder is not None:
        title = f"crops of {CROP_PX} px, enlarged, {encoder.name} with the weights {encoder.weights.name}"
        identity, build = f"{encoder.identity} {config.mpp:g}", encoder.build
        rows.append(Method(encoder.name, title, identity, config.mpp, False, lambda seed: build(where)))
    names = [method.file_name for method in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"`against={twice[0]}`: is there twice; name each row once, and the model not again")
    return rows


def _check_names(against: Sequence[str]) -> None:
    """Refuse what is neither a row nor a model, naming both kinds."""
    for name in against:
        if _OTHERS.fullmatch(name):
            continue
        try:
            find_model(_of_seed(name, 0))
        except InputError as error:
            rows = "crops, crops-N (crops-128, say), pooled, handmade, random, imagenet"
            raise InputError(f"`against={name}`: none of {rows}, and no model ({error})") from None


def _method(name: str, config: ModelConfig, where: torch.device) -> Method:
    if name == "handmade":
        about = f"{len(FEATURES)} features of size, shape, colour and texture"
        return Method(
            name, about, f"handmade 1 {FEATURES} {config.mpp:g}", config.mpp, False, lambda seed: handmade_features
        )
    if name.startswith("crops"):
        size = int(name[6:] or CROP_PX)
        if not 32 <= size <= LARGEST_CROP:
            raise InputError(f"`against={name}`: crops are enlarged to 32 to {LARGEST_CROP} px, e.g. crops-128")
        enlarged = "" if size == CROP_PX else f", enlarged to {size} px"
        about = f"crops of {CROP_PX} px{enlarged}, EfficientNet-Lite0 of ImageNet"
        identity = f"crops 1 {size} {config.mpp:g}"
        return Method(name, about, identity, config.mpp, False, lambda seed: CropEmbedder(size, where))
    if name == "pooled":
        _check_lite0(name, config)
        about = "its backbone's features of ImageNet, averaged over the box"
        identity = f"pooled 1 {config.mpp:g} {config.mean} {config.std}"
        return Method(name, about, identity, config.mpp, False, lambda seed: PooledEmbedder(config, where))
    if name == "random":
        return _untrained(name, "the same network, random weights", config, where, "none")
    _check_lite0(name, config)
    return _untrained(name, "the same network, ImageNet backbone, rest random", config, where, "pypi")


def _check_lite0(name: str, config: ModelConfig) -> None:
    if config.backbone != LITE0:
        raise InputError(f"`against={name}`: weights are at hand for {LITE0} only, the model has {config.backbone}")


def _of_seed(name: str, seed: int) -> str:
    return name.replace(SEED, str(seed))


def _card(name: str, seed: int) -> Card:
    return read_card(find_model(_of_seed(name, seed)))


def _load(name: str, seed: int, device: str) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntypedWarning)  # a probe asks for embeddings, not for types
        return load_model(_of_seed(name, seed), device, precision="32")


def _checkpoint(name: str, label: str, device: str, seeds: int) -> Method:
    several = SEED in name
    cards = [_card(name, seed) for seed in range(seeds if several else 1)]
    for card in cards:
        refuse_queries(name, card.config)
    first = cards[0]
    mpp = first.config.mpp
    if wrong := [card.config.mpp for card in cards if card.config.mpp != mpp]:
        raise InputError(f"{name}: is one row, but one model looks at {mpp:g} um a pixel and one at {wrong[0]:g}")
    title = f"checkpoint {first.name}, frozen" + (f", {len(cards)} seeds" if several else "")

    def build(seed: int) -> Embed:
        return _at_boxes(_load(name, seed, device))

    identity = " ".join(["model", *(card.sha256 for card in cards)])
    sources = tuple(source for card in cards for source in card.training_data)
    return Method(
        label, title, identity, mpp, several, build, lambda seed: FinetuneStart(_of_seed(name, seed)), sources
    )


def refuse_queries(name: str, config: ModelConfig) -> None:
    """Refuse a network that cannot say anything of boxes it did not find itself.

    Raises:
        InputError: it has no representation decoder.
    """
    if config.represent == "queries":
        raise InputError(
            f"model {name!r} reads embeddings off its own detections (represent='queries') and cannot embed true "
            "boxes; probe a model with a representation decoder (represent='boxes')"
        )


def _untrained(
    name: str, title: str, config: ModelConfig, device: torch.device, weights: Literal["none", "pypi"]
) -> Method:
    settings = config.model_copy(update={"pretrained": weights})

    def build(seed: int) -> Embed:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CellDETR(settings)
        return _at_boxes(TilePredictor(network, threshold=0.5, device=device, precision="32"))

    identity = f"untrained {settings.model_dump_json()}"
    return Method(name, title, identity, config.mpp, True, build, lambda seed: FinetuneStart(config=settings))


def _at_boxes(predictor: TilePredictor) -> Embed:
    return lambda sample: embed_boxes(predictor, sample.image, sample.boxes)
