"""Checkpoints: a folder with ``model.safetensors`` (weights) and ``card.json`` (everything a user of them must know).

Nothing in either can run code. The card holds the SHA-256 of the weights and of itself, and the weights hold a copy of
the config, so that a file that was cut short, swapped or edited is refused with one clear line rather than read as
something else. The hashes find damage and mix-ups; they are no signature.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from celldetr.config import Config, ModelConfig, Probability, parse
from celldetr.errors import InputError
from celldetr.io.files import replacing_folder
from celldetr.io.safe_io import is_file, load_json, shown
from celldetr.model.celldetr import CellDETR
from celldetr.model.familiarity import PREFIX, Familiarity

WEIGHTS_FILE, CARD_FILE = "model.safetensors", "card.json"
FORMAT = 1
CARD_BYTES = 16 * 2**20
# Settings of 0.1.0 for cards that lack them: with another value the weights fit as well, and mean something else.
SETTINGS_OF_0_1 = {
    "border": "zeros",
    "encoder_position": "absolute",
    "query_position": "absolute",
    "level_norm": "group",
    "representation_values": "encoder",
}


class Card(Config):
    """What is said of a checkpoint. ``sha256`` and ``card_sha256`` are filled in when it is saved."""

    format: int = FORMAT
    name: str
    description: str = ""
    config: ModelConfig  # with types, mpp and normalisation
    threshold: Probability  # least objectness of a cell, chosen on validation
    training_data: tuple[dict[str, Any], ...] = ()  # name, split, licence, citation of each source
    licence: str = "unknown"
    metrics: dict[str, Any] = Field(default_factory=dict)  # by dataset and split
    recipe: dict[str, Any] = Field(default_factory=dict)
    types_trained: bool = True  # False: pretrained without types; it finds and embeds cells, and types none
    package_version: str = Field(default_factory=lambda: version("celldetr"))
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    sha256: str = ""  # of the weights file
    card_sha256: str = ""  # of this card without this field, as canonical JSON


@dataclass(frozen=True)
class Checkpoint:
    """A network read from disk, with its card; ``familiarity`` with what it was trained on, if the file has it."""

    network: CellDETR
    card: Card
    familiarity: Familiarity | None = None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card_digest(values: dict[str, Any]) -> str:
    plain = {key: value for key, value in values.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_checkpoint(folder: Path, network: CellDETR, card: Card, *, dtype: torch.dtype = torch.float32) -> Card:
    """Write a checkpoint beside its place and rename it; one that is there is replaced by the finished new one.

    Args:
        folder: to create; its parent must exist.
        network: the weights.
        card: ``sha256`` and ``card_sha256`` are computed here.
        dtype: of the floating-point weights on disk; float16 halves the file.

    Returns:
        the card as written.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
        ValueError: a weight is too large for ``dtype``.
    """
    config = _offline(network.config)
    values = card.model_copy(update={"config": config}).model_dump(mode="json")
    return Card.model_validate(_write(folder, _weights(network, dtype), config.model_dump_json(), values))


def _write(folder: Path, tensors: dict[str, Tensor], config: str, card: dict[str, Any]) -> dict[str, Any]:
    """Replace a checkpoint by these tensors, with their config as JSON, and this card; returns the card with hashes."""
    with replacing_folder(folder) as unfinished:
        unfinished.mkdir()
        save_file(tensors, unfinished / WEIGHTS_FILE, metadata={"config": config})
        values = card | {"sha256": _digest(unfinished / WEIGHTS_FILE)}
        values["card_sha256"] = _card_digest(values)
        (unfinished / CARD_FILE).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return values


def save_familiarity(folder: Path, familiarity: Familiarity) -> None:
    """Put this into a checkpoint; its weights and card stay the same, but for the hashes.

    Raises:
        InputError: no checkpoint, a broken one, or one that cannot be written to.
    """
    card = load_checkpoint(folder).card
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        config = file.metadata()["config"]
        weights = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(PREFIX)}  # noqa: SIM118
    Familiarity.from_tensors(familiarity.tensors(), card.config.embedding_dim)
    values = load_json(folder / CARD_FILE, CARD_BYTES)  # as it is: a setting that a later version added stays out
    _write(folder, weights | familiarity.tensors(), config, values)


def _offline(config: ModelConfig) -> ModelConfig:
    """The same network without a source of initial weights: loading must never look for them."""
    return config.model_copy(update={"pretrained": "none"})


def _weights(network: CellDETR, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors as they are stored."""
    tensors = {}
    for name, value in network.state_dict().items():
        stored = value.detach().to(dtype if value.is_floating_point() else value.dtype)
        if bool(stored.isfinite().logical_not().logical_and(value.isfinite()).any()):
            raise ValueError(f"weight {name!r} reaches {float(value.abs().max()):.3g}, too large for {dtype}")
        tensors[name] = stored.cpu().contiguous()
    return tensors


def read_card(folder: Path) -> Card:
    """Read and check a card alone, without its weights.

    Raises:
        InputError: no card, not ours, or changed since it was written.
    """
    path = folder / CARD_FILE
    if not is_file(path):
        raise InputError(f"{folder}: not a CellDETR checkpoint, there is no {CARD_FILE}")
    values = load_json(path, CARD_BYTES)
    if not isinstance(values, dict) or "format" not in values:
        raise InputError(f"{path}: not the card of a CellDETR checkpoint")
    if values["format"] != FORMAT:
        raise InputError(
            f"{path}: checkpoint format {shown(values['format'])}, this version of celldetr reads {FORMAT}"
        )
    if values.get("card_sha256") != _card_digest(values):
        raise InputError(f"{path}: was changed after it was written (SHA-256 differs); fetch the checkpoint again")
    return parse(Card, values | {"config": _with_old_settings(values.get("config"))}, str(path))


def _with_old_settings(config: Any) -> Any:
    """The settings of a network as version 0.1.0 wrote them, with its value for each that it did not know."""
    return SETTINGS_OF_0_1 | config if isinstance(config, dict) else config


def load_checkpoint(folder: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: with ``model.safetensors`` and ``card.json``.
        device: where the network goes.

    Raises:
        InputError: a file is missing, truncated, changed, or the two do not belong together.
    """
    card = read_card(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"{folder}: incomplete checkpoint, there is no {WEIGHTS_FILE}")
    if (digest := _digest(path)) != card.sha256:
        raise InputError(
            f"{path}: SHA-256 is {digest[:12]}..., its card says {card.sha256[:12]}...: truncated, changed or of "
            "another checkpoint; fetch it again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            inside = json.loads((file.metadata() or {}).get("config", "{}"))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a safetensors file of CellDETR ({error})") from None
    # Compared as settings, not as text: one that a later version added has the same value in both.
    if parse(ModelConfig, _with_old_settings(inside), f"{path}: its config") != card.config:
        raise InputError(f"{path}: its weights were saved with another config than {CARD_FILE} states")
    network = CellDETR(_offline(card.config))
    _check_finite(path, tensors)
    weights = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    try:
        familiarity = Familiarity.from_tensors(tensors, card.config.embedding_dim)
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in weights.items()})
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: weights do not fit the config ({' '.join(str(error).split())[:200]})") from None
    return Checkpoint(network.eval().to(device), card, familiarity)


def _check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse networks that find nothing because their training diverged."""
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{path}: weight {name!r} holds numbers that are not finite; the training went wrong")
