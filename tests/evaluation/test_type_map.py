"""Types of a model scored as those of a data set, and the confusion matrix in both directions, against scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from celldetr.errors import InputError
from celldetr.evaluation.confusion import NO_CELL, NOT_FOUND, read_confusion, write_confusion
from celldetr.evaluation.protocols import find_protocol, pair_image
from celldetr.evaluation.score import score_images
from celldetr.evaluation.type_map import type_map
from helpers.scenes import TYPES, random_image

IMAGES = [random_image(seed, name=str(seed)) for seed in range(12)]
REPORT = score_images(IMAGES, TYPES, threshold=0.3, resamples=0)


def test_both_directions_are_scikit_learns() -> None:
    true, predicted = [], []
    for each in (one.above(0.3) for one in IMAGES):
        pairs = pair_image(each, find_protocol("standard"))
        names = [TYPES[k] if k >= 0 else "?" for k in each.true_types]
        for i, j in zip(pairs.pred_idx, pairs.true_idx, strict=True):
            true.append(names[j])
            predicted.append(TYPES[each.pred_types[i]])
        for j in set(range(len(names))) - set(pairs.true_idx.tolist()):
            true.append(names[j])
            predicted.append(NOT_FOUND)
        for i in set(range(len(each.pred_types))) - set(pairs.pred_idx.tolist()):
            true.append(NO_CELL)
            predicted.append(TYPES[each.pred_types[i]])
    known = [k for k, name in enumerate(true) if name != "?"]
    assert len(known) < len(true)
    labels = [*TYPES, NO_CELL, NOT_FOUND]
    pairs_of_names = [true[k] for k in known], [predicted[k] for k in known]
    matrix = read_confusion(REPORT)
    rows = [0, 1, 2, matrix.rows.index(NO_CELL)]
    for ours, normalise in ((matrix.counts, None), (matrix.of_true, "true"), (matrix.of_predicted, "pred")):
        theirs = confusion_matrix(*pairs_of_names, labels=labels, normalize=normalise)[
            np.ix_([0, 1, 2, 3], [0, 1, 2, 4])
        ]
        assert np.nan_to_num(ours[rows]) == pytest.approx(theirs)
    assert matrix.rows[3] == "type unknown"
    assert np.isnan(matrix.of_predicted[3]).all()
    assert matrix.of_true[3].sum() == pytest.approx(1)


def test_the_table_has_every_pair(tmp_path: Path) -> None:
    write_confusion(REPORT, tmp_path / "c.csv")
    rows = list(csv.DictReader((tmp_path / "c.csv").open(encoding="utf-8")))
    assert [int(row["cells"]) for row in rows] == [count for line in REPORT.confusion for count in line]
    shares = [
        float(row["share_of_predicted"]) for row in rows if row["predicted"] == TYPES[1] if row["share_of_predicted"]
    ]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert len(shares) == 4


FINE = ("t", "b", "tumour", "mast")


def test_fine_types_become_coarse_ones() -> None:
    made = type_map({"t": "lymphoid", "b": "lymphoid", "lymphoid": "inflammatory", "tumour": "neoplastic", "mast": ""},
                    FINE, ("dead", "neoplastic", "inflammatory"))  # fmt: skip
    assert made.names == ("neoplastic", "inflammatory")
    assert made.without == ("dead",)
    merged = made.merge(np.array([[0.3, 0.3, 0.4, 0.0], [0.1, 0, 0.2, 0.7], [0, 0, 0, 1]], np.float32))
    assert merged == pytest.approx(np.array([[0.4, 0.6], [2 / 3, 1 / 3], [0.5, 0.5]]))


def test_a_type_of_the_same_name_needs_no_entry() -> None:
    made = type_map({"t": "x"}, ("t", "y"), ("x", "y"))
    assert (made.targets, made.names) == (("x", "y"), ("x", "y"))


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ({"t": "x"}, "nothing of the model's type 'b'"),
        ({"t": "x", "b": "q"}, "'b' is 'q', which the data set does not have"),
        ({"t": "x", "b": "q", "q": "r", "r": "q"}, "the data set does not have"),
        ({"t": "", "b": ""}, "none of the model's types"),
    ],
)
def test_maps_that_lead_nowhere(pairs: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        type_map(pairs, ("t", "b"), ("x", "y"))
