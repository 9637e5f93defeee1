"""One trial: a variant with a seed is trained, and scored on the test split once.

A trial's result is one small JSON file with the counts of each test image under each protocol, from which any number
and any interval can be computed later.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from celldetr.api import load_model
from celldetr.data.card import load_card
from celldetr.data.sources import rescale
from celldetr.data.tiling import pieces, whole_name
from celldetr.errors import InputError, UntypedWarning
from celldetr.evaluation.bootstrap import flatten, restore
from celldetr.evaluation.evaluate import labelled_images
from celldetr.evaluation.image_cells import LOWEST_SCORE, predict_samples
from celldetr.evaluation.metrics import Totals, add_totals, count_image, mean_defined, ratio
from celldetr.evaluation.protocols import PROTOCOLS
from celldetr.io.files import read_json
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.research.ablation.study import Study
from celldetr.slide.array import array_cells
from celldetr.training.logs import read_log
from celldetr.training.loop import Listener, train

RESULT_FILE = "result.json"
# The trial's training run, which has a record of its own, is in the same folder.
LAYOUT = Layout(
    RESULT_FILE,
    noun="trial",
    shared=True,
    remedy="delete the folder to run the trial again, or give the edited study another name",
)
REPORTED = ("standard", "within-radius")  # protocols


@dataclass(frozen=True)
class Result:
    """Result of a trial.

    Attributes:
        variant, seed: which trial.
        types: of the model, in the order of the counts; none if it was trained without (``training.w_type=0``).
        names: of the test images.
        counts: by protocol, counts of each image.
        seconds: of training.
        curve: of validation: seconds of training so far, detection F1, mean type F1.
    """

    variant: str
    seed: int
    types: tuple[str, ...]
    names: tuple[str, ...]
    counts: dict[str, tuple[Totals, ...]]
    seconds: float
    curve: tuple[tuple[float, float | None, float | None], ...]


@dataclass(frozen=True)
class Trial:
    """A variant of a study with a seed.

    Attributes:
        study, variant, seed: which one; ``decoder.DETECTOR`` is the variant of a seed's shared detector.
        out: folder of studies.
        finished: another such folder, which is only read, and need hold the results alone.
    """

    study: Study
    variant: str
    seed: int
    out: Path
    finished: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the trial is written."""
        return self.out / self.study.name / self.variant / f"seed{self.seed}"

    def result(self) -> Path | None:
        """The file of its result, or None if it is to be run.

        Raises:
            InputError: it is the result of what the study said before it was edited.
        """
        for out in (self.out, self.finished):
            path = replace(self, out=out).folder / RESULT_FILE if out else None
            if path is not None and path.is_file():
                # Results did not say from the beginning what they were made of.
                request = {"trial": self.study.trial_of(self.variant)} if "trial" in (read_json(path) or {}) else {}
                RunFolder(path.parent, LAYOUT, request).check(resume=True)
                return path
        return None


def run_trial(trial: Trial, device: str = "auto", listener: Listener | None = None) -> None:
    """Train and score a trial of a ``whole`` study; an interrupted training is resumed.

    Raises:
        InputError: wrong data, or the folder holds a run of another recipe.
    """
    recipe = trial.study.recipe_of(trial.variant, trial.seed)
    model = train(recipe, trial.folder, resume=True, device=device, listener=listener)
    score_trial(trial, model, validation_curve(trial.folder), device)


def validation_curve(folder: Path) -> list[tuple[float, float | None, float | None]]:
    """Seconds of training, detection F1 and mean type F1 at each validation."""
    curve, seconds = [], None
    for row in read_log(folder):
        if row["kind"] == "train":
            seconds = row.get("seconds")
        elif seconds is not None:
            curve.append((seconds, row.get("f1_detection"), row.get("f1_type_mean")))
    return curve


