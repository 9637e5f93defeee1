"""Studies: a decoder learns from stored memory what it would from images; statistics against plain loops."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import permutation_test

from celldetr.config import Recipe
from celldetr.data.dataset import TrainingSet, collate
from celldetr.errors import InputError
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts
from celldetr.io.safe_io import yaml_names
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.research.ablation import run
from celldetr.research.ablation.compare import compare, holm, paired_differences, seeds_for_p, sign_flips, value
from celldetr.research.ablation.decoder import (
    DETECTOR,
    DecoderLoss,
    StoredCrops,
    fit,
    run_variant,
    store_crops,
    train_detector,
)
from celldetr.research.ablation.report import _plain, _shown, write_report
from celldetr.research.ablation.run import Task, run_tasks, tasks_of
from celldetr.research.ablation.study import FOLDER, Study, load_study
from celldetr.research.ablation.trial import (
    RESULT_FILE,
    Result,
    Trial,
    metrics_of,
    read_results,
    validation_curve,
)
from celldetr.training.criterion import class_weights
from celldetr.training.data import load_data
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators
from helpers.cli import call

Recipes = Callable[..., Recipe]
Studies = Callable[..., Study]
SHORT = ["training.steps=1", "training.validate_every=1"]  # enough of a detector to have a memory


@pytest.fixture
def tiny_study(tmp_path: Path, tiny_recipe: Recipes) -> Studies:
    """Writes a study of two variants on the tiny data set; keywords replace its fields."""
    recipe = tiny_recipe(precision="32", steps=3, validate_every=3, workers=0)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))

    def make(**fields: object) -> Study:
        values = {
            "name": "tiny",
            "title": "Tiny",
            "recipe": str(path),
            "set": ["training.mode=parallel_jittered"],
            "seeds": [0, 1],
            "baseline": "both",
            "crops": 6,
            "variants": {
                "neither": {"title": "neither", "set": ["model.decoupled=false", "model.constrained=false"]},
                "both": {"title": "both"},
            },
            "test": {"card": recipe.train[0].card, "split": recipe.train[0].split},
        } | fields
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        study = load_study(file)
        study.check(study.variants, study.seeds[0])
        return study

    return make


@pytest.mark.slow
def test_stored_crops_give_the_type_loss_of_the_images_themselves(tmp_path: Path, tiny_study: Studies) -> None:
    study = tiny_study(kind="decoder", set=["training.mode=mixed", "model.dropout=0.0"], detector=SHORT)
    detector = load_checkpoint(train_detector(Trial(study, "both", 0, tmp_path / "out"), "cpu"))
    edited = study.model_copy(update={"detector": (*study.detector, "training.lr=0.001")})
    with pytest.raises(InputError, match=r"differs \(recipe\.training\.lr: .*, now 0\.001\)"):
        train_detector(Trial(edited, "both", 0, tmp_path / "out"), "cpu")
    stored = store_crops(study, 0, detector, torch.device("cpu"))
    recipe = study.recipe_of("both", 0)
    data = load_data(recipe)
    crops = TrainingSet(data.samples, recipe.augment, 0, study.crops, data.weights)
    images = collate([crops[i] for i in range(4)])
    network = CellDETR(recipe.model.model_copy(update={"pretrained": "none"}))
    learned = {name: value for name, value in detector.network.state_dict().items() if not name.startswith("type_head")}
    network.load_state_dict(network.state_dict() | learned)
    weights = class_weights(data.counts, recipe.training.class_balance)
    # In mode mixed the noise on the boxes is another: the origin, drawn first, is stored. Tokens are in half precision.
    for mode, tolerance in (("mixed", 0.05), ("parallel", 2e-3)):
        settings = recipe.training.model_copy(update={"mode": mode})
        whole, alone = (kind(network, settings, weights).eval() for kind in (SupervisedLoss, DecoderLoss))
        network.training = True  # losses of all layers, without BatchNorm in training
        _, terms = whole(images, image_generators(0, 0, 0, 4))
        expected = settings.w_type * sum(float(v) for k, v in terms.items() if k.endswith("/type"))
        loss, _ = alone(stored.collate(stored.crops[:4]), image_generators(0, 0, 0, 4))
        assert float(loss.detach()) == pytest.approx(expected, rel=tolerance)


def test_stored_crops_are_drawn_once_an_epoch() -> None:
    crops = StoredCrops(list(range(5)), None, [], seed=3)  # type: ignore[arg-type]
    drawn = [crops[i] for i in range(15)]
    assert [sorted(drawn[k : k + 5]) for k in (0, 5, 10)] == [list(range(5))] * 3
    assert drawn[:5] != drawn[5:10]
    assert drawn != [StoredCrops(crops.crops, None, [], seed=4)[i] for i in range(15)]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_decoder_is_trained_alone(tmp_path: Path, tiny_study: Studies) -> None:
    study = tiny_study(
        kind="decoder", set=["training.steps=60", "training.lr=0.01", "training.validate_every=60"], detector=SHORT
    )
    detector = load_checkpoint(train_detector(Trial(study, "both", 0, tmp_path / "out"), "cpu"))
    crops = store_crops(study, 0, detector, torch.device("cpu"))
    _, first = fit(load_with(study, "training.steps=1"), detector, crops, "cpu")
    network, last = fit(study.recipe_of("both", 0), detector, crops, "cpu")
    assert last < 0.7 * first
    own = detector.network.state_dict()
    place = network.config.strides.index(4)  # the encoder does not read it
    learned = ("representer.", "type_head.", f"projections.{place}.")
    for name, weight in network.state_dict().items():
        if not name.startswith(learned):
            assert torch.equal(weight, own[name]), name
    assert not torch.equal(network.state_dict()[f"projections.{place}.0.weight"], own[f"projections.{place}.0.weight"])
    run_variant(Trial(study, "both", 0, tmp_path / "out"), detector, crops, "cpu")
    assert len(read_results(tmp_path / "out", study)) == 1


def load_with(study: Study, change: str) -> Recipe:
    changed = study.model_copy(update={"set": (*study.set, change)})
    return changed.recipe_of("both", 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "decoder"])
def test_a_study_runs_goes_on_and_reports(kind: str, tmp_path: Path, tiny_study: Studies) -> None:
    study, out, told = tiny_study(kind=kind), tmp_path / "out", list[str]()
    tasks = tasks_of(study, out, device="cpu")
    run_tasks(tasks[:1], 1, told.append)
    assert len(told) == 1
    results = read_results(out, study)
    assert {(r.variant, r.seed) for r in results} == (
        {("neither", 0)} if kind == "whole" else {("neither", 0), ("both", 0)}
    )
    kept = Trial(study, "neither", 0, out).folder / RESULT_FILE
    stamp = kept.stat().st_mtime_ns
    run_tasks(tasks, 1, told.append)
    assert kept.stat().st_mtime_ns == stamp
    assert len(read_results(out, study)) == 4
    text = write_report(study, out, resamples=20).read_text()
    assert "4 of 4 trials" in text
    assert (out / "tiny" / "variants.png").stat().st_size > 0
    numbers = json.loads((out / "tiny" / "numbers.json").read_text())
    assert len(numbers["detection F1"]["both"]["values"]) == 2
    if kind == "decoder":  # one detector a seed finds the same cells for all
        assert numbers["detection F1"]["both"]["values"] == numbers["detection F1"]["neither"]["values"]
        assert (out / "tiny" / DETECTOR / "seed0" / "model").is_dir()
    kept, later = tmp_path / "kept", tmp_path / "later"
    for path in out.rglob(RESULT_FILE):
        (kept / path.relative_to(out)).parent.mkdir(parents=True)
        shutil.move(path, kept / path.relative_to(out))
    run_tasks(tasks_of(study, later, device="cpu", finished=kept), 1, told.append)
    assert not list(later.rglob("seed*"))
    assert write_report(study, later, kept, resamples=20).read_text() == text


def slow_task(task: Task) -> str:
    """Stands for a trial: that of seed 1 takes long."""
    if task.trials[0].seed:
        time.sleep(20)
        (task.trials[0].out / "went on").touch()
    return task.name


def test_an_interruption_ends_what_runs_beside(
    tmp_path: Path, tiny_study: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "do_task", slow_task)
    monkeypatch.setattr(run, "get_context", lambda _: multiprocessing.get_context("fork"))

    def interrupt(name: str) -> None:
        raise KeyboardInterrupt(name)

    with pytest.raises(KeyboardInterrupt, match="neither, seed 0"):
        run_tasks(tasks_of(tiny_study(), tmp_path, ["neither"], device="cpu"), 2, interrupt)
    assert not (tmp_path / "went on").exists()


@pytest.mark.slow
def test_a_study_of_detection_needs_no_types(tmp_path: Path, tiny_study: Studies) -> None:
    study = tiny_study(set=["training.w_type=0"], seeds=[0])
    run_tasks(tasks_of(study, tmp_path, device="cpu"), 1, print)
    results = read_results(tmp_path, study)
    assert [result.types for result in results] == [(), ()]
    nuclei = results[0].counts["standard"][0].detection
    assert nuclei.tp + nuclei.fn == len(load_data(study.recipe_of("both", 0)).samples[0])
    report = write_report(study, tmp_path, resamples=50).read_text()
    assert "## detection F1" in report
    assert "type" not in report


def test_a_log_without_detection_gives_a_curve_without_it(tmp_path: Path) -> None:
    rows = [{"kind": "train", "step": 0, "seconds": 2.0}, {"kind": "validation", "step": 0, "found": 0.5}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert validation_curve(tmp_path) == [(2.0, None, None)]


def test_seeds_and_variants_are_chosen_and_results_from_elsewhere_count(tmp_path: Path, tiny_study: Studies) -> None:
    study, out, kept = tiny_study(), tmp_path / "out", tmp_path / "kept"
    tasks = tasks_of(study, out, ["neither"], seeds=[1], finished=tmp_path)
    assert [task.trials for task in tasks] == [(Trial(study, "neither", 1, out, tmp_path),)]
    assert [task.trials[0].seed for task in tasks_of(tiny_study(kind="decoder"), out, seeds=[1, 0])] == [1, 0]
    with pytest.raises(InputError, match="no seed 7; it has 0, 1"):
        tasks_of(study, out, seeds=[7])
    with pytest.raises(InputError, match="no such folder"):
        tasks_of(study, out, finished=kept)
    paths = {folder: Trial(study, "both", 1, folder).folder / RESULT_FILE for folder in (out, kept)}
    for folder in (kept, out):  # what OUT has wins
        assert Trial(study, "both", 1, folder).result() is None
        paths[folder].parent.mkdir(parents=True)
        paths[folder].write_text("{}")
        assert Trial(study, "both", 1, out, kept).result() == paths[folder]
    assert Trial(study, "both", 0, out, kept).result() is None


def test_only_what_is_run_must_have_what_it_begins_with(tmp_path: Path, tiny_study: Studies) -> None:
    own = {"both": {"title": "both"}, "later": {"title": "later", "set": [f"init={tmp_path}/pretrained-$seed"]}}
    tiny_study()  # writes the recipe
    values = yaml.safe_load((tmp_path / "study.yaml").read_text()) | {"variants": own}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study(tmp_path / "study.yaml")
    run_tasks(tasks_of(study, tmp_path, ["both"], device="cpu", seeds=[0]), 1, print)
    assert "1 of 4 trials" in write_report(study, tmp_path, resamples=20).read_text()
    model = Trial(study, "both", 0, tmp_path).folder / "model"
    model.rename(tmp_path / "pretrained-0")
    with pytest.raises(InputError, match="pretrained-1"):  # before anything is trained
        run_tasks(tasks_of(study, tmp_path, device="cpu"), 1, print)
    assert len(read_results(tmp_path, study)) == 1


def test_studies_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "decoder-brca" / "both" / "seed1"
    folder.mkdir(parents=True)
    (folder / RESULT_FILE).write_text("{}")
    arguments = ["ablate", "decoder-brca", "-o", tmp_path / "out", "--only-seeds"]
    assert call(*arguments, "0,one") == 2
    assert "expected whole numbers" in capsys.readouterr().err
    assert call(*arguments, "0,9") == 2
    assert "no seed 9" in capsys.readouterr().err
    assert call(*arguments, "1", "--report", "--finished", tmp_path) == 2
    assert f"{folder / RESULT_FILE}: not the result of a trial" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"baseline": "bothh"}, "did you mean"),
        ({"variants": {"both": {"title": "x", "set": ["model.decoupledd=1"]}}}, "decoupledd"),
        ({"variants": {"../both": {"title": "x"}}, "baseline": "../both"}, "become folders"),
        ({"kind": "decoder", "variants": {"both": {"title": "x", "set": ["model.ffn=64"]}}}, "shared? has|share has"),
        ({"kind": "decoder", "crops": 1}, "crops=1 are stored, fewer than"),
        (
            {
                "kind": "decoder",
                "set": ["model.representation_strides=[8]"],
                "variants": {"both": {"title": "x", "set": ["model.representation_strides=[4, 8]"]}},
            },
            "of which nothing is stored",
        ),
    ],
)
def test_a_wrong_study_is_told_at_once(fields: dict[str, object], message: str, tiny_study: Studies) -> None:
    with pytest.raises(InputError, match=message):
        tiny_study(**fields)


def test_a_change_may_name_the_seed_of_its_trial(tiny_study: Studies) -> None:
    variants = {
        "both": {"title": "all labels"},
        "few": {"title": "few", "set": ["notes=draw $seed", "training.steps=1$seed"]},
    }
    study = tiny_study(baseline="both", seeds=[3, 4], variants=variants)
    few = {seed: study.recipe_of("few", seed) for seed in study.seeds}
    assert [(recipe.notes, recipe.training.steps, recipe.training.seed) for recipe in few.values()] == [
        ("draw 3", 13, 3),
        ("draw 4", 14, 4),
    ]


def test_the_studies_of_the_package_are_in_order() -> None:
    names = yaml_names(FOLDER)
    assert names
    for name in names:
        study = load_study(name)
        assert study.name == name
        study.check(study.variants, 0)


def counts(rng: np.random.Generator, images: int, skill: float) -> tuple[Totals, ...]:
    made = []
    for _ in range(images):
        cells = int(rng.integers(20, 60))
        tp = int(rng.binomial(cells, skill))
        right = int(rng.binomial(tp, skill))
        types = (TypeCounts(right, tp - right, tp - right, 3, cells - tp),)
        made.append(Totals(DetectionCounts(tp, 3, cells - tp), types, (DetectionCounts(tp, 3, cells - tp),)))
    return tuple(made)


def test_paired_differences_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = ([counts(rng, 8, skill) for _ in range(2)] for skill in (0.8, 0.7))
    metric = metrics_of(["a"], [])["detection F1"]
    fast = paired_differences(ours, theirs, metric, resamples=4000, seed=1)
    slow = []
    for _ in range(4000):
        images = rng.integers(8, size=8)
        each = []
        for s in range(2):
            numbers = []
            for side in (ours, theirs):
                tp = sum(side[s][i].detection.tp for i in images)
                wrong = sum(side[s][i].detection.fp + side[s][i].detection.fn for i in images)
                numbers.append(2 * tp / (2 * tp + wrong))
            each.append(numbers[0] - numbers[1])
        slow.append(each)
    limits = [np.percentile(draws, [2.5, 50, 97.5], axis=0) for draws in (fast, slow)]
    assert limits[0] == pytest.approx(limits[1], abs=0.006)


def test_sign_flips_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for differences in (rng.normal(0.5, 1, 7), np.array([0.1, -0.1, 0.2, 0.2, 0.0, 0.3])):
        exact = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flips(differences) == pytest.approx(exact.pvalue)
    assert (sign_flips([0.2] * 6), sign_flips([0.2]), sign_flips([0.0, 0.0])) == (2 / 64, 1, 1)


def test_seeds_that_could_reach_a_p() -> None:
    assert [seeds_for_p(contrasts) for contrasts in (1, 5, 13)] == [6, 8, 10]
    for contrasts in (1, 2, 5, 13):
        seeds = seeds_for_p(contrasts)
        assert contrasts * sign_flips([1.0] * seeds) <= 0.05 < contrasts * sign_flips([1.0] * (seeds - 1))


def test_a_better_variant_is_told_from_an_equal_one() -> None:
    rng = np.random.default_rng(3)
    results = [
        Result(name, seed, ("a",), tuple(map(str, range(12))), {"standard": counts(rng, 12, skill)}, 1.0, ())
        for name, skill in (("base", 0.7), ("better", 0.85), ("equal", 0.7))
        for seed in range(7)
    ]
    rows = compare(results, "base", metrics_of(["a"], [])["mean type F1"], "standard", resamples=400)
    assert rows["base"].p is None
    better, equal = rows["better"], rows["equal"]
    assert better.interval is not None
    assert better.interval[0] > 0.05
    assert better.p == 2 / 128
    assert equal.p is not None
    assert equal.p > 0.05
    assert better.difference == pytest.approx(better.mean - rows["base"].mean)
    few = compare([r for r in results if r.seed < 6], "base", metrics_of(["a"], [])["mean type F1"], "standard")
    assert few["better"].p is None  # two contrasts want seven seeds
    assert few["better"].interval is not None


def one_trial(name: str, images: tuple[Totals, ...], seed: int = 0) -> Result:
    return Result(name, seed, ("a",), tuple(map(str, range(len(images)))), {"standard": images}, 1.0, ())


def test_a_single_seed_says_nothing_of_other_seeds() -> None:
    rng = np.random.default_rng(3)
    results = [
        one_trial("base", counts(rng, 12, 0.6)),
        one_trial("base", counts(rng, 12, 0.6), seed=1),
        one_trial("better", counts(rng, 12, 0.9)),
    ]
    rows = compare(results, "base", metrics_of(["a"], [])["detection F1"], "standard", resamples=50)
    better = rows["better"]
    assert (better.common, better.p) == (1, None)
    assert better.interval is not None
    first = value(results[0].counts["standard"], metrics_of(["a"], [])["detection F1"])
    assert better.difference == pytest.approx(better.mean - first)  # of the seed that both have, not of the base's mean


def test_a_number_that_is_not_defined_is_not_significant(tmp_path: Path, tiny_study: Studies) -> None:
    rng = np.random.default_rng(3)
    missed = DetectionCounts(0, 0, 20)
    nothing = tuple(Totals(missed, (TypeCounts(0, 0, 0, 0, 20),), (missed,)) for _ in range(12))
    results = [one_trial("base", counts(rng, 12, 0.7), seed) for seed in (0, 1)]
    results += [one_trial("none", nothing, seed) for seed in (0, 1)]
    row = compare(results, "base", metrics_of(["a"], [])["types right, of cells found"], "standard", resamples=50)[
        "none"
    ]
    assert (row.interval, row.p) == (None, None)
    assert _shown(row.difference, "+.3f") == ""
    assert json.dumps(_plain({"none": row}), allow_nan=False)


def test_holm_as_worked_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_results_of_a_study_that_was_edited_since_are_refused(tmp_path: Path, tiny_study: Studies) -> None:
    study = tiny_study()
    path = Trial(study, "both", 0, tmp_path).folder / RESULT_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"trial": study.trial_of("both")}))
    assert Trial(study, "both", 0, tmp_path).result() == path
    edited = study.model_copy(update={"set": (*study.set, "training.steps=9")})
    with pytest.raises(InputError, match=r"differs \(trial\.set: .*, now .*training\.steps=9.*; delete the folder"):
        Trial(edited, "both", 0, tmp_path).result()
    told = study.model_copy(update={"test": study.test.model_copy(update={"types": ("epithelial",)})})
    assert Trial(told, "both", 0, tmp_path).result() == path  # another table of the same result
