"""The command line as a user meets it: what it writes, what it says, and one clear line where something is wrong."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
import yaml

import celldetr
from celldetr.config import Precision
from celldetr.doctor import Finding
from celldetr.slide import band_cache
from helpers.cli import call
from helpers.sample_crop import COLUMNS, MPP, crop, default_model, save, white

OUTPUTS = {"cells.parquet", "run.json", "overview.png", "summary.html"}
EXPORTS = {"cells.geojson.gz", "cells.h5ad", "cells.csv"}


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = call(*arguments)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a small image, in all formats."""
    folder = tmp_path_factory.mktemp("finished")
    image = save(crop(), folder / "crop.png")
    formats = ["--format", "geojson", "-f", "h5ad", "-f", "csv"]
    assert call("predict", image, "-o", folder / "out", "--mpp", MPP, "--device", "cpu", "-q", *formats) == 0
    return folder / "out" / "crop"


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def refused(outcome: Outcome, says: str) -> None:
    """One line on standard error that says so, exit code 2."""
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert says in outcome.err
    assert outcome.out == ""


@pytest.mark.slow
def test_all_files_are_written(finished: Path) -> None:
    assert files_in(finished) == OUTPUTS | EXPORTS
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["mpp"] == MPP
    assert record["model"]["sha256"] == default_model().info.sha256
    assert (finished / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert "http" not in (finished / "summary.html").read_text().split("<body", 1)[1].split("src=")[0]


@pytest.mark.slow
def test_all_readers_see_the_same_cells(finished: Path) -> None:
    frame = geopandas.read_parquet(finished / "cells.parquet")
    assert list(frame.columns) == COLUMNS
    assert len(frame) > 30
    centre = frame.geometry.centroid
    assert (np.abs(centre.x - frame["x_px"]) < frame["w_px"] / 2).all()  # an outline, not its box
    assert np.allclose(frame.geometry.area * MPP**2, frame["area_um2"], rtol=1e-3)
    cells = anndata.read_h5ad(finished / "cells.h5ad")
    assert np.allclose(cells.obsm["spatial"], frame[["x_px", "y_px"]])
    assert np.allclose(cells.X, np.stack(list(frame["embedding"])))
    with gzip.open(finished / "cells.geojson.gz", "rt") as file:
        collection = json.load(file)
    assert [f["properties"]["classification"]["name"] for f in collection["features"]] == list(
        frame["type"].astype(str)
    )
    with (finished / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["cell_id", "name", *COLUMNS[1:-2]]
    assert [row["type"] for row in rows] == list(frame["type"].astype(str))
    assert celldetr.read_cells(finished)["cell_id"].tolist() == frame["cell_id"].tolist()


@pytest.mark.slow
def test_export_afterwards(run: Run, finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "cells.csv.gz"
    done = run("export", finished, "-f", "csv", "-o", target, "--embeddings")
    assert (done.code, done.out.strip()) == (0, str(target))
    with gzip.open(target, "rt") as file:
        assert f"e{default_model().embedding_dim - 1}" in file.readline()
    before = target.read_bytes()
    refused(run("export", finished, "-f", "csv", "-o", target), "--overwrite")
    assert target.read_bytes() == before
    assert run("export", finished, "-f", "csv", "-o", target, "--overwrite").code == 0
    refused(run("export", finished, "-f", "geojson", "-o", tmp_path / "a.geojson", "--shape", "elipse"), "'ellipse'")
    refused(run("export", finished, "-f", "geojson", "-o", tmp_path / "a.geojson", "--origin", "bound"), "'bounds'")
    assert run("export", finished, "-f", "geojson", "-o", tmp_path / "a.geojson", "--origin", "slide").code == 0
    refused(run("export", tmp_path, "-f", "csv"), "no such cell table")


def test_export_of_a_model_and_of_cells_are_told_apart(run: Run, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    refused(run("export", finished, "--format", "onnx", "-o", out), "cells of a slide; onnx is a format of models")
    refused(run("export", finished / "cells.parquet", "--format", "onnx", "-o", out), "cells of a slide")
    refused(run("export", "small-20x", "--format", "csv"), "no such cell table")
    refused(run("export", "small-2x", "--format", "onnx", "-o", out), "did you mean 'small-20x'?")
    refused(run("export", "small-20x", "--format", "onx"), "did you mean 'onnx'?")
    refused(run("export", "small-20x", "--format", "onnx", "-o", out, "--shape", "box"), "--format onnx writes a model")
    refused(run("predict", "a.png", "-o", tmp_path, "-f", "onnx"), "for models, not for cells")
    refused(run("export", "small-20x", "--format", "onnx", "-o", tmp_path / "model.pt"), "ends in .onnx")
    assert not list(tmp_path.glob("model*"))
    assert run("export", finished, "--format", "csv", "-o", tmp_path / "cells.csv").code == 0


@pytest.mark.slow
def test_demo_writes_all_formats(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "sample.tif"
    resolution = (1e4 / MPP, 1e4 / MPP)
    tifffile.imwrite(small, np.full((90, 80, 3), 255, np.uint8), resolution=resolution, resolutionunit="CENTIMETER")
    monkeypatch.setattr("celldetr.demo_slide.sample_slide", lambda: small)
    done = run("demo", "-o", tmp_path / "demo", "--quiet", "--device", "cpu")
    assert done.code == 0
    assert files_in(tmp_path / "demo") == OUTPUTS | EXPORTS
    assert run("demo", "-o", tmp_path / "demo", "--quiet", "--resume").code == 0
    refused(run("demo", "-o", tmp_path / "demo", "--quiet"), "--overwrite")


def test_an_empty_slide_gives_a_valid_empty_table(run: Run, tmp_path: Path) -> None:
    formats = ["-f", "geojson", "-f", "anndata", "-f", "csv"]
    done = run("predict", white(tmp_path / "white.png"), "-o", tmp_path / "out", "--mpp", 0.5, "-q", *formats)
    assert done.code == 0
    assert "0 cells" in done.out
    assert "no tissue" in done.err
    folder = tmp_path / "out" / "white"
    assert files_in(folder) == OUTPUTS | EXPORTS
    frame = geopandas.read_parquet(folder / "cells.parquet")
    assert len(frame) == 0
    assert list(frame.columns) == COLUMNS
    assert anndata.read_h5ad(folder / "cells.h5ad").shape == (0, default_model().embedding_dim)


@pytest.mark.slow
def test_earlier_results_are_kept(run: Run, tmp_path: Path) -> None:
    arguments = ["predict", white(tmp_path / "white.png"), "-o", tmp_path / "out", "--mpp", 0.5, "-q"]
    assert run(*arguments).code == 0
    table = tmp_path / "out" / "white" / "cells.parquet"
    first = table.stat().st_mtime_ns
    again = run(*arguments)
    refused(again, "--overwrite")
    assert "--resume" in again.err
    assert run(*arguments, "--resume").code == 0
    assert table.stat().st_mtime_ns == first
    assert run(*arguments, "--overwrite").code == 0
    assert table.stat().st_mtime_ns > first
    refused(run(*arguments, "--overwrite", "--resume"), "--resume and --overwrite")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder of files that are wrong, each in its way."""
    (tmp_path / "text.svs").write_text("not an image")
    (tmp_path / "empty.svs").write_bytes(b"")
    slide = celldetr.sample_slide().read_bytes()
    (tmp_path / "cut.svs").write_bytes(slide[: len(slide) // 2])
    (tmp_path / "later.svs").write_bytes(slide[:1_400_000])
    white(tmp_path / "white.png")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "none.txt").write_text("# nothing yet\n")
    png = (tmp_path / "white.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    return tmp_path


@pytest.mark.parametrize(
    ("slide", "options", "says"),
    [
        ("absent.svs", [], "no such file"),
        ("nothing", [], "no slide in this folder"),
        ("none.txt", [], "names no slide"),
        ("white.png", ["--mpp", "0.5", "--cluster", "locl"], "expected local, tcp://HOST:PORT"),
        ("white.png", ["--mpp", "0.5", "--cluster", "absent.yaml"], "absent.yaml: no such file"),
        ("text.svs", [], "not an image"),
        ("empty.svs", [], "the file is empty"),
        ("cut.svs", [], "truncated"),
        ("later.svs", [], "truncated"),
        ("cut.png", ["--mpp", "0.5"], "cut.png"),
        ("white.png", [], "pass --mpp"),
        ("white.png", ["--mpp", "0"], "mpp=0"),
        ("white.png", ["--mpp", "40"], "for a 40x objective it is about 0.25"),
        ("white.png", ["--mpp", "nan"], "finite number"),
        ("white.png", ["--mpp", "0.5", "--format", "geojsn"], "did you mean 'geojson'?"),
        ("white.png", ["--mpp", "0.5", "--model", "small-2x"], "did you mean 'small-20x'?"),
        ("white.png", ["--mpp", "0.5", "--device", "gpu"], "device 'gpu' is not available here"),
        (
            "white.png",
            ["--mpp", "0.5", "--precision", "fp16"],
            "--precision: Input should be 'auto', '32' or 'bf16', got 'fp16'",
        ),
        ("white.png", ["--mpp", "0.5", "--orientations", "3"], "--orientations: Input should be 1, 2, 4 or 8, got 3"),
        ("white.png", ["--mpp", "0.5", "--threshold", "2"], "--threshold: Input should be less than or equal to 1"),
        ("white.png", ["--mpp", "0.5", "--tile", "8"], "--tile: Input should be"),
        ("white.png", ["--mpp", "0.5", "--batch-size", "0"], "--batch-size: Input should be"),
        (
            "white.png",
            ["--mpp", "0.5", "--overlap", "400", "--tile", "512"],
            "--overlap 400 must not exceed half of --tile 512",
        ),
        ("white.png", ["--mpp", "0.5", "--region", "900", "0", "10", "10"], "outside the slide of 220 x 200 px"),
        ("white.png", ["--mpp", "0.5", "--roi", "none.geojson"], "none.geojson: no such file"),
        ("white.png", ["--mpp", "0.5", "--roi-name", "Tumor"], "--roi, which is missing"),
        ("white.png", ["--mpp", "0.5", "--roi-origin", "corner"], "--roi-origin: Input should be"),
    ],
)
def test_what_cannot_be_predicted(run: Run, inputs: Path, slide: str, options: list[str], says: str) -> None:
    refused(run("predict", inputs / slide, "-o", inputs / "out", "-q", *options), says)
    assert not files_in(inputs / "out")


def test_a_full_disk_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    image = save(crop(), tmp_path / "crop.png")
    arguments = ["predict", image, "-o", tmp_path / "out", "--mpp", MPP, "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(band_cache.np, "savez", full)  # what writes the bands
        refused(run(*arguments), "the disk is full")
    assert not files_in(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("celldetr.recipes.load_recipe", full)  # anywhere else
        refused(run("train", "small-20x", "-o", tmp_path / "run"), "the disk is full")


def test_one_bad_slide_does_not_stop_the_others(run: Run, inputs: Path) -> None:
    good = white(inputs / "good.png")
    slides = [inputs / "absent.svs", inputs / "white.png", inputs / "text.svs", good]
    done = run("predict", *slides, "-o", inputs / "out", "--mpp", 0.5, "-q")
    assert done.code == 3
    assert [line for line in done.err.splitlines() if line.startswith("error: ")] == [
        line for line in done.err.splitlines() if "absent.svs" in line or "text.svs" in line
    ]
    assert sorted(path.parent.name for path in (inputs / "out").glob("*/cells.parquet")) == ["good", "white"]
    rows = {row["slide"]: row for row in pq.read_table(inputs / "out" / "cohort.parquet").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "absent": "failed", "good": "complete", "text": "failed", "white": "complete"
    }  # fmt: skip
    assert "no such file" in rows["absent"]["reason"]
    assert "absent.svs: no such file" in (inputs / "out" / "cohort.html").read_text()
    assert run("predict", inputs / "absent.svs", inputs / "text.svs", "-o", inputs / "out", "-q").code == 2


@pytest.mark.slow
def test_a_folder_and_a_list_of_slides(run: Run, tmp_path: Path) -> None:
    (tmp_path / "slides" / "more").mkdir(parents=True)
    save(crop(), tmp_path / "slides" / "more" / "b.png")
    white(tmp_path / "slides" / "a.png")
    (tmp_path / "list.csv").write_text(f"slide,mpp\nslides/more/b.png,{MPP}\nslides/a.png,0.5\n")
    by_folder, by_list = tmp_path / "slides" / "out", tmp_path / "out"  # the first lies in what is searched
    command = ["predict", tmp_path / "slides", "-o", by_folder, "--mpp", MPP, "--device", "cpu", "-q"]
    plan = run(*command, "--dry-run")
    assert plan.code == 0
    assert "2 slides: 2 to do, 0 finished" in plan.out
    assert not by_folder.exists()
    assert run(*command).code == 0
    assert run("predict", tmp_path / "list.csv", "-o", by_list, "--device", "cpu", "-q").code == 0
    tables = [pq.read_table(out / "b" / "cells.parquet") for out in (by_folder, by_list)]
    assert tables[0].equals(tables[1])
    assert {path.name for path in by_list.iterdir()} == {"a", "b", "cohort.parquet", "cohort.html"}
    again = run(*command, "--resume", "--dry-run")
    assert again.out.count("is finished, would be kept") == 2
    refused = run(*command, "--dry-run")
    assert refused.code == 2
    assert refused.out.count("pass --overwrite to replace it") == 2
    assert run(*command, "--resume").code == 0


@pytest.mark.slow
def test_cells_of_a_roi(run: Run, finished: Path, tmp_path: Path) -> None:
    image = save(crop(), tmp_path / "crop.png")
    corners = [[30, 20], [190, 40], [150, 180], [30, 20]]
    annotation = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
    }
    (tmp_path / "roi.geojson").write_text(json.dumps([annotation]))
    base = ["predict", image, "--mpp", MPP, "--device", "cpu", "-q", "--roi", tmp_path / "roi.geojson"]
    assert run(*base, "-o", tmp_path / "out", "--roi-name", "Tumor").code == 0
    found, everything = (celldetr.read_cells(folder) for folder in (tmp_path / "out" / "crop", finished))
    inside = shapely.intersects_xy(shapely.Polygon(corners), everything["x_px"], everything["y_px"])
    assert 0 < inside.sum() < len(everything)
    np.testing.assert_array_equal(found[["x_px", "y_px"]], everything.loc[inside, ["x_px", "y_px"]])
    assert files_in(tmp_path / "out") == OUTPUTS
    assert "tissue in the ROI" in (tmp_path / "out" / "crop" / "summary.html").read_text()
    refused(run(*base, "-o", tmp_path / "o2", "--roi-name", "Tumour"), "did you mean 'Tumor'?")
    refused(run(*base, save(crop(), tmp_path / "other.png"), "-o", tmp_path / "o2"), "is drawn on one slide")


def test_two_slides_of_one_name_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    twins = white(tmp_path / "slide.png"), white(tmp_path / "a" / "slide.png")
    refused(run("predict", *twins, "-o", tmp_path / "out", "--mpp", 0.5, "-q"), "both write to OUT/slide")
    assert not (tmp_path / "out").exists()


def test_an_interruption_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("celldetr.cohort.predict.predict_slide", interrupted)
    done = run("predict", white(tmp_path / "white.png"), "-o", tmp_path / "out", "--mpp", 0.5, "-q")
    assert done.code == 130
    assert "--resume" in done.err


@pytest.mark.parametrize("damage", ["truncated", "weights", "card", "no weights"])
def test_a_broken_checkpoint_is_refused(run: Run, tmp_path: Path, damage: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(celldetr.list_models()["small-20x"], model)
    weights, card = model / "model.safetensors", model / "card.json"
    content = bytearray(weights.read_bytes())
    if damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "weights":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "card":
        card.write_text(card.read_text().replace("lymphocyte", "neutrophil"))
    else:
        weights.unlink()
    says = {"card": "was changed", "no weights": "incomplete checkpoint"}.get(damage, "SHA-256")
    refused(run("predict", white(tmp_path / "w.png"), "-o", tmp_path / "out", "--mpp", 0.5, "--model", model), says)
    assert not (tmp_path / "out").exists()


@cache
def cells_found(precision: Precision) -> pd.DataFrame:
    """What the model finds on the small image."""
    return default_model(precision).predict(crop(), mpp=MPP)


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set whose labels are the cells the model finds in a precision, and changes to its card."""

    def write(precision: Precision = "32", **changes: Any) -> Path:
        folder = tmp_path / "data"
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        save(crop(), folder / "images" / "one.png")
        cells = cells_found(precision)
        lines = [f"{x},{y},{name}" for x, y, name in cells[["x_px", "y_px", "type"]].itertuples(index=False)]
        (folder / "labels" / "one.csv").write_text("x,y,class\n" + "\n".join(lines) + "\n")
        values: dict[str, Any] = {
            "name": "tiny",
            "title": "Tiny",
            "format": "points_csv",
            "mpp": MPP,
            "types": {name: [name] for name in default_model().types},
            "splits": {"test": ["one"], "train": ["one"]},
            "licence": "CC0-1.0",
            "citation": "none",
            "options": {"images": "images", "labels": "labels"},
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


@pytest.mark.slow
def test_a_model_agrees_with_itself(
    run: Run, card: Callable[..., Path], tmp_path: Path, native_precision: Precision
) -> None:
    out, plots = tmp_path / "metrics.json", tmp_path / "plots"
    arguments = ["evaluate", card(native_precision), "-o", out, "--split", "test", "-q", "--device", "cpu"]
    arguments += ["--precision", native_precision]
    done = run(*arguments, "--plots", plots)
    assert done.code == 0
    metrics = json.loads(out.read_text())
    assert metrics["context"]["dataset"] == "tiny"
    assert metrics["detection"]["f1"] == 1.0
    assert metrics["types"]["stromal"]["f1"] == 1.0
    assert len(metrics["protocols"]) == 4
    assert {path.suffix for path in plots.iterdir()} == {".csv", ".png"}
    before = out.read_bytes()
    refused(run(*arguments), "--overwrite")
    assert out.read_bytes() == before


@pytest.mark.slow
def test_the_threshold_of_cells_found_at_a_threshold(
    run: Run, card: Callable[..., Path], tmp_path: Path, native_precision: Precision
) -> None:
    plot = tmp_path / "threshold.png"
    arguments = ["threshold", card(native_precision), "--split", "train", "-q", "--device", "cpu"]
    arguments += ["--precision", native_precision]
    done = run(*arguments, "--plot", plot)
    assert done.code == 0
    chosen, own, heading, row = done.out.splitlines()
    assert heading.split()[-2:] == ["calibration", "error"]
    assert row.split()[-2] == "1.000"  # at the model's own
    model = default_model(native_precision)
    scores = np.sort(cells_found(native_precision).score)
    # What the model calls a cell, and it alone, but for one step of the search either way: F1 is smoothed over the
    # steps, of two or three cells each, so that its top is where its flanks are balanced, not at its highest step.
    value, f1, cells = re.fullmatch(r"threshold (\S+): detection F1 (\S+), .*\((\d+) cells\)", chosen).groups()
    assert int(cells) == len(scores)
    assert 0 < float(value) <= scores[3] + 5e-4
    assert float(f1) >= 0.99
    assert own.startswith(f"the model's own, {model.threshold:.3f}: detection F1 1.000")
    assert plot.stat().st_size > 0
    one = run(*arguments, "--protocol", "within-radius")
    assert one.out.startswith("threshold 0.")
    refused(run(*arguments, "--protocol", "within"), "within-radius")
    refused(run(*arguments, "--plot", plot), "--overwrite")
    refused(run("threshold", "no-such-set", "--plot", tmp_path / "threshold.gif", "-q"), ".pdf, .png, .svg")


@pytest.mark.slow
def test_a_model_of_other_types(run: Run, card: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    other = card(types={"tumour": ["epithelial"], "rest": ["lymphocyte", "stromal"]})
    arguments = ["evaluate", other, "-o", out, "-q", "--precision", "32"]
    refused(run(*arguments), "none in common")
    refused(run(*arguments, "--map", "tumour"), "expected --map THEIRS=OURS")
    refused(run(*arguments, "--map", "tumor=epithelial"), "did you mean 'tumour'?")
    assert not out.exists()
    assert run(*arguments, "--map", "tumour=epithelial", "--map", "rest=").code == 0
    metrics = json.loads(out.read_text())
    assert metrics["types"]["epithelial"]["f1"] == 1.0
    assert metrics["context"]["types"] == {"tumour": "epithelial", "rest": ""}
    assert metrics["context"]["types_without_counterpart"] == []
    mixed = card(types={"tumour": ["epithelial"], "lymphocyte": ["lymphocyte"], "rest": ["stromal"]})
    done = run("evaluate", mixed, "-o", out, "-q", "--overwrite", "--map", "tumour=epithelial", "--precision", "32")
    assert "no type of the model is 'rest'" in done.err
    types = json.loads(out.read_text())["types"]
    assert types["lymphocyte"]["f1"] == types["epithelial"]["f1"] == 1.0  # what --map leaves out keeps its name


def coco(folder: Path, box: list[float], category: int = 1) -> None:
    content = {
        "images": [{"id": 1, "file_name": "one.png"}],
        "categories": [{"id": 1, "name": "lymphocyte"}, {"id": 2, "name": "mast cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": category, "bbox": box}],
    }
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "one.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"splits": {"test": ["absent"]}}, "no image 'absent'"),
        ({"splits": {"train": ["one"], "val": ["one"]}}, "no split 'test'"),
        ({"types": {"lymphocyte": ["lymphocyte"], "epithelial": ["x"]}}, "is not in the card"),
        ({"mpp": 0}, "mpp"),
        ({"format": "points"}, "unknown format 'points'"),
        ({"licens": "none"}, "did you mean 'licence'?"),
        ({"root": "elsewhere"}, "no directory"),
    ],
)
def test_a_card_that_lies(
    run: Run, card: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    refused(run("evaluate", card(**changes), "-o", tmp_path / "metrics.json", "-q"), says)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("box", "category", "says"), [([280, 280, 40, 20], 1, "lies outside"), ([5, 5, 9, 9], 2, "label 'mast cell'")]
)
def test_boxes_that_lie(
    run: Run, card: Callable[..., Path], tmp_path: Path, box: list[float], category: int, says: str
) -> None:
    coco(tmp_path, box, category)
    path = card(format="coco", splits={"test": "one.json"}, options={"images": "images"})
    refused(run("evaluate", path, "-o", tmp_path / "metrics.json", "-q"), says)


@pytest.mark.slow
def test_tissues_and_rotations_of_pannuke(run: Run, tmp_path: Path) -> None:
    images = np.stack([crop()[:256, :256]] * 4)
    masks = np.zeros((4, 256, 256, 3))
    masks[:3, 100:120, 60:90, 0] = 1  # the fourth image has no nucleus
    masks[1, 10:30, 10:30, 1] = 2
    for name, array in {"images": images, "masks": masks, "types": np.array(["Breast", "Colon"] * 2)}.items():
        np.save(tmp_path / f"{name}1.npy", array)
    options = {"images": "images1.npy", "masks": "masks1.npy", "tissues": "types1.npy"}
    values = {"name": "pannuke-like", "title": "Like PanNuke", "format": "pannuke", "mpp": 0.5, "licence": "CC0-1.0"}
    values |= {"types": {"epithelial": [0], "stromal": [1]}, "splits": {"fold1": 1}, "citation": "none"}
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(values | {"options": options}))
    first = tmp_path / "fold1.json"
    done = run("evaluate", path, "--split", "fold1", "-o", first, "-q", "--device", "cpu")
    assert done.code == 0
    assert "F1 by tissue" in done.out
    metrics = json.loads(first.read_text())
    assert (metrics["boxes"], metrics["n_cells"]) == ("annotated", 4)
    assert {name: row["n_images"] for name, row in metrics["tissues"].items()} == {"Breast": 2, "Colon": 2}
    assert metrics["protocols"]["celldetr-compat"]["tissues"]["Colon"]["n_cells"] == 2
    assert {"name": "brca-m2c", "split": "train"} in metrics["context"]["trained_on"]

    # Other models of other folds are the same file with another name in it.
    out = tmp_path / "rotations.json"
    files = [first, tmp_path / "fold2.json", tmp_path / "fold3.json"]
    for n, file in enumerate(files):
        metrics["context"]["split"] = f"fold{n + 1}"
        metrics["context"]["model"]["sha256"] = str(n)
        metrics["images"] = [image | {"digest": f"{n} {i}"} for i, image in enumerate(metrics["images"])]
        file.write_text(json.dumps(metrics))
    done = run("rotations", *files, "-o", out)
    assert done.code == 0
    assert "mean of tissues" in done.out
    content = json.loads(out.read_text())
    assert content["numbers"]["detection.f1"]["folds"] == [metrics["detection"]["f1"]] * 3
    assert content["numbers"]["detection.f1"]["sd"] == pytest.approx(0)
    refused(run("rotations", *files, "-o", out), "--overwrite")
    assert run("rotations", *files, "-o", out, "--protocol", "celldetr-compat", "--overwrite").code == 0
    f1 = metrics["protocols"]["celldetr-compat"]["detection"]["f1"]
    assert json.loads(out.read_text())["numbers"]["detection.f1"]["mean"] == pytest.approx(f1)
    refused(run("rotations", first, first, "-o", tmp_path / "r.json"), "give one file for each fold")
    assert not (tmp_path / "r.json").exists()


def test_evaluation_is_refused_before_it_begins(run: Run, tmp_path: Path) -> None:
    refused(run("evaluate", "brca", "-o", tmp_path / "m.json"), "no dataset card 'brca'")
    refused(run("evaluate", "brca-m2c", "-o", tmp_path), "expected the name of a file")
    refused(run("evaluate", "brca-m2c", "-o", tmp_path / "absent" / "m.json"), "in a folder that exists")


@pytest.mark.slow
def test_training_in_small(run: Run, card: Callable[..., Path], tmp_path: Path) -> None:
    source = {"card": str(card()), "split": "train"}
    recipe = tmp_path / "tiny.yaml"
    model = {"types": list(default_model().types), "d_model": 32, "ffn": 16, "heads": 2, "points": 1}
    model |= {"encoder_layers": 1, "detection_layers": 1, "representation_layers": 1}
    training = {"batch_size": 1, "warmup": 0, "workers": 0, "precision": "32"}
    values = {"name": "tiny", "model": model, "train": [source], "validation": [source], "training": training}
    recipe.write_text(yaml.safe_dump(values | {"augment": {"crop": 64}}))
    settings = ["training.steps=3", "training.validate_every=3"]
    out = tmp_path / "run"
    done = run("train", recipe, *settings, "-o", out, "--device", "cpu", "-q")
    assert (done.code, done.out.strip()) == (0, f"model: {out / 'model'}")
    assert {"log.jsonl", "curves.png", "card.json", "model.safetensors", "state.safetensors"} <= files_in(out)
    weights = (out / "model" / "model.safetensors").read_bytes()
    refused(run("train", recipe, *settings, "-o", out, "-q"), "--resume")
    assert run("train", recipe, *settings, "-o", out, "--device", "cpu", "-q", "--resume").code == 0
    assert (out / "model" / "model.safetensors").read_bytes() == weights
    loaded = celldetr.load_model(out, device="cpu")  # a run's folder is a model's name
    assert loaded.info.recipe["training"]["steps"] == 3


@pytest.mark.slow
def test_own_labels_from_qupath(run: Run, tmp_path: Path) -> None:
    """What the default model finds, exported for QuPath and renamed there, becomes a model of its own, in two steps."""
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    save(crop(), data / "one.png")
    assert run("predict", data / "one.png", "--mpp", MPP, "-o", tmp_path / "cells", "-f", "geojson", "-q").code == 0
    (found,) = (tmp_path / "cells").rglob("*.geojson.gz")
    text = gzip.decompress(found.read_bytes()).decode()
    (data / "one.geojson").write_text(text.replace('"stromal"', '"my own"').replace('"lymphocyte"', '"L"'))
    train = ["train", "finetune", "--data", data, "-o", out, "--device", "cpu", "-q"]
    quick = ["training.steps=2", "training.batch_size=2", "training.workers=0", "augment.crop=64", "training.warmup=0"]
    refused(run(*train), "mpp")
    refused(run(*train, "--mpp", MPP, "--map", "stromal=x"), "has no class 'stromal'")
    refused(run("train", "finetune", "-o", out), "no labelled cell in train")
    refused(run("train", "finetune", "-o", out, "--map", "a=b"), "--data, which is missing")
    assert not out.exists()
    done = run(*train, *quick, "--mpp", MPP, "--map", "L=lymphocyte")
    assert done.code == 0, done.err
    assert "cells, in the images of those trained on" in done.err
    loaded = celldetr.load_model(out, device="cpu")
    assert "my own" in loaded.types
    assert "lymphocyte" in loaded.types
    assert loaded.threshold == default_model().threshold
    own = loaded.info.training_data[-1]
    assert (own["name"], own["split"], own["licence"], len(own["images"])) == ("data", "all", "unknown", 1)
    assert loaded.info.training_data[0]["name"] == "brca-m2c"
    metrics = tmp_path / "metrics.json"
    judged = ["evaluate", data, "--split", "all", "--mpp", MPP, "-m", out, "-o", metrics, "-q", "--map", "L=lymphocyte"]
    done = run(*judged)
    assert done.code == 0, done.err
    assert "trained on 1 image of the split 'all'" in done.err
    assert json.loads(metrics.read_text())["detection"]["f1"] > 0.95  # it still finds what the default model found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["small-2x"], "did you mean 'small-20x'?"),
        (["absent.yaml"], "no recipe 'absent.yaml'"),
        (["small-20x", "training.stepz=3"], "did you mean 'steps'?"),
        (["small-20x", "modl.d_model=3"], "did you mean 'model'?"),
        (["small-20x", "training.steps"], "expected key=value"),
        (["small-20x", "training.steps=many"], "training.steps"),
        (["small-20x", "model.d_model=16"], "d_model=16"),
    ],
)
def test_a_recipe_that_is_wrong(run: Run, tmp_path: Path, arguments: list[str], says: str) -> None:
    refused(run("train", *arguments, "-o", tmp_path / "run"), says)
    assert not (tmp_path / "run").exists()


def test_models_are_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    done = run("models")
    assert done.code == 0
    assert "small-20x" in done.out
    assert default_model().info.licence in done.out
    assert default_model().info.sha256[:12] in done.out


def test_doctor_ends_with_its_verdict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = [Finding("weights", "small-20x", "SHA-256 differs", "broken")]
    with monkeypatch.context() as patch:  # the examination itself has tests of its own
        patch.setattr("celldetr.doctor.collect", lambda: sick)
        done = run("doctor")
        assert done.code == 1
        assert "SHA-256 differs" in done.out
        patch.setattr("celldetr.doctor.collect", list)
        assert run("doctor").code == 0


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.split()[0] == celldetr.__version__
    listed = run("--help")
    assert listed.code == 0
    for command in ("predict", "demo", "export", "train", "evaluate", "rotations", "models", "doctor"):
        assert command in listed.out
        assert run(command, "--help").code == 0
    assert run("predikt").code == 2
    assert run("predict", "a.svs").code == 2  # no OUT


@pytest.mark.slow
def test_the_installed_program_says_one_line(tmp_path: Path) -> None:
    # In a process of its own, where libraries log to standard error as they please.
    slide = celldetr.sample_slide().read_bytes()
    (tmp_path / "cut.svs").write_bytes(slide[: len(slide) // 2])
    code = "import sys; from celldetr.cli import main; assert 'torch' not in sys.modules; main()"
    command = [sys.executable, "-c", code, "predict", str(tmp_path / "cut.svs"), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    refused(Outcome(done.returncode, done.stdout, done.stderr), "truncated")
    assert not (tmp_path / "out").exists()
