"""Cross-validation summed up: from the metrics of each test fold to their mean and spread, over all and by tissue.

PanNuke has three folds: a model trained on one and validated on the second is tested on the third, three times in turn
(``standard`` in docs/concepts/evaluation.md). Each test is a ``metrics.json`` of ``celldetr evaluate``; what is here
only adds them up, and refuses those that are no rotation: a fold tested twice, by the model of another, or trained on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev

from pydantic import ConfigDict, Field

from celldetr.config import Config, parse
from celldetr.errors import InputError, near
from celldetr.evaluation.metrics import mean_defined
from celldetr.io.files import write_json
from celldetr.io.safe_io import load_json, shown

SHARED = 0.01  # of the images of two folds: a few that are equal, such as empty ones, do not make them one


class _Part(Config):
    """A part of metrics.json; keys that are not needed here are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Scores(_Part):
    f1: float | None
    precision: float | None
    recall: float | None


class _Type(_Part):
    f1: float | None
    f1_classwise: float | None


class _Tissue(_Part):
    detection: _Scores
    mean_type_f1: float | None
    types: dict[str, _Type]


class _Errors(_Part):
    objectness: float | None
    types: float | None


class _Summary(_Tissue):
    protocol: str
    threshold: float
    mean_type_f1_classwise: float | None
    box_ap50: float | None
    mean_type_box_ap50: float | None
    median_iou: float | None
    calibration_error: _Errors
    tissues: dict[str, _Tissue]


class _Model(_Part):
    name: str = ""
    sha256: str


class _Source(_Part):
    name: str
    split: str


class _AlsoInTraining(_Part):
    images: tuple[str, ...] = ()
    complete: bool = False


class _Context(_Part):
    dataset: str
    split: str
    model: _Model
    trained_on: tuple[_Source, ...]
    also_in_training: _AlsoInTraining = _AlsoInTraining()


class _Image(_Part):
    digest: str = ""


class _Metrics(_Summary):
    context: _Context
    images: tuple[_Image, ...] = ()
    protocols: dict[str, _Summary] = Field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """One number over the folds.

    Attributes:
        folds: its value in each, None where it is undefined.
        mean: over the folds that have it.
        sd: sample standard deviation over those (n - 1), None for fewer than two.
    """

    folds: tuple[float | None, ...]
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Fold:
    """What one fold was tested with."""

    split: str
    model: str
    sha256: str
    threshold: float
    metrics: str


Numbers = dict[str, Spread]


@dataclass(frozen=True)
class Rotations:
    """The folds of a cross-validation side by side.

    Attributes:
        dataset, protocol: the same for all.
        type_names: the K types.
        folds: in the order given.
        numbers: over each fold, under the names of metrics.json joined by dots, ``types.neoplastic.f1`` for example.
        tissues: the same by tissue, F1 only; a tissue that a fold lacks is undefined there.
        mean_of_tissues: the mean over the tissues of each fold, each tissue with the same weight.
    """

    dataset: str
    protocol: str
    type_names: tuple[str, ...]
    folds: tuple[Fold, ...]
    numbers: Numbers
    tissues: dict[str, Numbers]
    mean_of_tissues: Numbers

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write all of it as JSON, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        write_json(Path(path), asdict(self))


def rotations(paths: Sequence[str | os.PathLike[str]], protocol: str = "standard") -> Rotations:
    """Sum up the tests of all folds.

    Args:
        paths: a ``metrics.json`` of each fold, two at least.
        protocol: which of the protocols in them.

    Raises:
        InputError: a file that is not metrics of ``celldetr evaluate`` or lacks the protocol, or files that are no
            rotation of one data set.
    """
    if len(paths) < 2:
        raise InputError(f"{len(paths)} metrics file is no cross-validation; give one for each test fold")
    read = [_read(Path(path)) for path in paths]
    _check(read, paths)
    parts = [_part(metrics, protocol, path) for metrics, path in zip(read, paths, strict=True)]
    type_names = tuple(parts[0].types)
    tissues = sorted({name for part in parts for name in part.tissues})
    by_tissue = [{name: _f1(tissue, type_names) for name, tissue in part.tissues.items()} for part in parts]
    keys = _f1(parts[0], type_names)
    return Rotations(
        dataset=read[0].context.dataset,
        protocol=protocol,
        type_names=type_names,
        folds=tuple(
            Fold(m.context.split, m.context.model.name, m.context.model.sha256, part.threshold, str(path))
            for m, part, path in zip(read, parts, paths, strict=True)
        ),
        numbers=_spreads([_all_numbers(part, type_names) for part in parts]),
        tissues={name: _spreads([fold.get(name, dict.fromkeys(keys)) for fold in by_tissue]) for name in tissues},
        mean_of_tissues=_spreads(
            [{key: mean_defined([row[key] for row in fold.values()]) for key in keys} for fold in by_tissue]
        )
        if tissues
        else {},
    )


