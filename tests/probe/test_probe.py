"""``celldetr probe`` as a user meets it: the report, what is kept, what is refused; and the numbers' intervals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from celldetr.data.card import load_card
from celldetr.errors import InputError
from celldetr.probe.classify import macro_f1
from celldetr.probe.row import MethodRow, measure, read_row, write_row
from celldetr.probe.summary import interval, summarise
from celldetr.probe.truth import check_apart, read_splits
from helpers.cli import call
from helpers.probe_cells import truth, vectors, write_data_set


def row(name: str, spread: float) -> MethodRow:
    train, test = truth(6, 30, 1), truth(5, 30, 2)
    measured = measure([(vectors(train, spread, 1), vectors(test, spread, 2))], train, test, 3, seeds=2)
    return MethodRow(name, name, "x", 8, 1.0, (180, 150), **measured)


@pytest.mark.slow
def test_numbers_and_differences() -> None:
    good, bad = row("good", 0.3), row("bad", 3.0)
    first, second = summarise([good, bad])
    assert first.macro_f1["linear"][1.0].value == pytest.approx(
        np.mean([macro_f1(draw.sum(0)) for draw in good.counts["linear"][1.0]])
    )
    assert first.behind == {}
    whole = good.counts["knn"][1.0].sum(1)
    right = [np.trace(draw) / draw.sum() for draw in whole]
    assert first.accuracy["knn"].each == pytest.approx(right)
    difference = second.behind["linear"][1.0]
    assert difference.value == pytest.approx(first.macro_f1["linear"][1.0].value - second.macro_f1["linear"][1.0].value)
    assert difference.low is not None
    assert 0 < difference.low < difference.value < (difference.high or 0)
    same = summarise([good, replace(good, name="again")])[1].behind["linear"][0.1]
    assert (same.value, same.low, same.high) == (0, 0, 0)  # pairs are resampled alike
    assert first.first.value > second.first.value > 0
    assert len(first.macro_f1["linear"][0.01].each) == 4


def test_an_interval_covers_units_and_draws() -> None:
    rng = np.random.default_rng(0)
    hits = rng.binomial(50, 0.7, (1, 20)) + rng.integers(-1, 2, (3, 20))  # what is hard is so in all draws
    counts = np.zeros((3, 20, 2, 2), np.int64)
    counts[..., 0, 0], counts[..., 0, 1], counts[..., 1, 1] = hits, 50 - hits, 50
    share = interval(counts, lambda c: c[..., 0, 0] / c[..., 0, :].sum(-1), seeds=3)
    assert share.value == pytest.approx(hits.mean() / 50)
    expected = hits.mean(0).std() / 50 / np.sqrt(20)
    assert share.low is not None
    assert share.high is not None
    assert (share.high - share.low) / 3.92 == pytest.approx(expected, rel=0.2)
    apart = counts.copy()
    apart[0, :, 0, 0], apart[0, :, 0, 1] = 5, 45  # one draw is much worse: that is seen
    wide = interval(apart, lambda c: c[..., 0, 0] / c[..., 0, :].sum(-1), seeds=3)
    assert (wide.high or 0) - (wide.low or 0) > 3 * (share.high - share.low)
    assert interval(counts[:, :1], macro_f1, seeds=3).low is None
    # The same three networks asked twice know nothing new.
    twice = interval(np.tile(apart, (2, 1, 1, 1)), lambda c: c[..., 0, 0] / c[..., 0, :].sum(-1), seeds=3)
    assert (twice.low, twice.high) == pytest.approx((wide.low, wide.high))


@pytest.mark.slow
def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = row("r", 1.0)
    write_row(tmp_path / "r.json", kept)
    again = read_row(tmp_path / "r.json")
    assert again is not None
    assert again.strengths == kept.strengths
    assert all((again.counts["linear"][share] == counts).all() for share, counts in kept.counts["linear"].items())
    assert np.allclose(again.retrieval, kept.retrieval)
    (tmp_path / "r.json").write_text('{"knn": 3}')
    with pytest.raises(InputError, match="`overwrite=True`"):
        read_row(tmp_path / "r.json")


def test_splits_that_share_somebody_are_refused() -> None:
    train, test = truth(4, 9, 1, groups=True), truth(4, 9, 2)
    check_apart(train, test)
    with pytest.raises(InputError, match="patient 'patient 0'"):
        check_apart(train, truth(4, 9, 2, groups=True))
    named = [replace(each, samples=tuple(replace(s, name=s.group) for s in each.samples)) for each in (train, train)]
    named[1] = replace(named[1], samples=tuple(replace(s, image=s.image // 2) for s in named[1].samples))
    check_apart(*named)  # a file's name that two folders have is not a patient
    larger = tuple(replace(s, mpp=0.5) for s in test.samples)
    assert replace(test, samples=larger).digest() != test.digest()  # the same pixels of another size are other cells
    copied = replace(test, samples=(*test.samples[:2], replace(train.samples[0], name="other", group="")))
    with pytest.raises(InputError, match="image 'other'"):
        check_apart(train, copied)


def test_types_that_are_asked_for_are_all_there_are(tmp_path: Path) -> None:
    card = load_card(str(write_data_set(tmp_path / "data")))
    everything = read_splits(card, "train", "test", None)[0]
    backwards = card.type_names[::-1]
    asked = read_splits(card, "train", "test", None, types=backwards)[0]
    assert asked.samples[0].type_names == backwards != everything.samples[0].type_names
    assert (asked.types == 1 - everything.types).all()


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card, out = write_data_set(tmp_path / "data"), tmp_path / "out"
    command = ("probe", "small-20x", card, "-o", out, "--seeds", 2, "--device", "cpu", "-q")
    assert call(*command, "--against", "handmade") == 0
    said = capsys.readouterr().out
    assert "small-20x" in said
    assert "handmade" in said
    report = json.loads((out / "report.json").read_text())
    model, handmade = report["rows"]
    assert (report["train_cells"], report["test_cells"]) == (18, 18)
    # Discs of two sizes and shades: whoever looks tells them apart.
    assert handmade["linear"]["macro_f1"]["1.0"]["value"] == 1
    assert model["linear"]["macro_f1"]["1.0"]["value"] > 0.9
    assert model["dim"] == 128
    assert model["ms_per_cell"] > 0
    text = (out / "report.md").read_text()
    assert "| `handmade` |" in text
    assert "Boxes were derived" in text
    for name in ("macro_f1", "labels", "confusion", "neighbours"):
        assert (out / f"{name}.png").stat().st_size > 1000

    # Nothing is measured twice, rows can be added, and vectors that are gone are computed again.
    before = (out / "rows" / "small-20x.json").stat().st_mtime_ns
    (out / "embeddings" / "handmade-test.safetensors").unlink()
    (out / "rows" / "handmade.json").unlink()
    weights = tmp_path / "encoder.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    rows = ("--against", "handmade", "--against", "random", "--encoder", "test_vit", "--weights", weights)
    assert call(*command, *rows, "--resume") == 0
    again = json.loads((out / "report.json").read_text())
    assert [each["name"] for each in again["rows"]] == ["small-20x", "handmade", "random", "test_vit"]
    assert again["rows"][3]["dim"] == 64
    assert again["rows"][1]["knn"]["accuracy"]["value"] == 1
    assert (out / "rows" / "small-20x.json").stat().st_mtime_ns == before
    assert again["rows"][0] == model
    assert again["rows"][1]["linear"] == handmade["linear"]
    assert (out / "embeddings" / "random-1-test.safetensors").is_file()
    capsys.readouterr()

    for options, complaint in [
        ((), "--resume"),
        (("--resume", "--train-images", 1), "train_images: 2, now 1"),
        (("--test-split", "train", "--overwrite"), "share nobody"),
        (("--test-split", "tset", "--overwrite"), "tset"),
        (
            ("--type", "round", "--type", "neutrophil", "--overwrite"),
            "--type neutrophil: dataset 'discs' has the types",
        ),
        (("--type", "round", "--overwrite"), "needs two or more"),
    ]:
        assert call(*command, *options) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
    assert json.loads((out / "report.json").read_text()) == again
