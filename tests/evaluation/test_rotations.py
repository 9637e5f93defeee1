"""Folds summed up from the files ``celldetr evaluate`` writes, and files that are no rotation refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from rich.console import Console

from celldetr.errors import InputError
from celldetr.evaluation.format import show_rotations
from celldetr.evaluation.protocols import PROTOCOLS
from celldetr.evaluation.report import Report, headline, write_metrics
from celldetr.evaluation.rotations import rotations, spread
from celldetr.evaluation.score import score_images
from helpers.scenes import TYPES, image, random_image

Write = Callable[..., Path]
TISSUES = (("Breast", "Colon"), ("Breast", "Colon"), ("Breast", "Lung"))  # of each fold


def reports(fold: int) -> list[Report]:
    images = [
        replace(random_image(100 * fold + n, name=f"{n}"), tissue=TISSUES[fold][n % 2], digest=f"{fold} {n}")
        for n in range(6)
    ]
    return [score_images(images, TYPES, name, threshold=0.3, resamples=0) for name in PROTOCOLS]


def masked(path: Path, fold: int) -> Path:
    """Write scores of masks into a file of metrics: of the split, and of one of its tissues."""
    content = json.loads(path.read_text())
    names = ("bpq", "mpq", "dq", "sq", "aji", "dice")
    content["masks"] = {name: (fold + n) / 10 for n, name in enumerate(names)}
    content["tissues"]["Breast"]["masks"] = {name: (fold + n) / 20 for n, name in enumerate(names)}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(fold: int, name: str = "", **changes: Any) -> Path:
        first, *others = reports(fold)
        context = {
            "dataset": "pannuke",
            "split": f"fold{fold + 1}",
            "model": {"name": "paper-r50", "sha256": f"{fold}" * 64, "mpp": 0.25},
            "trained_on": [{"name": "pannuke", "split": f"fold{(fold + 1) % 3 + 1}"}],
        }
        path = tmp_path / (name or f"fold{fold + 1}.json")
        write_metrics(first, path, others=others, context=context | changes)
        return path

    return write


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_mean_and_spread_of_every_number(write: Write, protocol: str) -> None:
    result = rotations([write(fold) for fold in (2, 0, 1)], protocol)
    assert [fold.split for fold in result.folds] == ["fold3", "fold1", "fold2"]
    folds = [next(r for r in reports(fold) if r.protocol.name == protocol) for fold in (2, 0, 1)]
    expected = [headline(report.totals, report.type_names) for report in folds]
    for name in expected[0]:
        values = [numbers[name] for numbers in expected]
        assert result.numbers[name].folds == tuple(values)
        assert result.numbers[name].mean == pytest.approx(mean(values))
        assert result.numbers[name].sd == pytest.approx(stdev(values))
    assert result.numbers["box_ap50"].folds == tuple(report.box_ap.detection for report in folds)
    assert result.numbers["calibration_error.types"].folds == tuple(r.calibration.types.error for r in folds)


def test_tissues(write: Write) -> None:
    result = rotations([write(fold) for fold in range(3)])
    rows = [{row.tissue: row.totals for row in reports(fold)[0].tissues} for fold in range(3)]
    assert list(result.tissues) == ["Breast", "Colon", "Lung"]
    breast = [row["Breast"].types[1].f1 for row in rows]
    assert result.tissues["Breast"]["types.inflammatory.f1"].folds == tuple(breast)
    colon = result.tissues["Colon"]["detection.f1"]
    assert colon.folds == (rows[0]["Colon"].detection.f1, rows[1]["Colon"].detection.f1, None)
    assert colon.mean == pytest.approx((colon.folds[0] + colon.folds[1]) / 2)
    lung = result.tissues["Lung"]["detection.f1"]
    assert (lung.mean, lung.sd) == (rows[2]["Lung"].detection.f1, None)
    each = [mean([totals.detection.f1 for totals in row.values()]) for row in rows]
    assert result.mean_of_tissues["detection.f1"].folds == pytest.approx(each)


def test_a_set_without_tissues(write: Write, tmp_path: Path) -> None:
    paths = [write(fold) for fold in range(2)]
    for path in paths:
        content = json.loads(path.read_text())
        assert content["protocols"]["cellvit-compat"]["tissues"]
        content["tissues"] = {}
        path.write_text(json.dumps(content))
    result = rotations(paths)
    assert result.tissues == result.mean_of_tissues == {}
    assert result.numbers["detection.f1"].mean is not None


def test_written_and_shown(write: Write, tmp_path: Path) -> None:
    result = rotations([write(fold) for fold in range(3)])
    result.write(tmp_path / "rotations.json")
    content = json.loads((tmp_path / "rotations.json").read_text())
    assert content["numbers"]["detection.f1"]["mean"] == result.numbers["detection.f1"].mean
    assert content["folds"][0]["split"] == "fold1"
    assert content["tissues"]["Colon"]["detection.f1"]["folds"][2] is None
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show_rotations(result))
    text = console.export_text()
    row = next(line for line in text.splitlines() if "detection.f1" in line)
    values = result.numbers["detection.f1"]
    assert [f"{value:.3f}" for value in (*values.folds, values.mean, values.sd)] == row.replace("│", " ").split()[1:]
    row = next(line for line in text.splitlines() if "Breast" in line)
    values = result.tissues["Breast"]["detection.f1"]
    assert f"{values.mean:.3f} ±{values.sd:.3f}".replace("0.", ".") in row
    assert "mean of tissues" in text


def test_undefined_numbers_are_left_out() -> None:
    assert spread([0.2, None, 0.4]).mean == pytest.approx(0.3)
    assert spread([0.2, None, 0.4]).sd == pytest.approx(stdev([0.2, 0.4]))
    assert (spread([None, 0.5]).mean, spread([None, 0.5]).sd) == (0.5, None)
    assert (spread([None, None]).mean, spread([None, None]).sd) == (None, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": "consep"}, "'consep'.*'pannuke'"),
        ({"model": {"sha256": "0" * 64}}, "same model"),
        ({"trained_on": [{"name": "pannuke", "split": "fold2"}]}, "trained on 'fold2'"),
        ({"also_in_training": {"images": ["1", "4"], "complete": True}}, "trained on 'fold2'"),
        ({"model": {}}, "context.model.sha256"),
    ],
)
def test_what_is_no_rotation(write: Write, changes: dict[str, Any], says: str) -> None:
    paths = [write(0), write(1, **changes)]
    with pytest.raises(InputError, match=says) as error:
        rotations(paths)
    assert "\n" not in str(error.value)


def change_images(path: Path, *digests: str) -> None:
    content = json.loads(path.read_text())
    for row, digest in zip(content["images"], digests, strict=True):
        row["digest"] = digest
    path.write_text(json.dumps(content))


def test_folds_are_the_same_if_their_images_are(write: Write) -> None:
    paths = [write(0), write(1, split="fold1")]
    assert len(rotations(paths).folds) == 2  # a name says nothing
    change_images(paths[1], *(f"0 {n}" for n in range(6)))
    with pytest.raises(InputError, match=r"fold2.json: tests 'fold1', as does .*fold1.json"):
        rotations(paths)
    change_images(paths[1], *[""] * 6)  # as written by 0.1.0
    with pytest.raises(InputError, match="as does"):
        rotations(paths)
    elsewhere = {"images": [], "complete": True}
    assert rotations(
        [write(0), write(1, trained_on=[{"name": "pannuke", "split": "fold2"}], also_in_training=elsewhere)]
    )


def test_files_that_are_no_metrics(write: Write, tmp_path: Path) -> None:
    good = write(0)
    with pytest.raises(InputError, match="1 metrics file"):
        rotations([good])
    with pytest.raises(InputError, match="no protocol 'standrad' in it; did you mean 'standard'"):
        rotations([good, write(1)], "standrad")
    other = tmp_path / "other.json"
    for content in ("[1]", "{", "{}"):
        other.write_text(content)
        with pytest.raises(InputError, match=r"other\.json"):
            rotations([good, other])
    two = score_images([image()], TYPES[:2], threshold=0.3)
    content = json.loads(good.read_text())["context"] | {"split": "fold2", "model": {"sha256": "b"}, "trained_on": []}
    write_metrics(two, other, context=content)
    with pytest.raises(InputError, match=r"types \['neoplastic', 'inflammatory'\], but"):
        rotations([good, other])


@pytest.mark.parametrize("protocol", ["standard", "within-radius"])
def test_masks_are_summed_up_where_every_fold_has_them(write: Write, protocol: str) -> None:
    without = rotations([write(fold) for fold in range(3)], protocol)
    assert not any(name.startswith("masks") for name in without.numbers)
    result = rotations([masked(write(fold), fold) for fold in range(3)], protocol)
    assert result.numbers["masks.bpq"] == spread([0.0, 0.1, 0.2])
    assert result.numbers["masks.dice"] == spread([0.5, 0.6, 0.7])
    assert result.tissues["Breast"]["masks.mpq"] == spread([0.05, 0.1, 0.15])
    assert result.tissues["Lung"]["masks.mpq"].folds == (None, None, None)
    assert result.mean_of_tissues["masks.mpq"] == spread([0.05, 0.1, 0.15])
    assert result.mean_of_tissues["detection.f1"] == without.mean_of_tissues["detection.f1"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(show_rotations(result))
    shown = console.export_text()
    assert "Masks by tissue" in shown
    assert max(map(len, shown.splitlines())) <= 80