def _read(path: Path) -> _Metrics:
    values = load_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected the metrics.json of `celldetr evaluate`, got {shown(values)}")
    return parse(_Metrics, values, str(path))


def _check(read: Sequence[_Metrics], paths: Sequence[str | os.PathLike[str]]) -> None:
    """See that these are tests of one data set, each on a fold of its own by a model of its own that never saw it."""
    first = read[0]
    for n, (metrics, path) in enumerate(zip(read, paths, strict=True)):
        here = metrics.context
        if here.dataset != first.context.dataset:
            raise InputError(f"{path}: dataset {here.dataset!r}, but {paths[0]} has {first.context.dataset!r}")
        if set(metrics.types) != set(first.types):
            raise InputError(f"{path}: types {list(metrics.types)}, but {paths[0]} has {list(first.types)}")
        if _trained_on(metrics):
            raise InputError(f"{path}: the model was trained on {here.split!r}, on which it is tested here")
        for other, elsewhere in zip(read[:n], paths, strict=False):
            if _same_fold(metrics, other):
                raise InputError(f"{path}: tests {here.split!r}, as does {elsewhere}; give one file for each fold")
            if other.context.model.sha256 == here.model.sha256:
                raise InputError(f"{path}: tests the same model as {elsewhere}; each fold needs a model of its own")


def _trained_on(metrics: _Metrics) -> bool:
    """Whether a model was trained on its test fold: by its images where the card has them all, else by its name."""
    here, also = metrics.context, metrics.context.also_in_training
    if also.complete:
        return len(also.images) > SHARED * len(metrics.images)
    return any(source.name == here.dataset and source.split == here.split for source in here.trained_on)


def _same_fold(one: _Metrics, other: _Metrics) -> bool:
    """Whether two tests are of the same images; of files without digests, of the same split."""
    ours, theirs = ({image.digest for image in metrics.images} - {""} for metrics in (one, other))
    if not ours or not theirs:
        return one.context.split == other.context.split
    return len(ours & theirs) > SHARED * min(len(ours), len(theirs))


def _part(metrics: _Metrics, protocol: str, path: str | os.PathLike[str]) -> _Summary:
    """The numbers of one protocol."""
    if metrics.protocol == protocol:
        return metrics
    if protocol not in metrics.protocols:
        there = [metrics.protocol, *metrics.protocols]
        raise InputError(f"{path}: no protocol {protocol!r} in it; {near(protocol, there)}")
    return metrics.protocols[protocol]


def _f1(part: _Tissue, type_names: Sequence[str]) -> dict[str, float | None]:
    types = {f"types.{name}.f1": part.types[name].f1 for name in type_names}
    return {"detection.f1": part.detection.f1, "mean_type_f1": part.mean_type_f1, **types}


def _all_numbers(part: _Summary, type_names: Sequence[str]) -> dict[str, float | None]:
    return {
        **_f1(part, type_names),
        "detection.precision": part.detection.precision,
        "detection.recall": part.detection.recall,
        "mean_type_f1_classwise": part.mean_type_f1_classwise,
        **{f"types.{name}.f1_classwise": part.types[name].f1_classwise for name in type_names},
        "box_ap50": part.box_ap50,
        "mean_type_box_ap50": part.mean_type_box_ap50,
        "median_iou": part.median_iou,
        "calibration_error.objectness": part.calibration_error.objectness,
        "calibration_error.types": part.calibration_error.types,
    }


def _spreads(folds: Sequence[dict[str, float | None]]) -> Numbers:
    return {name: spread([fold[name] for fold in folds]) for name in folds[0]}


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation of a number over folds."""
    defined = [value for value in values if value is not None]
    return Spread(tuple(values), mean_defined(defined), stdev(defined) if len(defined) > 1 else None)
