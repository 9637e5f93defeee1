"""From a model and samples to a report and its file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.evaluation.format import show_report
from celldetr.evaluation.image_cells import Predict, predict_samples
from celldetr.evaluation.metrics import DetectionCounts
from celldetr.evaluation.protocols import PROTOCOLS
from celldetr.evaluation.report import Report, headline, write_metrics
from celldetr.evaluation.score import score_images
from helpers.scenes import TYPES, Oracle, image, perfect, random_image, sample, tile_cells

SAMPLES = [
    sample([(10, 10), (30, 30), (50, 50)], [0, 1, -1], name="a", group="p1", pixel=1),
    sample([(20, 20)], [0], name="b", group="p1", pixel=2),
    sample([], [], name="empty", group="p2", pixel=3),
]


def evaluate(
    predict: Predict, samples: Iterable[Sample], type_names: tuple[str, ...] = TYPES, **settings: Any
) -> Report:
    return score_images(list(predict_samples(predict, samples, type_names)), type_names, **settings)


def test_a_perfect_model() -> None:
    model = perfect(SAMPLES)
    # A cell of unknown type must be predicted as something.
    model.answers[1] = tile_cells(SAMPLES[0].points, [0, 1, 2], [0.9] * 3)
    report = evaluate(model, iter(SAMPLES), TYPES, threshold=0.5)
    assert model.asked == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert headline(report.totals, report.type_names) == {
        "detection.f1": 1.0,
        "detection.precision": 1.0,
        "detection.recall": 1.0,
        "mean_type_f1": 1.0,
        "mean_type_f1_classwise": 1.0,
        "types.neoplastic.f1": 1.0,
        "types.neoplastic.f1_classwise": 1.0,
        "types.inflammatory.f1": 1.0,
        "types.inflammatory.f1_classwise": 1.0,
        "types.connective.f1": None,  # no such cell, and none predicted on a cell of known type
        "types.connective.f1_classwise": None,
    }
    assert (report.n_images, report.n_cells, report.n_unknown, report.n_predicted) == (3, 4, 1, 4)
    assert (report.median_iou, report.median_distance_um) == (1.0, 0.0)
    assert (report.interval_unit, report.n_units) == ("group", 2)
    assert report.intervals["detection.f1"] == (1.0, 1.0)


def test_distances_follow_the_resolution_of_each_sample() -> None:
    """Ten pixels aside is 2.5 um at 0.25 mpp and 5 um at 0.5 mpp."""
    model = Oracle({1: tile_cells([(40, 30)], [0], [0.9])})
    fine, coarse = (sample([(30, 30)], mpp=mpp, pixel=1) for mpp in (0.25, 0.5))
    hit = evaluate(model, [fine], TYPES, threshold=0.5)
    miss = evaluate(model, [coarse], TYPES, threshold=0.5)
    assert hit.totals.detection == DetectionCounts(tp=1)
    assert hit.median_distance_um == pytest.approx(2.5)
    assert miss.totals.detection == DetectionCounts(fp=1, fn=1)
    assert miss.median_distance_um is None
    assert evaluate(model, [fine, coarse], TYPES, threshold=0.5).totals.detection == DetectionCounts(1, 1, 1)


def test_distance_is_to_the_annotated_point_not_to_the_derived_box() -> None:
    aside = sample([(30, 30)], pixel=1)
    moved = replace(aside, boxes=aside.boxes + np.float32(20))
    report = evaluate(Oracle({1: tile_cells([(30, 30)], [0], [0.9])}), [moved], TYPES, threshold=0.5)
    assert report.totals.detection.f1 == 1.0
    assert report.median_iou == 0.0


def test_threshold_is_inclusive() -> None:
    model = Oracle({1: tile_cells([(10, 10), (40, 40)], [0, 0], [0.5, 0.25])})
    labelled = [sample([(10, 10), (40, 40)], pixel=1)]
    found = {t: evaluate(model, labelled, TYPES, threshold=t).n_predicted for t in (0.25, 0.3, 0.5, 0.6)}
    assert found == {0.25: 2, 0.3: 1, 0.5: 1, 0.6: 0}
    # The curve is over all scores, wherever the threshold is.
    assert evaluate(model, labelled, TYPES, threshold=0.6).curve.recall == (0.5, 1.0)


def test_types_are_matched_by_name() -> None:
    turned = sample([(10, 10), (40, 40)], [0, 1], type_names=("inflammatory", "neoplastic"), pixel=1)
    model = Oracle({1: tile_cells([(10, 10), (40, 40)], [1, 0], [0.9, 0.9])})
    report = evaluate(model, [turned], TYPES, threshold=0.5)
    assert [counts.tp for counts in report.totals.types] == [1, 1, 0]


def test_the_report_adds_up() -> None:
    images = [random_image(seed, name=f"i{seed}", group=f"g{seed % 5}") for seed in range(12)]
    for name in PROTOCOLS:
        report = score_images(images, TYPES, name, threshold=0.3, resamples=20)
        rows = [row.totals.detection for row in report.images]
        assert sum(rows, DetectionCounts()) == report.totals.detection
        assert report.n_cells == sum(row.n_true for row in report.images)
        assert report.n_units == 5
        detection = report.totals.detection
        assert detection.tp + detection.fn == report.n_cells + report.n_added[1]
        assert detection.tp + detection.fp == report.n_predicted + report.n_added[0]
        value, bounds = report.totals.detection.f1, report.intervals["detection.f1"]
        assert value is not None
        assert bounds is not None
        assert bounds[0] <= bounds[1]
        matrix = np.array(report.confusion)
        assert matrix[3].sum() == report.n_unknown


def test_each_tissue_is_scored_as_if_it_were_alone() -> None:
    images = [
        replace(random_image(seed, name=f"i{seed}"), tissue=("Colon", "Breast", "")[seed % 3]) for seed in range(12)
    ]
    for name in PROTOCOLS:
        report = score_images(images, TYPES, name, threshold=0.3, resamples=0)
        assert [row.tissue for row in report.tissues] == ["", "Breast", "Colon"]
        for row in report.tissues:
            alone = score_images([i for i in images if i.tissue == row.tissue], TYPES, name, threshold=0.3, resamples=0)
            assert row.totals == alone.totals
            assert (row.n_images, row.n_cells) == (alone.n_images, alone.n_cells)
            assert row.n_predicted == alone.n_predicted
        content = report.to_json()
        assert content["tissues"]["Colon"]["detection"]["f1"] == report.tissues[2].totals.detection.f1
        assert content["images"][1]["tissue"] == "Breast"


def test_tissues_are_shown_where_there_are_several() -> None:
    images = [random_image(seed, name=f"i{seed}") for seed in range(6)]
    shown = []
    for tissues in (["", ""], ["Colon", "Colon"], ["Colon", "Breast"]):
        named = [replace(i, tissue=tissues[n % 2]) for n, i in enumerate(images)]
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(show_report(score_images(named, TYPES, threshold=0.3, resamples=0)))
        shown.append("F1 by tissue" in console.export_text())
    assert shown == [False, False, True]


def test_pairs_with_points_of_a_protocol_have_no_box_and_no_distance() -> None:
    images = [image(name="nothing"), image([(1, 0)], [], name="corner")]
    report = score_images(images, TYPES, "cellvit-compat", threshold=0.5)
    assert report.totals.detection == DetectionCounts(tp=2)
    assert (report.median_iou, report.median_distance_um) == (None, None)
    assert report.n_added == (1, 2)


def test_json_is_whole_and_strict(tmp_path: Path) -> None:
    images = [random_image(seed, name=f"i{seed}") for seed in range(4)]
    report = score_images(images, TYPES, threshold=0.3, resamples=20)
    others = [score_images(images, TYPES, name, threshold=0.3) for name in ("points-compat", "cellvit-compat")]
    path = tmp_path / "metrics.json"
    write_metrics(report, path, others=others, context={"model": "small-20x", "split": "test"})
    content = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert list(tmp_path.iterdir()) == [path]
    assert content["protocol"] == "standard"
    assert (content["radius_um"], content["threshold"]) == (3.0, 0.3)
    assert content["detection"]["f1"] == report.totals.detection.f1
    assert content["types"]["neoplastic"]["f1"] == report.totals.types[0].f1
    assert content["types"]["neoplastic"]["f1_classwise"] == report.totals.classwise[0].f1
    assert content["intervals_95"]["resampled"] == "image"
    assert [row["name"] for row in content["images"]] == ["i0", "i1", "i2", "i3"]
    assert content["box_ap50"] == report.box_ap.detection
    assert content["mean_type_box_ap50"] == report.box_ap.mean
    assert content["types"]["neoplastic"]["box_ap50"] == report.box_ap.types[0]
    assert content["mean_iou"] == report.mean_iou
    assert content["calibration_error"]["objectness"] == report.calibration.objectness.error
    assert len(content["calibration"]["types"]["share_right"]) == 15
    assert content["tissues"] == {}
    assert sorted(content["protocols"]) == ["cellvit-compat", "points-compat"]
    assert content["protocols"]["points-compat"]["detection"]["f1"] == others[0].totals.detection.f1
    assert content["context"]["model"] == "small-20x"


def test_undefined_numbers_are_null(tmp_path: Path) -> None:
    report = score_images([image()], TYPES, threshold=0.5)
    write_metrics(report, tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["detection"]["f1"] is None
    assert content["types"]["connective"]["f1"] is None
    assert content["average_precision"] is content["median_iou"] is content["mean_type_f1"] is None


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    report = score_images([image()], TYPES, threshold=0.5)
    with pytest.raises(InputError, match=r"nowhere/m.json: cannot be written"):
        write_metrics(report, tmp_path / "nowhere" / "m.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="taken: cannot be written"):
        write_metrics(report, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "1.5"),
        ({"protocol": "standrad"}, "did you mean 'standard'"),
        ({"samples": []}, "no images to evaluate"),
        ({"samples": [sample([(5, 5)], mpp=0.0, pixel=1)]}, "mpp"),
        ({"samples": [sample([(5, 5)], type_names=("tumour",), pixel=1)]}, "type 'tumour' is not a type of the model"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "samples": SAMPLES[:1],
        "type_names": TYPES,
        "threshold": 0.5,
        "protocol": "standard",
    }
    model = Oracle({1: tile_cells([(10, 10)], [0], [0.9])})
    with pytest.raises(InputError, match=message) as error:
        evaluate(model, **{**arguments, **change})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_numbers_are_whole_at_80_columns() -> None:
    names = (*TYPES, "dead", "non-neoplastic epithelial")
    images = [
        replace(random_image(seed, name=f"i{seed}"), tissue=("Colon", "Bile-duct")[seed % 2]) for seed in range(6)
    ]
    report = score_images(images, names, threshold=0.3, resamples=20)
    others = [score_images(images, names, name, threshold=0.3) for name in PROTOCOLS if name != "standard"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(show_report(report, others))
    text = console.export_text()
    for name in ("detection.f1", "types.connective.f1_classwise", "mean_type_f1"):
        assert "–".join(f"{bound:.3f}".removeprefix("0") for bound in report.intervals[name]) in text
    assert all(tissue in text for tissue in ("Colon", "Bile-duct"))
    (heading,) = (line.split() for line in text.splitlines() if "celldetr-" in line)
    assert len(heading) == len(PROTOCOLS) - 1  # standard is one word, and stands a line below


def test_report_as_a_table() -> None:
    images = [random_image(seed, name=f"i{seed}", group=f"g{seed}") for seed in range(6)]
    report = score_images(images, (*TYPES, "dead"), threshold=0.3, resamples=20)
    other = score_images(images, (*TYPES, "dead"), "points-compat", threshold=0.3)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(show_report(report, [other]))
    text = console.export_text()
    for name in (*TYPES, "detection", "mean of types", "points-", "compat", "bootstrap over 6 groups"):
        assert name in text
    assert f"{report.totals.detection.f1:.3f}".removeprefix("0") in text
    for heading, value in (
        ("average precision, boxes at IoU .5", report.box_ap.detection),
        ("expected calibration error", report.calibration.objectness.error),
        ("IoU of pairs with annotated boxes, mean", report.mean_iou),
    ):
        assert f"{value:.3f}" in next(line for line in text.splitlines() if heading in line)
    dead = next(line for line in text.splitlines() if line.strip(" │").startswith("dead"))
    assert "–" in dead
