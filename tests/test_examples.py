"""The examples do what they say, on small input."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

import celldetr
from sample_crop import MPP, crop, default_model, save

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs an example as a script, in an empty folder of its own, and returns what it prints."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(name: str, *arguments: object) -> str:
        monkeypatch.chdir(elsewhere)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert not list(elsewhere.iterdir()), "an example writes only where it is told"
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("done")
    image = save(crop(), folder / "crop.png")
    return celldetr.predict_slide(image, folder / "out", model=default_model(), mpp=MPP).directory


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short_and_say_what_they_show(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 40
    summary = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert len(summary[0]) > 20
    assert f"python examples/{name}.py" in "\n".join(summary)


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    assert len(NAMES) == 6
    assert [name for name in NAMES if f'example("{name}"' not in text] == []


def test_predict_array(example, done: Path, tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    printed = example("predict_array", "--image", done.parents[1] / "crop.png", "--mpp", MPP, "--out", table)
    assert "stromal" in printed
    assert len(pd.read_csv(table)) == len(celldetr.read_cells(done))
    assert "x_um" in example("predict_array", "--size", 100)


def test_predict_slide(example, tmp_path: Path) -> None:
    printed = example("predict_slide", tmp_path / "out", "--region", 950, 900, 200, 200)
    written = {path.name for path in (tmp_path / "out" / "CMU-1-Small-Region").iterdir()}
    assert {"cells.parquet", "cells.geojson.gz", "overview.png", "summary.html", "run.json"} == written
    cells = celldetr.read_cells(tmp_path / "out" / "CMU-1-Small-Region")
    assert f"{len(cells)} cells" in printed
    assert cells["x_px"].between(950, 1150).all()


def test_embeddings_scanpy(example, done: Path, tmp_path: Path) -> None:
    example("embeddings_scanpy", done, "--out", tmp_path / "clusters.h5ad")
    cells = anndata.read_h5ad(tmp_path / "clusters.h5ad")
    assert cells.n_obs == len(celldetr.read_cells(done))
    assert cells.obsm["X_umap"].shape == (cells.n_obs, 2)
    assert cells.obs["leiden"].nunique() >= 1
    assert not (done / "cells.h5ad").exists()


def test_count_by_region(example, done: Path, tmp_path: Path) -> None:
    example("count_by_region", done, "--side", 50, "--out", tmp_path / "squares.csv")
    squares, cells = pd.read_csv(tmp_path / "squares.csv"), celldetr.read_cells(done)
    for name, count in cells["type"].value_counts().items():
        assert squares[name].sum() == count
    first = squares.iloc[0]
    inside = cells["x_um"].between(50 * first["column"], 50 * first["column"] + 50)
    inside &= cells["y_um"].between(50 * first["row"], 50 * first["row"] + 50)
    assert first["stromal"] == (inside & (cells["type"] == "stromal")).sum()
    assert first["stromal_per_mm2"] == pytest.approx(first["stromal"] * 400)


def test_neighbours(example, done: Path) -> None:
    printed = example("neighbours", done, "--of", "stromal", "--near", "lymphocyte", "--um", 15)
    cells = celldetr.read_cells(done)
    places = {name: group[["x_um", "y_um"]] for name, group in cells.groupby("type", observed=False)}
    close = cdist(places["lymphocyte"], places["stromal"]) <= 15
    assert printed.startswith(f"{close.any(1).sum()} of {len(close)} lymphocyte")
    assert example("neighbours", done, "--of", "absent", "--near", "lymphocyte").startswith("0 of")


def test_train_own_data(example, done: Path, tmp_path: Path) -> None:
    cells = celldetr.read_cells(done)
    for number, name in enumerate(("a", "b")):
        for part in ("images", "labels"):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
        save(crop()[:150, 150 * number : 150 * number + 150], tmp_path / "data" / "images" / f"{name}.png")
        part = cells[cells["x_px"].between(150 * number, 150 * number + 149) & (cells["y_px"] < 149)]
        labels = pd.DataFrame({"x": part["x_px"] - 150 * number, "y": part["y_px"], "class": part["type"]})
        labels.to_csv(tmp_path / "data" / "labels" / f"{name}.csv", index=False)
    example("train_own_data", tmp_path / "data", tmp_path / "run", "--mpp", MPP, "--steps", 2, "--crop", 64)
    model = celldetr.load_model(tmp_path / "run", device="cpu")
    assert set(model.types) <= set(default_model().types)
    assert model.mpp == MPP
    assert model.predict(np.full((64, 64, 3), 255, np.uint8), mpp=MPP).columns[0] == "cell_id"
