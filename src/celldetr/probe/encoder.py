"""Any encoder that timm builds, its weights from disk: a foundation model of pathology, for who has access to it.

A ``config.json`` beside the weights, as on Hugging Face, says how the encoder is built and what it is normalised by;
without one that is timm's for the name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from celldetr.errors import InputError
from celldetr.io.safe_io import load_json
from celldetr.probe.crops import CropEmbedder

CONFIG_FILE = "config.json"
CLASSIFIER = {"num_classes": 0}  # leave out the classifier: features come out


@dataclass(frozen=True)
class EncoderFile:
    """An encoder on disk.

    Attributes:
        name: timm's.
        weights: the file, safetensors or what ``torch.load`` reads as weights only.
        arguments: of ``timm.create_model``.
        normalisation: what ``config.json`` says of ``mean``, ``std`` and ``input_size``.
    """

    name: str
    weights: Path
    arguments: dict[str, Any]
    normalisation: dict[str, Any]

    @property
    def identity(self) -> str:
        """Changes with whatever changes the features."""
        with self.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"encoder 1 {self.name} {json.dumps([self.arguments, self.normalisation], sort_keys=True)} {digest}"

    def build(self, device: torch.device) -> CropEmbedder:
        """The encoder with its weights, on crops enlarged to the size that it was made for.

        Raises:
            InputError: the file cannot be read, or does not hold all weights of the encoder.
        """
        arguments = dict(self.arguments)
        if isinstance(arguments.get("mlp_layer"), str):
            arguments["mlp_layer"] = getattr(timm.layers, arguments["mlp_layer"], None)
        try:
            network: Any = timm.create_model(self.name, pretrained=False, **arguments | CLASSIFIER)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"`encoder={self.name}`: timm cannot build it ({error})") from None
        _load(network, self.weights)
        data = resolve_model_data_config(network) | self.normalisation  # type: ignore[no-untyped-call]
        return CropEmbedder(data["input_size"][-1], device, network, data["mean"], data["std"])


def find_encoder(name: str, weights: str) -> EncoderFile:
    """An encoder by timm's name and its file of weights.

    Raises:
        InputError: timm does not know it, or there is no such file.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5]) or "see timm.list_models()"
        raise InputError(f"`encoder={name}`: is not a timm network; {near}")
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"`weights={weights}`: no such file")
    config = path.parent / CONFIG_FILE
    values = load_json(config) if config.is_file() else {}
    if not isinstance(values, dict):
        raise InputError(f"{config}: expected timm's description of a model")
    pretrained = values.get("pretrained_cfg") or {}
    normalisation = {key: pretrained[key] for key in ("mean", "std", "input_size") if key in pretrained}
    return EncoderFile(name, path, values.get("model_args") or {}, normalisation)


def _load(network: nn.Module, weights: Path) -> None:
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(weights), weights_only=True)
        missing, _ = network.load_state_dict(state, strict=False)
        problem = f"{missing[0]} is missing" if missing else ""
    except Exception as error:  # torch raises many kinds for a broken file, and one for tensors of another shape
        problem = " ".join(str(error).split())
    if problem:
        raise InputError(f"{weights}: does not hold the weights of this encoder: {problem}")
