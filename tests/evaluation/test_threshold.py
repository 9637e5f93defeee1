"""The chosen threshold is as good as the best on validation, sits in the middle of the top, and never saw a test
image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from celldetr.errors import InputError
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.metrics import DetectionCounts, count_detection
from celldetr.evaluation.protocols import PROTOCOLS, pair_image
from celldetr.evaluation.threshold import TOP, best_threshold, common_threshold
from helpers.scenes import image, random_image


def f1_at(images: list[ImageCells], threshold: float, protocol: str = "within-radius") -> float:
    rule = PROTOCOLS[protocol]
    counts = [count_detection(pair_image(rule.prepare(i.above(threshold)), rule)) for i in images]
    return sum(counts, DetectionCounts()).f1 or 0.0


def separable(hits: list[float], misses: list[float]) -> ImageCells:
    places = [(100.0 * k, 50) for k in range(len(hits) + len(misses))]
    return image(places, places[: len(hits)], scores=[*hits, *misses])


def test_the_middle_of_the_gap_between_hits_and_misses() -> None:
    choice = best_threshold([separable([0.7, 0.8, 0.9], [0.1, 0.2, 0.3])])
    assert choice.threshold == pytest.approx(0.5)
    assert choice.counts == DetectionCounts(tp=3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(PROTOCOLS)))
@example(seed=13773, protocol="celldetr-compat")  # the best is a fourth as many predictions as cells, exactly
def test_no_threshold_is_better(seed: int, protocol: str) -> None:
    images = [random_image(seed + k) for k in range(2)]
    scores = np.concatenate([i.pred_scores for i in images])
    n_true = sum(len(i.true_xy) for i in images)
    assume(n_true > 3 and 0 < len(scores) < 20)  # few enough to be neither smoothed nor thinned
    choice = best_threshold(images, protocol)
    kept = [s for s in scores if n_true / 4 <= np.sum(scores >= s) <= 4 * n_true]
    best = max([f1_at(images, s, protocol) for s in kept], default=0.0)
    assert f1_at(images, choice.threshold, protocol) >= best - TOP
    assert choice.counts.f1 == pytest.approx(f1_at(images, choice.threshold, protocol))


def test_of_two_protocols_the_mean_counts() -> None:
    images = [random_image(seed) for seed in range(3)]
    both = ("within-radius", "standard")
    choice, single = best_threshold(images, both), best_threshold(images, both[0])
    assert choice.tried == single.tried
    mean = [np.mean([f1_at(images, step, protocol) for protocol in both]) for step in choice.tried]
    assert choice.f1 == pytest.approx(mean)
    assert choice.counts.f1 == pytest.approx(f1_at(images, choice.threshold, both[0]))


def test_the_choice_holds_on_images_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)

    def scored(n: int) -> ImageCells:
        return separable(rng.beta(6, 3, n).tolist(), rng.beta(2, 5, n).tolist())

    unseen = [scored(4000)]
    best = max(f1_at(unseen, threshold) for threshold in np.linspace(0.2, 0.7, 26))
    chosen = [f1_at(unseen, best_threshold([scored(300)]).threshold) for _ in range(6)]
    assert np.mean(chosen) > best - 0.003


def test_many_junk_scores_do_not_use_up_the_steps() -> None:
    hits, junk = [0.6, 0.7, 0.8, 0.9], np.linspace(0.001, 0.01, 3000).tolist()
    assert 0.01 < best_threshold([separable(hits, junk)]).threshold <= 0.6


def test_all_predictions_right_keeps_to_the_scores_seen() -> None:
    choice = best_threshold([separable([0.4, 0.6, 0.8], [])])
    assert choice.threshold == pytest.approx(0.4)
    assert choice.counts.f1 == 1.0


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(InputError, match="no labelled cell"):
        best_threshold([image([(5, 5)], [])])
    with pytest.raises(InputError, match="finds no cell in the validation"):
        best_threshold([image([], [(5, 5)])])
    with pytest.raises(InputError, match="no labelled cell"):
        best_threshold([])


def test_every_set_counts_alike() -> None:
    many, one = [separable([0.8, 0.9], [0.5, 0.6])] * 9, [separable([0.35, 0.4], [0.1])]
    choice = common_threshold([many, one])
    assert 0.1 < choice.threshold < 0.35  # of the first set 2 of 4 are right there, and all of the second
    assert choice.counts == DetectionCounts(tp=20, fp=18, fn=0)
    assert choice.f1 == pytest.approx([np.mean([f1_at(many, step), f1_at(one, step)]) for step in choice.tried])
    assert common_threshold([many[:1], one]).threshold == choice.threshold
    assert best_threshold([*many, *one]).threshold > 0.6  # where images count alike
    assert common_threshold([many]) == best_threshold(many)
