"""Neighbours and the linear probe against scikit-learn; retrieval against brute force; draws of labels; chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from celldetr.data.label_share import draw_labels, with_label_share
from celldetr.data.sample import UNKNOWN
from celldetr.probe import classify
from celldetr.probe import retrieval as probe_retrieval
from celldetr.probe.classify import (
    CHOICE_CELLS,
    NEIGHBOURS,
    STRENGTHS,
    TEMPERATURE,
    Features,
    Types,
    choose_strength,
    confusion,
    folds_of,
    knn,
    linear,
    macro_f1,
    standardise,
    type_f1,
    unit_length,
)
from celldetr.probe.retrieval import FAR, nearest_elsewhere, neighbours
from celldetr.probe.row import measure
from celldetr.probe.sheet import ACROSS, FRAME, GAP, LABEL, PIXELS, contact_sheet
from celldetr.probe.truth import truth_of
from helpers.probe_cells import TYPES, truth, vectors


def test_knn_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "CHUNK", 37 * 240)  # several, and a part of one
    train, test = truth(6, 40, 1), truth(3, 40, 2)
    x, y = vectors(train, 2.0, 1), vectors(test, 2.0, 2)
    other = KNeighborsClassifier(
        NEIGHBOURS, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / TEMPERATURE)
    ).fit(x, train.types)
    mine = knn(x, train.types, y, 3)
    assert (mine == other.predict(y)).all()
    assert len(np.unique(mine)) == 3
    few = knn(x[:5], train.types[:5], y, 3)  # fewer cells than neighbours
    assert set(few) <= set(train.types[:5])


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    counts = confusion(true, predicted, 4)
    assert np.allclose(type_f1(counts), f1_score(true, predicted, average=None))
    assert macro_f1(counts) == pytest.approx(f1_score(true, predicted, average="macro"))
    # A type that is nowhere is not a type that was missed.
    assert macro_f1(confusion(true, predicted, 5)) == pytest.approx(macro_f1(counts))
    assert np.isnan(type_f1(confusion(true, predicted, 5))[4])


def test_standardising_looks_at_training_cells_only() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(3, 5, (50, 4)).astype(np.float32), rng.normal(0, 1, (20, 4)).astype(np.float32)
    train[:, 2] = test[:, 2] = 7.0
    a, b = standardise(train, test)
    assert np.allclose(a[:, [0, 1, 3]].mean(0), 0, atol=1e-5)
    assert np.allclose(a[:, [0, 1, 3]].std(0), 1, atol=1e-5)
    assert np.allclose(b[:, 0], (test[:, 0] - train[:, 0].mean()) / train[:, 0].std(), atol=1e-5)
    assert (a[:, 2] == 0).all()
    assert (b[:, 2] == 0).all()
    assert np.array_equal(standardise(train, test[:3])[1], b[:3])


def test_no_unit_is_in_two_folds() -> None:
    known = truth(12, 20, 3, groups=True)
    folds = folds_of(known.units, np.random.default_rng(0))
    assert set(folds) == {0, 1, 2}
    assert all(len(set(folds[known.units == unit])) == 1 for unit in range(known.n_units))


def test_without_a_second_unit_the_strength_is_the_middle_one() -> None:
    x, types, images = cells_that_tell_their_image(0)
    assert choose_strength(x, types, np.zeros_like(images), 2, 0) == STRENGTHS[2]
    # Nor is that one which is hardly ever drawn.
    rng = np.random.default_rng(0)
    units = np.zeros(CHOICE_CELLS * 50, np.int64)
    units[0] = 1
    x, types = rng.normal(size=(len(units), 2)).astype(np.float32), rng.integers(0, 2, len(units))
    assert choose_strength(x, types, units, 2, 0) == STRENGTHS[2]


def cells_that_tell_their_image(seed: int) -> tuple[Features, Types, Types]:
    """Vectors, types and images of 24 images of 12 cells. Each image has a direction of its own, and nearly one type:
    within an image that looks like knowledge, across images it misleads. One further, noisy number is of the type."""
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(24), 12)
    types = np.where(rng.random(len(images)) < 0.9, images % 2, 1 - images % 2)
    own = unit_length(rng.normal(size=(24, 20)))[images]
    typed = 2 * types - 1 + rng.normal(size=len(images))
    x = np.c_[10 * own + rng.normal(0, 0.3, own.shape), 10 * typed]
    return x.astype(np.float32), types, images


@pytest.mark.parametrize("seed", range(3))
def test_the_strength_is_chosen_across_patients_and_not_across_cells(seed: int) -> None:
    x, types, images = cells_that_tell_their_image(seed)
    assert choose_strength(x, types, images, 2, seed) <= 1e-3
    assert choose_strength(x, types, np.arange(len(x)), 2, seed) >= 1e-1


def faint(n: int, rng: np.random.Generator) -> tuple[Features, Types]:
    """One small number tells the types apart, among loud ones that do not: its weight must be free to be large."""
    types = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 10))
    x[:, 0] = 0.1 * (2 * types - 1) + 0.03 * x[:, 0]
    return x.astype(np.float32), types


def diffuse(n: int, rng: np.random.Generator) -> tuple[Features, Types]:
    """Twenty of many noisy numbers say a little each, and there are not many more cells than numbers."""
    types = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 150))
    x[:, :20] += 0.25 * (2 * types - 1)[:, None]
    return (3 * x).astype(np.float32), types


@pytest.mark.parametrize(("draw", "best"), [(faint, 1.0), (diffuse, 1e-3)])
def test_the_strength_that_is_best_for_new_cells_is_chosen(
    draw: Callable[[int, np.random.Generator], tuple[Features, Types]], best: float
) -> None:
    rng = np.random.default_rng(0)
    (x, types), (new, their) = draw(240, rng), draw(4000, rng)
    scores = [macro_f1(confusion(their, linear(x, types, new, strength), 2)) for strength in STRENGTHS]
    assert STRENGTHS[int(np.argmax(scores))] == best
    assert choose_strength(x, types, np.arange(240) // 10, 2, 0) == best


def test_neighbours_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "CHUNK", 29 * 90)
    known = truth(6, 15, 4, groups=True)
    x = vectors(known, 1.0, 4)
    found = neighbours(x, known.types, known.images, known.units, 3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    retrieval, leak = np.zeros((known.n_units, 3, 4)), np.zeros((known.n_units, 3))
    for i, (kind, own) in enumerate(zip(known.types, known.units, strict=True)):
        others = [j for j in range(len(x)) if known.units[j] != own]
        others.sort(key=lambda j: -cosine[i, j])
        right = [float(known.types[j] == kind) for j in others]
        retrieval[own, kind] += [1, right[0], np.mean(right[:FAR]), np.mean(right)]
        same = [j for j in range(len(x)) if j != i and known.types[j] == kind]
        same.sort(key=lambda j: -cosine[i, j])
        if len(same) >= FAR:
            from_here = [float(known.images[j] == known.images[i]) for j in same]
            leak[own] += [1, np.mean(from_here[:FAR]), np.mean(from_here)]
    assert np.allclose(found.retrieval, retrieval)
    assert np.allclose(found.leak, leak)
    assert retrieval[..., 2].sum() > 1.5 * retrieval[..., 3].sum()  # the vectors do say something

    monkeypatch.setattr(probe_retrieval, "MOST_QUERIES", 45)
    half = neighbours(x, known.types, known.images, known.units, 3)
    assert half.retrieval[..., 0].sum() == 45
    share = half.retrieval[..., 2].sum() / 45  # the same question of fewer cells, among as many
    assert share == pytest.approx(retrieval[..., 2].sum() / 90, abs=0.1)
    assert (half.retrieval <= retrieval + 1e-9).all()


def test_neighbours_on_the_sheet_are_from_other_patients() -> None:
    known = truth(6, 15, 5, groups=True)
    near = nearest_elsewhere(vectors(known, 1.0, 5), known.units, np.array([0, 40, 80]), 8)
    assert near.shape == (3, 8)
    assert (known.units[near] != known.units[[0, 40, 80]][:, None]).all()


def test_places_on_the_sheet_are_blank_where_other_patients_have_too_few_cells() -> None:
    known = truth_of([*truth(1, 15, 1).samples, *truth(1, 3, 2).samples])
    x = vectors(known, 1.0, 5)
    near = nearest_elsewhere(x, known.units, np.array([0, 15]), 8)
    assert set(near[0, :3]) == {15, 16, 17}
    assert (near[0, 3:] == -1).all()
    assert (near[1] >= 0).all()
    assert (nearest_elsewhere(x, known.units, np.array([0]), 20)[0, 3:] == -1).all()  # more than there are cells

    alone = truth_of([*truth(1, 15, 1).samples, *truth(1, 0, 2).samples])
    for test, drawn in ((known, 3), (alone, 0)):
        # The only type with a name is drawn: all queries are of the large image.
        large = type(test)(test.samples, np.where(test.images == 0, 0, 1), test.images, test.units)
        sheet = np.asarray(contact_sheet(vectors(test, 1.0, 5), large, ("a",)))
        step = PIXELS + 2 * FRAME + GAP
        edges = [sheet[GAP + 1, LABEL + column * step + 2 * GAP + 1] for column in range(1, 1 + ACROSS)]
        assert [bool((edge != 255).any()) for edge in edges] == [True] * drawn + [False] * (ACROSS - drawn)


def test_draws_are_nested_and_stratified() -> None:
    rng = np.random.default_rng(0)
    types = rng.choice(4, 5000, p=[0.7, 0.2, 0.098, 0.002])
    types[::50] = UNKNOWN
    small, middle, everything = (draw_labels(types, share, 3) for share in (0.01, 0.1, 1.0))
    assert (small <= middle).all()
    assert (middle <= everything).all()
    assert (everything == (types != UNKNOWN)).all()
    for kind in range(4):
        count = (types == kind).sum()
        assert (types[middle] == kind).sum() == max(1, round(0.1 * count))
        assert (types[small] == kind).sum() == max(1, round(0.01 * count))
    assert (draw_labels(types, 0.1, 4) != middle).any()
    assert (draw_labels(types, 0.1, 3) == middle).all()


def test_cells_without_their_label_stay_as_nuclei() -> None:
    known = truth(4, 50, 6)
    left = with_label_share(known.samples, 0.1, 0)
    kept = np.concatenate([sample.types for sample in left])
    assert (kept[kept != UNKNOWN] == known.types[kept != UNKNOWN]).all()
    assert (kept != UNKNOWN).sum() == sum(max(1, round(0.1 * n)) for n in np.bincount(known.types))
    assert [len(sample.boxes) for sample in left] == [50] * 4


def test_constant_vectors_give_chance() -> None:
    train, test = truth(5, 40, 7), truth(4, 40, 8)
    constant = np.ones((200, 6), np.float32), np.ones((160, 6), np.float32)
    measured = measure([constant], train, test, 3, seeds=1)
    for counts in (*measured["counts"]["knn"].values(), *measured["counts"]["linear"].values()):
        assert (counts.sum((2, 3)) == 40).all()
        # All cells are called one type: that is all that can be known.
        assert ((counts.sum((1, 2)) > 0).sum(1) == 1).all()
    assert macro_f1(measured["counts"]["linear"][1.0].sum(1)).max() < 0.3
    n, _, ten, chance = measured["retrieval"].sum((0, 1, 2))
    assert n == 160
    assert abs(ten - chance) / n < 0.12  # any ten are as near as any others


def test_test_types_change_scores_and_nothing_else() -> None:
    train, test = truth(6, 30, 9), truth(3, 30, 10)
    pair = vectors(train, 1.0, 9), vectors(test, 1.0, 10)
    measured = measure([pair], train, test, 3, seeds=1)
    shuffled = type(test)(test.samples, np.roll(test.types, 1), test.images, test.units)
    again = measure([pair], train, shuffled, 3, seeds=1)
    assert measured["strengths"] == again["strengths"]
    for share, counts in measured["counts"]["linear"].items():
        assert (counts.sum((1, 2)) == again["counts"]["linear"][share].sum((1, 2))).all()  # the same predictions
    assert (
        macro_f1(measured["counts"]["linear"][1.0].sum(1))[0] > macro_f1(again["counts"]["linear"][1.0].sum(1))[0] + 0.2
    )
    assert len(TYPES) == 3
