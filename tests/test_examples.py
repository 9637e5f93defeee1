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
from celldetr.data.autocard import find_card
from celldetr.data.sources import load_samples
from helpers.sample_crop import MPP, crop, default_model, save

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
    """A finished run, in the precision of the examples."""
    folder = tmp_path_factory.mktemp("done")
    image = save(crop(), folder / "crop.png")
    return celldetr.predict_slide(image, folder / "out", model=default_model("auto"), mpp=MPP).directory


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short_and_say_what_they_show(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < (85 if name == "onnx_predict" else 40)  # that one has no library to lean on
    summary = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert len(summary[0]) > 20
    assert f"python examples/{name}.py" in "\n".join(summary)


@pytest.mark.slow
def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    assert len(NAMES) == 8
    assert [name for name in NAMES if f'example("{name}"' not in text] == []


@pytest.mark.slow
def test_predict_array(example, done: Path, tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    printed = example("predict_array", "--image", done.parents[1] / "crop.png", "--mpp", MPP, "--out", table)
    assert "stromal" in printed
    assert len(pd.read_csv(table)) == len(celldetr.read_cells(done))
    assert "x_um" in example("predict_array", "--size", 100)


@pytest.mark.slow
def test_predict_slide(example, tmp_path: Path) -> None:
    printed = example("predict_slide", tmp_path / "out", "--region", 950, 900, 200, 200)
    written = {path.name for path in (tmp_path / "out" / "CMU-1-Small-Region").iterdir()}
    assert {"cells.parquet", "cells.geojson.gz", "overview.png", "summary.html", "run.json"} == written
    cells = celldetr.read_cells(tmp_path / "out" / "CMU-1-Small-Region")
    assert f"{len(cells)} cells" in printed
    assert cells["x_px"].between(950, 1150).all()


@pytest.mark.slow
def test_embeddings_scanpy(example, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # UMAP's first layout will do: what improves it is compiled in each process anew, for longer than the rest takes.
    monkeypatch.setattr("umap.umap_.optimize_layout_euclidean", lambda layout, *_, **__: layout)
    example("embeddings_scanpy", done, "--out", tmp_path / "clusters.h5ad")
    cells = anndata.read_h5ad(tmp_path / "clusters.h5ad")
    assert cells.n_obs == len(celldetr.read_cells(done))
    assert cells.obsm["X_umap"].shape == (cells.n_obs, 2)
    assert cells.obs["leiden"].nunique() >= 1
    assert not (done / "cells.h5ad").exists()


@pytest.mark.slow
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


@pytest.mark.slow
def test_neighbours(example, done: Path) -> None:
    printed = example("neighbours", done, "--of", "stromal", "--near", "lymphocyte", "--um", 15)
    cells = celldetr.read_cells(done)
    places = {name: group[["x_um", "y_um"]] for name, group in cells.groupby("type", observed=False)}
    close = cdist(places["lymphocyte"], places["stromal"]) <= 15
    assert printed.startswith(f"{close.any(1).sum()} of {len(close)} lymphocyte")
    assert example("neighbours", done, "--of", "absent", "--near", "lymphocyte").startswith("0 of")


@pytest.mark.slow
def test_onnx_predict(example, small_onnx: Path, tmp_path: Path) -> None:
    image, table = save(crop(), tmp_path / "crop.png"), tmp_path / "cells.csv"
    example("onnx_predict", small_onnx, image, "--out", table, "--side", 224)
    found = pd.read_csv(table)
    # The same windows through the package: 300 px are covered by two of 224, and each owns up to 150.
    expected, model = [], celldetr.load_model("small-20x", device="cpu", precision="32")
    tiles = [(y, x, crop()[y : y + 224, x : x + 224]) for y in (0, 76) for x in (0, 76)]
    for (y, x, _), cells in zip(tiles, model.predict_tiles([tile for *_, tile in tiles]), strict=True):
        centres = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2 + (x, y)
        mine = ((centres < 150) == (np.array([x, y]) == 0)).all(1)
        expected.append(np.c_[centres, cells.scores][mine])
    wanted = np.concatenate(expected)
    assert len(found) == len(wanted) > 30
    distance = cdist(found[["x_px", "y_px", "score"]], wanted)
    assert set(distance.argmin(1)) == set(range(len(wanted)))
    assert distance.min(1).max() < 0.02  # written with two digits
    assert set(found["type"]) <= set(model.types)


@pytest.mark.slow
def test_labels_to_qupath(example, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        save(crop()[:120, :150], source / f"{name}.png")
        (source / f"{name}.csv").write_text("x,y,class\n30,40,round\n80,60,long\n")
    example("labels_to_qupath", source, "all", out, "--mpp", MPP, "--limit", 1)
    assert sorted(path.name for path in out.iterdir()) == ["a.geojson", "a.png"]
    (there,) = load_samples(find_card(source, MPP), "all", limit=1)
    (back,) = load_samples(find_card(out, MPP), "all")
    assert np.array_equal(back.image, there.image)
    assert back.boxes == pytest.approx(there.boxes, abs=1e-3)
    assert [back.type_names[i] for i in back.types] == ["round", "long"]


@pytest.mark.slow
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
    assert model.mpp == default_model().mpp  # the network is that of its start
    assert model.predict(np.full((64, 64, 3), 255, np.uint8), mpp=MPP).columns[0] == "cell_id"
