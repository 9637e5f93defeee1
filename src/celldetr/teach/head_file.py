"""A head on disk: a folder with ``head.safetensors`` and ``head.json``, which says what it is of."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from celldetr.config.base import Config, TypeName, parse
from celldetr.errors import InputError
from celldetr.io.files import output_errors, replacing_folder, write_json
from celldetr.io.safe_io import is_file, load_json
from celldetr.teach.actions import Colour
from celldetr.teach.head import LinearHead, Scaling

WEIGHTS, CARD = "head.safetensors", "head.json"
CARD_BYTES = 2**20
FORMAT = 1
Share = Annotated[float, Field(ge=0, le=1)]


class HeadType(Config):
    """A type that a head knows: with how many labels it was taught, and how well these predict one another."""

    name: TypeName
    colour: Colour
    key: str = ""
    labels: int
    f1: Share | None = None  # cross-validated


class HeadCard(Config):
    """What is said of a head."""

    format: int = FORMAT
    types: tuple[HeadType, ...]  # in the order of its outputs
    embedding_dim: int
    columns: tuple[str, ...] = ()  # of the cell table, beside the embedding
    model: str | None  # SHA-256 of the weights that made the embeddings; None: not on record
    model_name: str | None = None
    macro_f1: Share | None = None  # cross-validated, of the labels so far
    slides: tuple[str, ...] = ()  # with labels
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    package_version: str = Field(default_factory=lambda: version("celldetr"))
    sha256: str = ""  # of the weights file

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the types."""
        return tuple(kind.name for kind in self.types)


def save_head(folder: Path, head: LinearHead, card: HeadCard, *, overwrite: bool = False) -> HeadCard:
    """Write a head; the folder appears when it is whole.

    Returns:
        the card as written.

    Raises:
        InputError: the folder is there and is not to be replaced, or is no head; or it cannot be written to.
    """
    from safetensors.numpy import save_file

    if folder.exists() and not (overwrite and is_file(folder / CARD)):
        what = "exists already; choose another name, or replace it" if is_file(folder / CARD) else "is no head"
        raise InputError(f"{folder}: {what}")
    with output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "mean": head.scaling.mean, "scale": head.scaling.scale, "weights": head.weights, "bias": head.bias,
    }  # fmt: skip
    with replacing_folder(folder) as unfinished:
        unfinished.mkdir()
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, unfinished / WEIGHTS)
        card = card.model_copy(update={"sha256": _digest(unfinished / WEIGHTS)})
        write_json(unfinished / CARD, card.model_dump(mode="json"))
    return card


def load_head(folder: Path | str) -> tuple[LinearHead, HeadCard]:
    """Read a head.

    Raises:
        InputError: there is none, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in (CARD, WEIGHTS):
        if not is_file(folder / name):
            raise InputError(f"{folder}: no head here ({name} is missing); give the folder of a saved head")
    card = parse(HeadCard, load_json(folder / CARD, CARD_BYTES), str(folder / CARD))
    if card.format != FORMAT:
        raise InputError(f"{folder}: a head of format {card.format}, this version reads {FORMAT}; update celldetr")
    if _digest(folder / WEIGHTS) != card.sha256:
        raise InputError(f"{folder}: {WEIGHTS} is not the file that {CARD} is of; copy the head again")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS}: cannot be read ({error}); copy the head again") from None
    features, kinds = card.embedding_dim + len(card.columns), len(card.types)
    shapes = {"mean": (features,), "scale": (features,), "weights": (features, kinds), "bias": (kinds,)}
    if {name: value.shape for name, value in tensors.items()} != shapes:
        raise InputError(f"{folder}: weights and card disagree; copy the head again")
    scaling = Scaling(tensors["mean"], tensors["scale"])
    return LinearHead(scaling, tensors["weights"], tensors["bias"]), card


def load_fitting(folder: Path | str, model: object, embedding_dim: int) -> tuple[LinearHead, HeadCard]:
    """Read a head for the embeddings of a model; see ``load_head`` and ``check_fits``."""
    head, card = load_head(folder)
    check_fits(card, folder, model, embedding_dim)
    return head, card


def check_fits(card: HeadCard, where: object, model: object, embedding_dim: int) -> None:
    """Refuse embeddings of another checkpoint than a head was taught on.

    Args:
        card: of the head.
        where: the cells, for the message.
        model: SHA-256 of the weights that made their embeddings; None: not on record.
        embedding_dim: of these.

    Raises:
        InputError: they do not fit.
    """
    if card.embedding_dim != embedding_dim:
        raise InputError(
            f"{where}: embeddings of {embedding_dim} numbers, the head was taught on {card.embedding_dim}; use"
            " a head of the same model"
        )
    if card.model is not None and model is not None and card.model != model:
        own = f"{card.model[:12]}, {card.model_name}"
        raise InputError(
            f"{where}: embeddings of another model (sha256 {str(model)[:12]}) than the head was taught on ({own});"
            " their numbers mean something else. Predict with that model, or teach again"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
