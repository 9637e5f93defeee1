"""Checkpoint of a run: the averaged weights with a card that says how they were made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from celldetr.config import Recipe
from celldetr.data.autocard import find_card
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, read_card, save_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.warm_start import without_types

UNTYPED_NOTE = (
    "Trained without types: it finds and embeds cells, and its one type says nothing. Fine-tune it for types."
)


def provenance(recipe: Recipe, seen: Sequence[Mapping[str, Any]] | None = None) -> tuple[dict[str, Any], ...]:
    """The training data, those of the model that the recipe starts from first.

    Args:
        recipe: of the run.
        seen: of each of its sources the images and patients (``TrainingData.seen``); None: not known.

    Returns:
        of each source name, split, licence, citation and, where known, images and patients.
    """
    facts: list[Mapping[str, Any]] = list(read_card(find_model(recipe.init)).training_data) if recipe.init else []
    for source, known in zip(recipe.train, seen or [{}] * len(recipe.train), strict=True):
        card = find_card(source.card)
        named: dict[str, Any] = {
            "name": card.name,
            "split": source.split,
            "licence": card.licence,
            "citation": card.citation,
        }
        facts.append(named | dict(known))
    return joined(facts)


def joined(sources: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Each data set and split once, with the images and patients of all its mentions; other facts are the first's."""
    found = dict[tuple[str, str], dict[str, Any]]()
    for source in sources:
        key = source["name"], source["split"]
        before = found.setdefault(key, dict(source))
        for of_what in ("images", "patients"):
            if of_what in before or of_what in source:
                before[of_what] = sorted({*before.get(of_what, ()), *source.get(of_what, ())})
    return tuple(found.values())


def save_model(
    folder: Path,
    network: CellDETR,
    recipe: Recipe,
    threshold: float,
    *,
    metrics: dict[str, Any],
    sources: tuple[dict[str, Any], ...],
    types_trained: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save a checkpoint of a run; where types were not learned, without any.

    Args:
        folder: of the checkpoint.
        network, recipe: of the run.
        threshold: least score of a cell.
        metrics: of the validation, with the step.
        sources: ``provenance`` when the data were read.
        types_trained: whether the type head has learned anything.
        dtype: of the weights in the file.
    """
    description = recipe.notes
    if not types_trained:
        network = without_types(network)
        description = f"{description.strip()} {UNTYPED_NOTE}".strip()
    card = Card(
        name=recipe.name,
        description=description,
        config=network.config,
        threshold=threshold,
        training_data=sources,
        licence=recipe.licence,
        metrics={"validation": metrics},
        recipe=recipe.model_dump(mode="json"),
        types_trained=types_trained,
    )
    save_checkpoint(folder, network, card, dtype=dtype)


def save_outlined(
    folder: Path, network: CellDETR, start: Card, *, metrics: dict[str, Any], sources: Sequence[Mapping[str, Any]]
) -> None:
    """Save a model of which the outline head alone was trained.

    Its card is that of its start, all of which is true of it still, with the scores of its outlines and with the data
    that the start had not seen.

    Args:
        folder: of the checkpoint.
        network: of the run.
        start: card of the model that the run started from.
        metrics: of the validation, with the step.
        sources: ``provenance`` of the run.
    """
    changes = {
        "config": network.config,
        "training_data": joined([*start.training_data, *sources]),
        "metrics": start.metrics | {"outlines": metrics},
    }
    save_checkpoint(folder, network, start.model_copy(update=changes))
