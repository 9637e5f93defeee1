"""Evaluate a model on a labelled data set: the commands ``celldetr evaluate`` and ``celldetr threshold``.

Images go the way of a user's (``slide.array``: resampled, in tiles, without duplicates at the seams), and cells count
from the threshold on that the model was loaded with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.config import EvaluateOptions, ThresholdOptions
from celldetr.data.autocard import find_card
from celldetr.data.card import CARDS, DatasetCard
from celldetr.data.overlap import Overlap, overlap
from celldetr.data.sample import Sample
from celldetr.data.sources import Shapes, load_samples, map_types, same_names
from celldetr.errors import InputError
from celldetr.evaluation.calibration import calibration
from celldetr.evaluation.image_cells import LOWEST_SCORE, ImageCells, predict_samples
from celldetr.evaluation.protocols import PROTOCOLS, find_protocol
from celldetr.evaluation.report import Report
from celldetr.evaluation.score import score_under
from celldetr.evaluation.threshold import SetChoice, ThresholdChoice, best_threshold, common_threshold, count_at
from celldetr.evaluation.type_map import TypeMap, type_map
from celldetr.io.safe_io import yaml_names
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells
from celldetr.progress import Progress
from celldetr.slide.array import array_cells

TEST, VALIDATION = "test", "val"  # splits that are meant where none is named


@dataclass(frozen=True)
class Evaluation:
    """A model's reports on a split: under the protocol asked for, and under all others.

    Attributes:
        report, others: of these protocols.
        also_in_training: what of the split the model was trained on.
        context: JSON-able: which model, data set and split.
    """

    report: Report
    others: tuple[Report, ...]
    also_in_training: Overlap
    context: dict[str, Any]


def labelled_images(
    card: DatasetCard,
    split: str,
    types: tuple[str, ...],
    mapping: dict[str, str] | None,
    shapes: Shapes = "boxes",
) -> Sequence[Sample]:
    """Samples of a split, with a model's types; those of a patch set are decoded one by one.

    Args:
        card, split: of the data set.
        types: of the model.
        mapping: type of the data set -> type of the model, ``""`` for unknown; what it does not name keeps its name.
        shapes: of ``load_samples``.

    Raises:
        InputError: the data are wrong, or no type of the data set is a type of the model.
    """
    if not mapping and not set(card.type_names) & set(types):
        raise InputError(
            f"dataset {card.name!r} has types {list(card.type_names)}, the model {list(types)}: none in common; "
            "say which is which with `mapping`: theirs=ours, or theirs= for cells of unknown type"
        )
    names = same_names(card.type_names, types) | (mapping or {})
    return map_types(load_samples(card, split, shapes=shapes), types, names)


def evaluate_model(
    model: TilePredictor,
    dataset: str,
    options: EvaluateOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on a split of a data set.

    Args:
        model: its threshold is the one used.
        dataset: name or path of a card, or a folder or file of labels.
        options: split, protocol of the main report, and which types correspond: ``mapping`` gives the data set's cells
            the model's types; ``join`` (see ``evaluation.type_map``) gives the model's cells the data set's.
        progress: called with how many images are done, of how many.

    Raises:
        InputError: unknown protocol, wrong data, no type in common; both maps.
    """
    options = options or EvaluateOptions()
    mapping = options.mapping
    rules = find_protocol(options.protocol)
    card = find_card(dataset, options.mpp)
    split = card.choose_split(options.split, TEST)
    if options.join is not None and mapping is not None:
        raise InputError("`join` says which type of the data set each of the model's is; leave out `mapping`")
    types = None if options.join is None else type_map(options.join, model.types, card.type_names)
    names = model.types if types is None else types.names
    samples = labelled_images(card, split, names, mapping, "masks")
    images = _predict(model, samples, names, types, progress)
    every = [rules, *(other for other in PROTOCOLS.values() if other != rules)]
    report, *others = score_under(every, images, names, threshold=model.threshold)
    also = overlap(model.card.get("training_data", ()), card.name, split, images)
    context: dict[str, Any] = {
        "dataset": card.name,
        "split": split,
        "model": model.describe(),
        "trained_on": [
            {key: str(source.get(key, "")) for key in ("name", "split")}
            for source in model.card.get("training_data", ())
        ],
        "also_in_training": asdict(also),
        "types": mapping,
    }
    if types is not None:
        context["model_types"] = dict(zip(model.types, types.targets, strict=True))
        context["types_without_counterpart"] = list(types.without)
    else:
        known = set(names) | set(mapping or {})
        context["types_without_counterpart"] = [name for name in card.type_names if name not in known]
    return Evaluation(report, tuple(others), also, context)


def choose_threshold(
    model: TilePredictor,
    datasets: Sequence[str],
    options: ThresholdOptions | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[ThresholdChoice, tuple[SetChoice, ...]]:
    """The threshold that suits a model on one or more sets of images, by detection alone.

    Every set counts alike, however many images it has; so does every tissue of a data set that tells several.

    Args:
        model: its own threshold does not matter.
        datasets: each as of ``evaluate_model``, or ``DATASET:SPLIT``.
        options: the split of those that name none, and rules of pairing; of several, the mean of F1 under each is what
            counts. In the images every nucleus is labelled.
        progress: called with how many images of a data set are done, of how many.

    Returns:
        the choice, and how it does on each set.

    Raises:
        InputError: unknown protocol, wrong data, or no cell in a set.
    """
    options = options or ThresholdOptions()
    rules = [find_protocol(name) for name in options.protocols]
    sets: dict[str, list[ImageCells]] = {}
    for dataset in datasets:
        name, wanted = named_split(dataset, options.split)
        card = find_card(name, options.mpp)
        split = card.choose_split(wanted, VALIDATION)
        samples = labelled_images(card, split, model.types, dict.fromkeys(card.type_names, ""))
        images = _predict(model, samples, model.types, None, progress)
        several = len({image.tissue for image in images}) > 1
        for image in images:
            key = f"{card.name} {split}" + (f", {image.tissue or 'no tissue'}" if several else "")
            sets.setdefault(key, []).append(image)
    choice = common_threshold(list(sets.values()), rules)
    return choice, tuple(
        SetChoice(
            key,
            best_threshold(images, rules),
            count_at(images, rules[0], choice.threshold),
            count_at(images, rules[0], model.threshold),
            calibration(images, rules[0].radius_um).objectness.error,
        )
        for key, images in sets.items()
    )


def named_split(dataset: str, default: str | None) -> tuple[str, str | None]:
    """``DATASET`` or ``DATASET:SPLIT`` -> data set and split; a path may have colons itself."""
    name, colon, split = dataset.rpartition(":")
    known = name in yaml_names(CARDS) or (bool(name) and Path(name).expanduser().exists())
    return (name, split) if colon and known and split else (dataset, default)


def _predict(
    model: TilePredictor,
    samples: Sequence[Sample],
    types: Sequence[str],
    renamed: TypeMap | None,
    progress: Progress | None,
) -> list[ImageCells]:
    """The cells of each image, down to a score at which few are right."""
    least = min(LOWEST_SCORE, model.threshold)

    def predict(image: NDArray[np.uint8], mpp: float) -> TileCells:
        cells = array_cells(image, mpp, model, least_score=least)
        return cells if renamed is None else replace(cells, probabilities=renamed.merge(cells.probabilities))

    images = []
    for cells in predict_samples(predict, samples, tuple(types)):
        images.append(cells)
        if progress:
            progress(len(images), len(samples))
    return images
