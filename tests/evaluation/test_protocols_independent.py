"""The three protocols of the PanNuke tables written again from docs/concepts/evaluation.md, in plain loops.

Nothing of ``pairing``, ``protocols`` or ``metrics`` is used. Both must agree on random predictions, empty images on
either side and cells of unknown type among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.score import score_images
from helpers.scenes import TYPES, image

NO_TYPE = "none"  # the point CellViT's evaluation puts into an empty image: background
STAND_IN = {"standard": None, "cellvit-compat": NO_TYPE, "celldetr-compat": 0}
RADIUS_UM = 3.0
THRESHOLD = 0.3

Cell = tuple[float, float, Any]  # x, y, type


def written_out(images: Sequence[ImageCells], protocol: str) -> dict[str, Any]:
    """Scores of a split by the protocol's own words."""
    n_types = len(TYPES)
    pairs: list[tuple[Any, Any]] = []  # predicted and true type
    extra: list[Any] = []
    missed: list[Any] = []
    for cells in images:
        predicted: list[Cell] = []
        released = protocol == "celldetr-compat"
        rows = zip(cells.pred_xy, cells.pred_scores, cells.pred_types, cells.pred_type_scores, strict=True)
        for (x, y), score, kind, sure in rows:
            if score >= THRESHOLD and (sure >= 0.4 or not released):
                predicted.append((x, y, int(kind)))
        true: list[Cell] = []
        for (x, y), kind in zip(cells.true_xy, cells.true_types, strict=True):
            true.append((math.floor(x), math.floor(y), int(kind)) if released else (x, y, int(kind)))
        if STAND_IN[protocol] is not None:
            predicted = predicted or [(0.0, 0.0, STAND_IN[protocol])]
            true = true or [(0.0, 0.0, STAND_IN[protocol])]
        partner: dict[int, int] = {}
        if predicted and true:
            distance = [[math.dist(p[:2], t[:2]) for t in true] for p in predicted]
            for p, t in zip(*linear_sum_assignment(distance), strict=True):
                if distance[p][t] * cells.mpp <= RADIUS_UM:
                    partner[int(p)] = int(t)
        pairs += [(predicted[p][2], true[t][2]) for p, t in partner.items()]
        extra += [p[2] for n, p in enumerate(predicted) if n not in partner]
        missed += [t[2] for n, t in enumerate(true) if n not in partner.values()]

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    tp, fp, fn = len(pairs), len(extra), len(missed)
    out: dict[str, Any] = {
        "detection": {
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "precision": share(tp, tp + fp),
            "recall": share(tp, tp + fn),
            "f1": share(2 * tp, 2 * tp + fp + fn),
        },
        "types": {},
    }
    for c in range(n_types):
        tp_c = fp_c = fn_c = 0
        for predicted_type, true_type in pairs:
            if true_type == -1:
                continue  # a cell, but of no known type
            if predicted_type == c and true_type == c:
                tp_c += 1
            elif predicted_type == c:
                fp_c += 1
            elif true_type == c:
                fn_c += 1
        fp_d, fn_d = extra.count(c), missed.count(c)
        out["types"][TYPES[c]] = {
            "tp": tp_c,
            "fp": fp_c,
            "fn": fn_c,
            "fp_detection": fp_d,
            "fn_detection": fn_d,
            "precision": share(tp_c, tp_c + 2 * fp_c + fp_d),
            "recall": share(tp_c, tp_c + 2 * fn_c + fn_d),
            "f1": share(2 * tp_c, 2 * tp_c + 2 * fp_c + 2 * fn_c + fp_d + fn_d),
        }
    f1 = [row["f1"] for row in out["types"].values() if row["recall"] is not None]  # types that the labels have
    out["mean_type_f1"] = share(sum(f1), len(f1))
    return out


def split(seed: int, kinds: Sequence[str]) -> list[ImageCells]:
    """One image a kind: full, without true cells, without predictions, without either."""
    rng = np.random.default_rng(seed)
    out = []
    for n, kind in enumerate(kinds):
        mpp = float(rng.choice([0.25, 0.5]))
        # Small enough that wrong pairs are common, and that predictions fall near the corner of an empty image.
        side = 30 / mpp * rng.uniform(0.5, 1)
        true = rng.uniform(0, side, (rng.integers(1, 15), 2)) if kind in ("full", "nothing found") else np.empty((0, 2))
        near = true[rng.random(len(true)) < 0.8]
        more = rng.uniform(0, side, (rng.integers(1, 6), 2))
        pred = np.concatenate([near + rng.normal(0, 1.2 / mpp, near.shape), more])
        if kind in ("nothing found", "nothing"):
            pred = pred[:0]
        out.append(
            image(
                pred,
                true,
                pred_types=rng.integers(0, 3, len(pred)),
                true_types=rng.integers(-1, 3, len(true)),
                scores=rng.random(len(pred)),
                type_scores=rng.uniform(0.34, 1, len(pred)),
                mpp=mpp,
                name=str(n),
                tissue=("Colon", "Breast")[n % 2],
            )
        )
    return out


def agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare all that ``theirs`` has: counts exactly, shares but for rounding."""
    for key, value in theirs.items():
        if isinstance(value, dict):
            agree(ours[key], value)
        else:
            assert ours[key] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value), key


KINDS = st.lists(st.sampled_from(["full", "full", "no cells", "nothing found", "nothing"]), min_size=1, max_size=6)


@pytest.mark.parametrize("protocol", sorted(STAND_IN))
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), KINDS)
@example(1, ["nothing"])
@example(2, ["no cells"])
@example(3, ["nothing found"])
@example(4, ["no cells", "nothing found", "nothing", "full"])
def test_agrees_with_the_protocol_written_out(protocol: str, seed: int, kinds: list[str]) -> None:
    images = split(seed, kinds)
    report = score_images(images, TYPES, protocol, threshold=THRESHOLD, resamples=0).to_json()
    agree(report, written_out(images, protocol))
    tissues = {cells.tissue for cells in images}
    assert set(report["tissues"]) == tissues
    for tissue in tissues:
        agree(report["tissues"][tissue], written_out([c for c in images if c.tissue == tissue], protocol))


def test_the_protocols_differ_where_they_should() -> None:
    """What is compared above is not three times the same."""
    images = split(0, ["full", "no cells", "nothing found", "nothing"])
    scores = {name: written_out(images, name) for name in STAND_IN}
    assert scores["standard"]["detection"] != scores["cellvit-compat"]["detection"]
    assert scores["cellvit-compat"]["detection"] != scores["celldetr-compat"]["detection"]
    assert scores["cellvit-compat"]["types"] != scores["celldetr-compat"]["types"]
