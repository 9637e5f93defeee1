"""The public names with the weights in the package: arrays and slides in, the same cells out, wherever tiles lie."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

import celldetr
from celldetr import InputError, Model, PredictOptions
from celldetr.config import Precision
from celldetr.model.hub import DEFAULT_MODEL
from celldetr.slide.grid import lay_grid
from helpers.sample_crop import COLUMNS, MPP, crop, default_model, save, white


@pytest.fixture(scope="session")
def model(native_precision: Precision) -> Model:
    return default_model(native_precision)


@pytest.fixture(scope="session")
def cells(model: Model) -> pd.DataFrame:
    return model.predict(crop(), mpp=MPP)


def partners(a: pd.DataFrame, b: pd.DataFrame, px: float) -> float:
    """Share of the cells of ``a`` with one of ``b`` within ``px``."""
    distance, _ = cKDTree(b[["x_px", "y_px"]]).query(a[["x_px", "y_px"]])
    return float((distance <= px).mean())


def test_an_array_gives_a_row_a_cell(model: Model, cells: pd.DataFrame) -> None:
    assert list(cells.columns) == COLUMNS
    assert 30 < len(cells) < 400  # 150 x 150 um of dense tissue; a human counts about 100
    assert cells["x_px"].between(0, 300).all()
    assert cells["y_px"].between(0, 300).all()
    assert np.allclose(cells["x_um"], cells["x_px"] * MPP)
    assert (cells["score"] >= np.float32(model.threshold)).all()
    assert cells[["w_px", "h_px"]].mul(MPP).median().between(4, 15).all()  # um: a nucleus
    probabilities = cells[[f"p_{name}" for name in model.types]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (cells["type"].astype(str) == np.array(model.types)[probabilities.argmax(1)]).all()
    assert np.allclose(cells["type_score"], probabilities.max(1))
    embedding = np.stack(list(cells["embedding"]))
    assert embedding.shape == (len(cells), model.embedding_dim)
    assert embedding.dtype == np.float16
    assert np.isfinite(embedding).all()


def test_cells_are_where_the_image_is_dark(cells: pd.DataFrame) -> None:
    # Independent of the network: nuclei are where haematoxylin takes the red light away.
    red = crop()[..., 0].astype(float)
    centre = red[cells["y_px"].astype(int), cells["x_px"].astype(int)]
    assert np.median(centre) < np.quantile(red, 0.3)


def test_a_slide_gives_the_same_cells_as_its_array(model: Model, cells: pd.DataFrame, tmp_path: Path) -> None:
    path = save(crop(), tmp_path / "crop.png")
    told: list[int] = []
    summary = celldetr.predict_slide(
        path, tmp_path / "out", model=model, mpp=MPP, progress=lambda progress: told.append(progress.cells)
    )
    read = celldetr.read_cells(summary.directory)
    assert summary.directory == tmp_path / "out" / "crop"
    assert told[-1] == summary.cells == len(cells) == sum(summary.counts.values())
    pd.testing.assert_frame_equal(cells.drop(columns="embedding"), read.drop(columns="embedding"))
    assert np.array_equal(celldetr.read_embeddings(summary.directory), np.stack(list(cells["embedding"])))
    assert cells["type"].value_counts().to_dict() == summary.counts


def test_any_resolution_gives_about_the_same_cells(model: Model, cells: pd.DataFrame) -> None:
    doubled = np.asarray(Image.fromarray(crop()).resize((600, 600), Image.Resampling.BICUBIC))
    fine = model.predict(doubled, mpp=MPP / 2)
    assert abs(len(fine) - len(cells)) < 0.25 * len(cells)
    assert fine["w_px"].median() == pytest.approx(2 * cells["w_px"].median(), rel=0.1)
    halves = fine.assign(x_px=fine["x_px"] / 2, y_px=fine["y_px"] / 2)
    assert partners(cells, halves, 3) > 0.85


@pytest.fixture(scope="session")
def wide(model: Model) -> pd.DataFrame:
    return model.predict(crop(650, 700, 700, 560), mpp=0.5)


def test_moving_the_seams_changes_next_to_nothing(model: Model, wide: pd.DataFrame) -> None:
    # 64 px is a multiple of the coarsest stride: what the network sees of a pixel differs by its surroundings only.
    moved = model.predict(crop(650, 700, 700, 560), 0.5, PredictOptions(tissue=False, offset=64))
    assert partners(wide, moved, 2) > 0.97
    assert partners(moved, wide, 2) > 0.97


def test_cells_that_are_certain_stay_wherever_the_seams_are(model: Model, wide: pd.DataFrame) -> None:
    # 100 px is no multiple of any stride but 4, so that all features are sampled anew.
    moved = model.predict(crop(650, 700, 700, 560), 0.5, PredictOptions(tissue=False, offset=100))
    assert partners(wide[wide["score"] > model.threshold + 0.15], moved, 4) > 0.95


@pytest.mark.slow
def test_a_cell_on_a_border_appears_once(model: Model) -> None:
    cells = model.predict(crop(650, 700, 700, 560), 0.5, PredictOptions(tile=256, overlap=64, tissue=False))
    centre = cells[["x_px", "y_px"]].to_numpy()
    half = cells[["w_px", "h_px"]].to_numpy(np.float64) / 2
    sides = np.minimum(centre[:, None] + half[:, None], centre + half) - np.maximum(
        centre[:, None] - half[:, None], centre - half
    )
    shared, area = sides.clip(0).prod(-1), (2 * half).prod(-1)
    iou = shared / (area[:, None] + area - shared)
    # Twins that one tile made are the network's; these tests are about those that two made.
    owned = lay_grid((0, 0, 700, 560), (1.0, 1.0), 256, 64).owned()
    inside = (centre[:, None] >= owned[:, :2]).all(-1) & (centre[:, None] < owned[:, 2:]).all(-1)
    owner = inside.argmax(1)
    assert len(owned) >= 9
    assert (inside.sum(1) == 1).all()
    assert not np.triu((iou > 0.5) & (owner[:, None] != owner), 1).any()


def test_an_image_without_cells_gives_the_same_columns(model: Model, cells: pd.DataFrame) -> None:
    nothing = model.predict(np.full((90, 70, 3), 255, np.uint8), mpp=0.25)
    assert len(nothing) == 0
    assert nothing.dtypes.equals(cells.dtypes)


@pytest.mark.parametrize(
    ("array", "mpp", "says"),
    [
        (np.full((50, 50, 3), 200, np.float32), 0.5, "uint8"),
        (np.zeros((50, 50), np.uint8), 0.5, "RGB"),
        (np.zeros((3, 50, 50), np.uint8), 0.5, "(H, W, 3)"),
        (np.zeros((50, 50, 3), np.uint8), 0.0, "mpp=0"),
        (np.zeros((50, 50, 3), np.uint8), 40.0, "40x objective"),
    ],
)
def test_what_is_not_an_image_is_refused(model: Model, array: np.ndarray, mpp: float, says: str) -> None:
    with pytest.raises(InputError) as error:
        model.predict(array, mpp=mpp)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_whatever_holds_the_image_gives_the_same_cells(model: Model, cells: pd.DataFrame, tmp_path: Path) -> None:
    pixels = crop()
    path = tmp_path / "crop.png"
    Image.fromarray(pixels).save(path)
    for image in (path, str(path), Image.fromarray(pixels), pixels / 255, (pixels / 255).astype(np.float32)):
        pd.testing.assert_frame_equal(pd.DataFrame(model.predict(image, mpp=MPP)), pd.DataFrame(cells))
    for several in ([path, pixels], np.stack([pixels, pixels])):
        found = model.predict(several, mpp=MPP)
        assert [len(each) for each in found] == [len(cells)] * 2
    with pytest.raises(InputError, match="mpp"):
        model.predict(pixels)  # nothing says it


def test_a_threshold_of_one_call_is_as_that_of_a_model(model: Model, native_precision: Precision) -> None:
    own = model.threshold
    for threshold in (0.1, 0.7):
        loaded = celldetr.load_model(device="cpu", threshold=threshold, precision=native_precision)
        found = model.predict(crop(), mpp=MPP, threshold=threshold)
        pd.testing.assert_frame_equal(found, loaded.predict(crop(), mpp=MPP))
        assert model.threshold == own
    with pytest.raises(InputError, match="threshold=2"):
        model.predict(crop(), mpp=MPP, threshold=2)


def test_a_notebook_shows_the_image_with_its_cells(model: Model, cells: pd.DataFrame) -> None:
    some = cells[cells["type"] == "stromal"].head(20)
    shown = [np.asarray(Image.open(io.BytesIO(each._repr_png_()))).astype(int) for each in (cells, some, cells.head(0))]
    assert all(picture.std() > 10 for picture in shown)
    assert len({picture.tobytes() for picture in shown}) == 3  # what is left is what is drawn
    page = some._repr_html_()
    assert page.startswith('<img src="data:image/jpeg')
    assert "type_score" in page
    assert "embedding" not in page
    plain = cells[["x_px", "score"]]
    assert plain._repr_png_() is None
    assert "<img" not in plain._repr_html_()
    assert DEFAULT_MODEL in repr(model)
    assert "lymphocyte, epithelial, stromal, other" in repr(model)


def test_cells_come_back_from_another_process_as_they_were(cells: pd.DataFrame) -> None:
    returned = pickle.loads(pickle.dumps(cells))
    pd.testing.assert_frame_equal(returned, cells)
    assert returned.head(20)._repr_png_() == cells.head(20)._repr_png_() is not None


def test_polygons_for_geopandas(cells: pd.DataFrame) -> None:
    drawn = celldetr.to_geodataframe(cells)
    assert drawn.crs is None
    centre = drawn.geometry.centroid  # of an outline, which need not be that of its box
    assert (np.abs(centre.x - cells["x_px"]) < cells["w_px"] / 2).all()
    assert (np.abs(centre.y - cells["y_px"]) < cells["h_px"] / 2).all()
    assert list(drawn["type"]) == list(cells["type"])
    with pytest.raises(InputError, match="geometry"):
        celldetr.to_geodataframe(cells[["x_px"]])


def test_a_model_says_what_it_is(model: Model) -> None:
    assert model.info.name == DEFAULT_MODEL in celldetr.list_models()
    assert model.info.config.types == model.types == ("lymphocyte", "epithelial", "stromal", "other")
    assert model.info.threshold == model.threshold
    assert model.info.licence
    assert model.info.training_data
    assert not any(parameter.requires_grad and model.network.training for parameter in model.network.parameters())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "small-2x"}, "did you mean 'small-20x'?"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"threshold": 1.5}, "threshold: Input should be less than or equal to 1"),
        ({"threshold": float("nan")}, "threshold: Input should be a finite number"),
        ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_what_cannot_be_loaded_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(InputError) as error:
        celldetr.load_model(**arguments)
    assert says in str(error.value)


def test_a_folder_is_loaded_as_a_name_is(model: Model) -> None:
    other = celldetr.load_model(celldetr.list_models()[DEFAULT_MODEL], threshold=0.9, device="cpu")
    assert other.info == model.info
    assert other.threshold == 0.9
    assert all(torch.equal(a, b) for a, b in zip(other.network.parameters(), model.network.parameters(), strict=True))


def test_resuming_a_finished_slide_leaves_its_pictures(model: Model, tmp_path: Path) -> None:
    slide, out = white(tmp_path / "white.png"), tmp_path / "out"
    first = celldetr.predict_slide(slide, out, model=model, mpp=0.5)
    picture = first.directory / "overview.png"
    before = picture.stat().st_mtime_ns
    assert celldetr.predict_slide(slide, out, model=model, mpp=0.5, resume=True).counts == first.counts
    assert picture.stat().st_mtime_ns == before
    picture.unlink()  # as if the first had been interrupted after its table was written
    celldetr.predict_slide(slide, out, model=model, mpp=0.5, resume=True)
    assert picture.is_file()


def test_a_misspelt_format_is_told_before_the_slide_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'geojson'"):
        celldetr.predict_slide(tmp_path / "absent.svs", tmp_path / "out", formats=["geojsn"])


def test_public_names_stay_what_they_are() -> None:
    # A name that is also a module's would turn into that module with its first import.
    for _ in range(2):
        assert celldetr.sample_slide().is_file()
        assert not [name for name in celldetr.__all__ if not callable(getattr(celldetr, name))]


def test_options_without_a_word_of_tissue_read_all_of_an_array(model: Model, cells: pd.DataFrame) -> None:
    assert len(model.predict(crop(), mpp=MPP, options=PredictOptions(batch_size=2))) == len(cells)


def test_exports_that_are_there_are_told_first_and_kept_when_nothing_changed(model: Model, tmp_path: Path) -> None:
    slide, out = white(tmp_path / "white.png"), tmp_path / "out"
    (out / "white").mkdir(parents=True)
    table = out / "white" / "cells.csv"
    table.write_text("mine")
    with pytest.raises(InputError, match=r"cells\.csv: exists already"):
        celldetr.predict_slide(slide, out, model=model, mpp=0.5, formats=["csv"])
    assert [path.name for path in (out / "white").iterdir()] == ["cells.csv"]
    table.unlink()
    celldetr.predict_slide(slide, out, model=model, mpp=0.5, formats=["csv"])
    before = table.stat().st_ino
    celldetr.predict_slide(slide, out, model=model, mpp=0.5, formats=["csv"], resume=True)
    assert table.stat().st_ino == before
    os.utime(table, (0, 0))  # older than the cells
    celldetr.predict_slide(slide, out, model=model, mpp=0.5, formats=["csv"], resume=True)
    assert table.stat().st_ino != before
