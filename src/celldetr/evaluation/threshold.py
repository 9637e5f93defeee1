"""The objectness threshold, chosen on validation images and nothing else.

F1 over the threshold has noise on a broad top, and its highest step is luck of the validation set. So it is taken at
quantiles of the scores, smoothed, and the middle of the top is returned, which depends least on the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.config import ThresholdOptions
from celldetr.errors import InputError
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.metrics import DetectionCounts, count_detection
from celldetr.evaluation.protocols import Protocol, find_protocol, pair_image

STEPS = 120  # thresholds tried
SMOOTH = 0.1  # share of the steps averaged over; below 20 steps, none
TOP = 1e-3  # F1 within this of the best belongs to the top

# Where within-radius has its broad top, ``standard`` has a slope, and tissue that a network has not seen scores lower:
# both want the lower end of that top.
THRESHOLD_PROTOCOLS = ThresholdOptions().protocols

Protocols = str | Protocol | Sequence[str | Protocol]


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and what it was chosen from.

    Attributes:
        threshold: least objectness of a prediction that counts.
        counts: detection on the validation images at that threshold, under the first protocol.
        tried: rising thresholds that were tried.
        f1: detection F1 at each of them, the mean over sets and protocols, as measured, not smoothed.
    """

    threshold: float
    counts: DetectionCounts
    tried: tuple[float, ...]
    f1: tuple[float, ...]


@dataclass(frozen=True)
class SetChoice:
    """A set of validation images at three thresholds, under the first rule of pairing.

    Attributes:
        name: of the data set with its split, and of the tissue where the data tell several.
        best: the threshold that suits this set alone, which is optimistic.
        chosen, own: detection at the common threshold, and at the one that the model came with.
        calibration_error: expected calibration error of the scores (``calibration``); None without predictions.
    """

    name: str
    best: ThresholdChoice
    chosen: DetectionCounts
    own: DetectionCounts
    calibration_error: float | None


def best_threshold(validation: Sequence[ImageCells], protocol: Protocols = "within-radius") -> ThresholdChoice:
    """The threshold of the best detection F1 on validation images.

    Args:
        validation: images that the model was neither trained nor will be tested on, with all predictions down to a low
            score.
        protocol: rules of pairing; of several, the mean of F1 under each is what counts.

    Raises:
        InputError: no true cell, or no prediction, in the validation images.
    """
    return common_threshold([validation], protocol)


def common_threshold(sets: Sequence[Sequence[ImageCells]], protocol: Protocols = "within-radius") -> ThresholdChoice:
    """The threshold of the best mean detection F1 over sets of validation images, of which each counts alike.

    Args:
        sets: one or more, each of an organ or data set; otherwise as ``best_threshold``.
        protocol: see there.

    Raises:
        InputError: no true cell, or no prediction, in one of them.
    """
    several = [protocol] if isinstance(protocol, str | Protocol) else protocol
    rules = [find_protocol(each) for each in several]
    steps, scores = np.empty(0), np.empty(0)
    for validation in sets:
        n_true = sum(len(image.true_xy) for image in validation)
        own = np.sort(np.concatenate([np.empty(0), *(image.pred_scores for image in validation)]))
        if not n_true:
            raise InputError("the validation images hold no labelled cell; a threshold cannot be chosen on them")
        if not len(own):
            raise InputError(
                "the model finds no cell in the validation images; train it longer or lower its own threshold"
            )
        steps, scores = np.concatenate([steps, _steps(own, n_true)]), np.concatenate([scores, own])
    steps, scores = _spread(np.unique(steps)), np.sort(scores)
    f1 = [[[count_at(each, rule, step).f1 or 0.0 for rule in rules] for each in sets] for step in steps]
    measured = np.array(f1).mean((1, 2))
    first, last = _top(_smooth(measured))
    # A selection is the same for every threshold above the next lower score, so the top begins there. Nothing is known
    # of predictions below the lowest score seen.
    below = scores[scores < steps[first]]
    threshold = float(((below[-1] if len(below) else steps[first]) + steps[last]) / 2)
    counts = sum((count_at(each, rules[0], threshold) for each in sets), DetectionCounts())
    return ThresholdChoice(threshold, counts, tuple(steps.tolist()), tuple(measured.tolist()))


def _steps(scores: NDArray[np.float64], n_true: int) -> NDArray[np.float64]:
    """Thresholds to try, rising: distinct quantiles of the (sorted) scores around the useful number of predictions."""
    # With k predictions F1 is at most 2 min(k, N) / (k + N). Outside N/4 ... 4N that is below 0.4, and a detector that
    # can do no better is not helped by a threshold; without this, thousands of junk scores would take all the steps.
    fewest = min(math.ceil(n_true / 4), len(scores))
    useful = scores[max(0, len(scores) - 4 * n_true) : len(scores) - fewest + 1]
    return np.unique(_spread(useful))


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most ``STEPS`` of sorted values, evenly over their positions."""
    return values[np.linspace(0, len(values) - 1, min(STEPS, len(values))).round().astype(np.intp)]


def count_at(images: Sequence[ImageCells], protocol: Protocol, threshold: float) -> DetectionCounts:
    """Detection on images with a threshold on top of that of the predictions."""
    counts = (count_detection(pair_image(protocol.prepare(image.above(threshold)), protocol)) for image in images)
    return sum(counts, DetectionCounts())


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving average over ``SMOOTH`` of the steps; at the ends over those there are."""
    half = int(len(values) * SMOOTH / 2)
    window = np.ones(2 * half + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _top(values: NDArray[np.float64]) -> tuple[int, int]:
    """First and last step of the longest run within ``TOP`` of the best."""
    high = np.flatnonzero(values >= values.max() - TOP)
    runs = np.split(high, np.flatnonzero(np.diff(high) > 1) + 1)
    longest = max(runs, key=len)
    return int(longest[0]), int(longest[-1])
