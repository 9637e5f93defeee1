"""Train-validation split where a recipe has no validation data: by patient, else by image, else by cell.

Held-out cells share stain and neighbourhood with the training cells, so that validation is too optimistic; the card of
the model says which split it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from celldetr.data.sample import Sample, cell_counts
from celldetr.errors import InputError

FEWEST = 5  # patients, or images, below which none is held out
TRIES = 100  # random splits, of which the best is taken


class HeldOut(NamedTuple):
    """Training data, split: samples to train on with their weights, samples to validate on, and how they were split."""

    samples: list[Sample]
    weights: list[float]
    held_out: list[Sample]
    apart: str


def hold_out(
    samples: Sequence[Sample], weights: Sequence[float], share: float, seed: int, *, whole_images: bool
) -> HeldOut:
    """Split off some cells to validate on.

    Args:
        samples: all, with the types of the model.
        weights: of the samples.
        share: of the cells to hold out, about.
        seed: of the split.
        whole_images: never single cells: a nucleus without a label counts as background.

    Raises:
        InputError: too few images or cells.
    """
    rng = np.random.default_rng([seed, 1])
    labelled = [sample for sample in samples if len(sample)]
    known = any(sample.group != sample.name for sample in labelled)  # else each image stands for itself
    for word in ("patients or slides", "images") if known else ("images",):
        units = [sample.name if word == "images" else sample.group for sample in samples]
        names = sorted({unit for sample, unit in zip(samples, units, strict=True) if len(sample)})
        fewest = 2 if whole_images and word == "images" else FEWEST
        taken = _choose(samples, units, names, share, rng) if len(names) >= fewest else None
        if taken is not None:
            kept = [i for i, unit in enumerate(units) if unit not in taken]
            held = [sample for sample, unit in zip(samples, units, strict=True) if unit in taken]
            what = f"{len(taken)} of {len(names)} {word} of the training data"
            return HeldOut([samples[i] for i in kept], [weights[i] for i in kept], held, what)
    if whole_images:
        raise InputError(
            f"{len(labelled)} labelled image{'s' if len(labelled) != 1 else ''}: none can be spared for validation"
            " without losing a type; name validation data, or label more images"
        )
    return _cells(samples, weights, share, rng)


def _choose(
    samples: Sequence[Sample], units: Sequence[str], names: Sequence[str], share: float, rng: np.random.Generator
) -> set[str] | None:
    """Units with about ``share`` of the cells; None where a type would be left without a cell to train on.

    Of the splits whose share is off by less than half, the one with most types; then the one that is least off.
    """
    counts = cell_counts(samples)
    of_unit = [[unit == name for unit in units] for name in names]
    table = np.array([counts[same].sum(axis=0) for same in of_unit])  # cells of each unit and type
    cells, table = table.sum(axis=1) / table.sum(), table[:, :-1]
    present = table.sum(0) > 0
    best: tuple[tuple[bool, int, float], set[str]] | None = None
    for _ in range(TRIES):
        order = rng.permutation(len(names))
        size = int(np.abs(np.cumsum(cells[order]) - share).argmin()) + 1
        taken, left = np.split(order, [min(size, len(names) - 1)])
        types = int((table[taken].sum(0) > 0).sum())
        if not (table[left].sum(0) > 0)[present].all() or (not types and present.any()):
            continue  # what is left cannot teach a type, or what is taken can validate none
        off = abs(float(cells[taken].sum()) - share)
        rank = (off > share / 2, -types, off)
        if best is None or rank < best[0]:
            best = rank, {names[i] for i in taken}
    return best[1] if best else None


def _cells(samples: Sequence[Sample], weights: Sequence[float], share: float, rng: np.random.Generator) -> HeldOut:
    """Single cells, of each type about ``share``."""
    types = np.concatenate([sample.types for sample in samples])
    taken = np.zeros(len(types), dtype=bool)
    for index, name in enumerate(samples[0].type_names):
        places = np.flatnonzero(types == index)
        if len(places) == 1:
            raise InputError(
                f"type {name!r}: 1 labelled cell, expected at least 2: one to train on, one to validate on"
            )
        if len(places):
            count = min(max(1, round(share * len(places))), len(places) - 1)
            taken[rng.permutation(places)[:count]] = True
    starts = np.cumsum([0, *(len(sample) for sample in samples)])
    masks = [taken[start:end] for start, end in pairwise(starts)]
    held = [sample.keep(mask) for sample, mask in zip(samples, masks, strict=True) if mask.any()]
    kept = [sample.keep(~mask) for sample, mask in zip(samples, masks, strict=True)]
    what = f"{int(taken.sum())} of {len(types)} cells, in the images of those trained on"
    return HeldOut(kept, list(weights), held, what)
