"""Cross-validation summed up: from the metrics of each test fold to their mean and spread, over all and by tissue.

Each test is a ``metrics.json`` of ``celldetr evaluate``. Files that are no rotation are refused: a fold tested twice,
by the model of another, or by one that was trained on it (docs/concepts/evaluation.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from celldetr.errors import InputError, near
from celldetr.evaluation.metrics import mean_defined
from celldetr.io.files import write_json
from celldetr.io.safe_io import load_json, shown

SHARED = 0.01  # of the images of two folds: a few that are equal, such as empty ones, do not make them one
SCORES = ("detection.f1", "mean_type_f1")  # of a tissue and of the split, with F1 of each type
MORE_SCORES = (
    "detection.precision",
    "detection.recall",
    "mean_type_f1_classwise",
    "box_ap50",
    "mean_type_box_ap50",
    "median_iou",
    "calibration_error.objectness",
    "calibration_error.types",
)
MASK_SCORES = ("masks.bpq", "masks.mpq")  # of a tissue and of the split, where all folds have masks
MORE_MASK_SCORES = ("masks.dq", "masks.sq", "masks.aji", "masks.dice")


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
        tissues: the same by tissue, F1, bPQ and mPQ only; a tissue that a fold lacks is undefined there.
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


@dataclass(frozen=True)
class _Metrics:
    """The content of a ``metrics.json``, or a part of it, whose values are checked when they are read."""

    path: Path
    values: Any

    def at(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value under names joined by dots.

        Raises:
            InputError: there is none, or one of another kind.
        """
        value, names = self.values, key.split(".")
        if key.startswith("types."):  # names of types can have dots in them
            names = ["types", key.removeprefix("types.").rpartition(".")[0], key.rpartition(".")[2]]
        for name in names:
            if not isinstance(value, Mapping) or name not in value:
                raise InputError(f"{self.path}: has no {key}; expected the metrics.json of `celldetr evaluate`")
            value = value[name]
        if not isinstance(value, kind):
            raise InputError(f"{self.path}: {key} is {shown(value)}; expected what `celldetr evaluate` writes")
        return value

    def numbers(self, keys: Sequence[str]) -> dict[str, float | None]:
        return {key: self.at(key, (int, float, type(None))) for key in keys}

    def is_trained_on(self) -> bool:
        """Whether the model was trained on its test fold: by images where its card has them all, else by name."""
        images, also = self.values.get("images") or (), self.values["context"].get("also_in_training") or {}
        if also.get("complete"):
            return len(also["images"]) > SHARED * len(images)
        fold = self.at("context.dataset", str), self.at("context.split", str)
        sources = [source for source in self.at("context.trained_on", list) if isinstance(source, dict)]
        return any((source.get("name"), source.get("split")) == fold for source in sources)

    def is_of_the_images_of(self, other: _Metrics) -> bool:
        """Whether two tests are of the same images; of files without digests, of the same split."""
        ours, theirs = ({row.get("digest") for row in file.values.get("images", ())} for file in (self, other))
        ours, theirs = ours - {None, ""}, theirs - {None, ""}
        if not ours or not theirs:
            return bool(self.at("context.split", str) == other.at("context.split", str))
        return len(ours & theirs) > SHARED * min(len(ours), len(theirs))

    def protocol(self, name: str) -> _Metrics:
        """The part of one protocol."""
        others = self.at("protocols", dict) if "protocols" in self.values else {}
        main = self.at("protocol", str)
        if name not in (main, *others):
            raise InputError(f"{self.path}: no protocol {name!r} in it; {near(name, [main, *others])}")
        return self if name == main else _Metrics(self.path, others[name])


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
    files = [_Metrics(Path(path), load_json(Path(path))) for path in paths]
    _check(files)
    parts = [file.protocol(protocol) for file in files]
    types = tuple(parts[0].at("types", dict))
    f1 = (*SCORES, *(f"types.{name}.f1" for name in types))
    every = (*f1, *MORE_SCORES, *(f"types.{name}.f1_classwise" for name in types))
    masked = all(isinstance(file.values.get("masks"), dict) for file in files)
    numbers, of_tissue, by_tissue = [], (*f1, *MASK_SCORES) if masked else f1, []
    for file, part in zip(files, parts, strict=True):
        # Masks are the same under every protocol: the file has them once.
        numbers.append(part.numbers(every) | (file.numbers((*MASK_SCORES, *MORE_MASK_SCORES)) if masked else {}))
        rows = {name: _Metrics(part.path, values).numbers(f1) for name, values in part.at("tissues", dict).items()}
        for name, values in file.at("tissues", dict).items() if masked else ():
            own = isinstance(values, dict) and values.get("masks") is not None
            scores = _Metrics(file.path, values).numbers(MASK_SCORES) if own else dict.fromkeys(MASK_SCORES)
            rows[name] = rows.get(name, dict.fromkeys(f1)) | scores
        by_tissue.append(rows)
    names = sorted({name for fold in by_tissue for name in fold})
    means = [{key: mean_defined([row[key] for row in fold.values()]) for key in of_tissue} for fold in by_tissue]
    return Rotations(
        dataset=files[0].at("context.dataset", str),
        protocol=protocol,
        type_names=types,
        folds=tuple(
            Fold(
                split=file.at("context.split", str),
                model=file.values["context"]["model"].get("name", ""),
                sha256=file.at("context.model.sha256", str),
                threshold=part.at("threshold", (int, float)),
                metrics=str(file.path),
            )
            for file, part in zip(files, parts, strict=True)
        ),
        numbers=_spreads(numbers),
        tissues={name: _spreads([fold.get(name, dict.fromkeys(of_tissue)) for fold in by_tissue]) for name in names},
        mean_of_tissues=_spreads(means) if names else {},
    )


def _check(files: Sequence[_Metrics]) -> None:
    """See that these are tests of one data set, each on a fold of its own by a model of its own that never saw it."""
    first, models = files[0], dict[str, Path]()
    for n, file in enumerate(files):
        dataset, split = file.at("context.dataset", str), file.at("context.split", str)
        if dataset != first.at("context.dataset", str):
            raise InputError(
                f"{file.path}: dataset {dataset!r}, but {first.path} has {first.values['context']['dataset']!r}"
            )
        types, expected = list(file.at("types", dict)), list(first.at("types", dict))
        if set(types) != set(expected):
            raise InputError(f"{file.path}: types {types}, but {first.path} has {expected}")
        if file.is_trained_on():
            raise InputError(f"{file.path}: the model was trained on {split!r}, on which it is tested here")
        for other in files[:n]:
            if file.is_of_the_images_of(other):
                raise InputError(f"{file.path}: tests {split!r}, as does {other.path}; give one file for each fold")
        model = file.at("context.model.sha256", str)
        if model in models:
            raise InputError(
                f"{file.path}: tests the same model as {models[model]}; each fold needs a model of its own"
            )
        models[model] = file.path


def _spreads(folds: Sequence[dict[str, float | None]]) -> Numbers:
    return {name: spread([fold[name] for fold in folds]) for name in folds[0]}


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation of a number over folds."""
    defined = [value for value in values if value is not None]
    return Spread(tuple(values), mean_defined(defined), stdev(defined) if len(defined) > 1 else None)
