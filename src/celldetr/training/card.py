"""What the card of a checkpoint says of the run that made it."""

from __future__ import annotations

from typing import Any

from celldetr.config import Recipe
from celldetr.data.autocard import find_card
from celldetr.model.checkpoint import Card, read_card
from celldetr.model.hub import find_model


def provenance(recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """What a checkpoint's card says of its training data."""
    facts = list(read_card(find_model(recipe.init)).training_data) if recipe.init else []
    for source in recipe.train:
        card = find_card(source.card)
        facts.append({"name": card.name, "split": source.split, "licence": card.licence, "citation": card.citation})
    return tuple(facts)


def make_card(
    recipe: Recipe,
    threshold: float,
    validation: dict[str, float | None],
    step: int,
    apart: str = "",
    sources: tuple[dict[str, Any], ...] | None = None,
) -> Card:
    """The card of a checkpoint made by a recipe.

    Args:
        recipe, threshold: of the network.
        validation: what it reached after ``step`` steps.
        step: see there.
        apart: as in ``TrainingData``.
        sources: what ``provenance`` said when the data were read; None: it is asked now.
    """
    return Card(
        name=recipe.name,
        description=recipe.notes,
        config=recipe.model,
        threshold=threshold,
        training_data=provenance(recipe) if sources is None else sources,
        licence=recipe.licence,
        metrics={"validation": {**validation, "step": step} | ({"held_out": apart} if apart else {})},
        recipe=recipe.model_dump(mode="json"),
    )