def score_trial(
    trial: Trial,
    model: Path,
    curve: Sequence[tuple[float, float | None, float | None]],
    device: str = "auto",
    facts: dict[str, Any] | None = None,
) -> None:
    """Count a checkpoint's cells on the test split, at its own threshold, and write the result.

    Args:
        trial: which one.
        model: folder of the checkpoint.
        curve: of validation, as in ``Result``; the last entry's seconds are the trial's.
        device: where to run.
        facts: more to write into the file.
    """
    start, test = time.monotonic(), trial.study.test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntypedWarning)  # studies of detection alone
        loaded = load_model(model, device)
    card = load_card(test.card)
    types = loaded.types if loaded.info.types_trained else ()
    labels = (test.labels or None) if types else dict.fromkeys(card.type_names, "")
    samples = labelled_images(card, test.split, loaded.types, labels)
    threshold = loaded.threshold
    predict = partial(array_cells, model=loaded, least_score=min(LOWEST_SCORE, threshold))
    counts: dict[str, list[list[float]]] = {name: [] for name in REPORTED}
    names = []
    for name, image in groupby(samples, lambda sample: whole_name(sample.name)):
        names.append(name)  # the counts of an image are those of its pieces together
        parts = (pieces(rescale(sample, loaded.mpp), test.cut) if test.cut else [sample] for sample in image)
        predicted = predict_samples(predict, chain.from_iterable(parts), loaded.types)
        cells = [each.above(threshold) for each in predicted]
        for protocol, rows in counts.items():
            totals = [count_image(each, PROTOCOLS[protocol], len(types))[0] for each in cells]
            rows.append(flatten(add_totals(totals)))
    run = RunFolder(trial.folder, LAYOUT, {"trial": trial.study.trial_of(trial.variant)})
    with run.open(resume=True):
        run.finish(
            variant=trial.variant,
            seed=trial.seed,
            types=list(types),
            threshold=threshold,
            seconds=curve[-1][0] if curve else 0.0,
            test_seconds=time.monotonic() - start,
            validation=list(curve),
            images=names,
            counts=counts,
            **(facts or {}),
        )


def read_result(path: Path) -> Result:
    """Read what ``score_trial`` wrote.

    Raises:
        InputError: it is not such a file.
    """
    values = read_json(path)
    try:
        if values is None:
            raise KeyError("JSON")
        types = tuple(values["types"])
        none = Totals.none(len(types))
        counts = {str(name): tuple(restore(row, none) for row in rows) for name, rows in values["counts"].items()}
        return Result(
            str(values["variant"]),
            int(values["seed"]),
            types,
            tuple(values["images"]),
            counts,
            float(values["seconds"]),
            tuple((float(a), b, c) for a, b, c in values["validation"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not the result of a trial ({error}); delete it to run the trial again") from None


def read_results(out: Path, study: Study, finished: Path | None = None) -> list[Result]:
    """Results of a study that are there, in the order of its variants and seeds; folders as of ``Trial``."""
    trials = [Trial(study, variant, seed, out, finished) for variant in study.variants for seed in study.seeds]
    return [read_result(path) for trial in trials if (path := trial.result())]


Metric = Callable[[Totals], float | None]


def metrics_of(types: Sequence[str], chosen: Sequence[str]) -> dict[str, Metric]:
    """The numbers of a study's table, from added counts.

    Args:
        types: of the model; none: it was trained without, and there is nothing to say but what it finds.
        chosen: those of which the mean type F1 is taken; none: all.

    Raises:
        InputError: a chosen type is not the model's.
    """
    metrics: dict[str, Metric] = {"detection F1": lambda totals: totals.detection.f1}
    if not types:
        return metrics
    unknown = set(chosen) - set(types)
    if unknown:
        raise InputError(f"test.types {sorted(unknown)} are not types of the model ({', '.join(types)})")
    places = [types.index(name) for name in (chosen or types)]

    def mean_type(totals: Totals) -> float | None:
        return mean_defined([totals.types[place].f1 for place in places])

    def accuracy(totals: Totals) -> float | None:
        right = sum(counts.tp for counts in totals.types)
        return ratio(right, right + sum(counts.fn for counts in totals.types))

    return metrics | {"mean type F1": mean_type, "types right, of cells found": accuracy}
