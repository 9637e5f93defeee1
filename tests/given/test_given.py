"""Cells of files of other programs: the same boxes from each format; embedded as a run embeds them, in their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

import celldetr
from celldetr.cells.export import export_cells
from celldetr.cells.schema import FAMILIARITY
from celldetr.errors import DataWarning, InputError
from celldetr.given.cells import check_cells, from_boxes, on_slide
from celldetr.given.files import read_given
from celldetr.given.options import EmbedOptions
from celldetr.given.run import embed_slide
from celldetr.model.output import TileCells
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.doubts import CellFacts, doubts, doubts_of_given
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import Job
from celldetr.slide.plan import make_plan
from celldetr.slide.reader import from_array, open_slide
from helpers.blobs import BlobModel
from helpers.sample_crop import MPP, crop, default_model, save

BOXES = np.array([[10, 20, 30, 44], [60, 20, 84, 40], [10, 70, 32, 90]], np.float64)


def slide() -> SlideReader:
    return from_array(np.full((120, 100, 3), 230, np.uint8), 0.5)


def write_as(kind: str, folder: Path) -> Path:
    """``BOXES`` with the ids 7, 5 and 9."""
    path = folder / kind
    rings = [shapely.get_coordinates(shapely.box(*box)).tolist() for box in BOXES]
    if kind == "qupath.geojson":
        features = [
            {
                "type": "Feature",
                "id": str(i),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "detection"},
            }
            for i, ring in zip((7, 5, 9), rings, strict=True)
        ]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    elif kind == "hovernet.json":
        path.write_text(json.dumps({"nuc": {i: {"contour": ring[:-1]} for i, ring in zip("759", rings, strict=True)}}))
    elif kind == "boxes.csv":
        lines = [f"{i},{','.join(map(str, box))}" for i, box in zip((7, 5, 9), BOXES, strict=True)]
        path.write_text("\n".join(["id,xmin,ymin,xmax,ymax", *lines]))
    elif kind == "ours.csv":
        sizes = np.hstack([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]])
        lines = [f"{i},{','.join(map(str, size))}" for i, size in zip((7, 5, 9), sizes, strict=True)]
        path.write_text("\n".join(["cell_id,x_px,y_px,w_px,h_px", *lines]))
    else:
        values = np.zeros((120, 100), np.uint16)
        for i, (x0, y0, x1, y1) in zip((7, 5, 9), BOXES.astype(int), strict=True):
            values[y0:y1, x0:x1] = i
        np.save(path, values) if kind == "labels.npy" else save(values, path)
    return path


@pytest.mark.parametrize(
    "kind", ["qupath.geojson", "hovernet.json", "boxes.csv", "ours.csv", "labels.npy", "labels.png", "labels.tif"]
)
def test_each_format_gives_the_same_boxes_and_ids(tmp_path: Path, kind: str) -> None:
    given = read_given(write_as(kind, tmp_path), slide())
    order = np.argsort(given.ids) if kind.startswith("labels") else np.arange(3)
    expected = [5, 7, 9] if kind.startswith("labels") else [7, 5, 9]
    assert given.ids.tolist() == expected
    np.testing.assert_allclose(given.boxes[order], BOXES[[1, 0, 2]] if kind.startswith("labels") else BOXES)
    assert (given.areas is not None) == (not kind.endswith(".csv"))


def test_a_smaller_label_image_is_scaled_and_one_of_another_slide_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.load(write_as("labels.npy", tmp_path))[::2, ::2])
    with pytest.warns(DataWarning, match="2 times as large"):
        given = read_given(tmp_path / "half.npy", slide())
    np.testing.assert_allclose(given.boxes, BOXES[[1, 0, 2]])
    np.save(tmp_path / "other.npy", np.zeros((100, 100), np.uint8))
    with pytest.raises(InputError, match="100 x 100 px, but the slide has 100 x 120"):
        read_given(tmp_path / "other.npy", slide())


def test_centres_in_micrometres_are_points(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x_um,y_um\n10,20\n40,50\n1.5,2\n")
    given = read_given(tmp_path / "a.csv", slide())
    assert given.only_points
    np.testing.assert_allclose(given.centres, [[20, 40], [80, 100], [3, 4]])
    assert given.ids.tolist() == [0, 1, 2]


@dataclass
class Run:
    image: Path
    folder: Path
    cells: pd.DataFrame


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("given")
    image = save(crop(), folder / "image.png")
    summary = celldetr.predict_slide(image, folder / "predict", model=default_model(), mpp=MPP)
    return Run(image, summary.directory, celldetr.read_cells(summary.directory))


def vectors(cells: pd.DataFrame) -> np.ndarray:
    return np.stack(cells["embedding"].tolist()).astype(np.float32)


def inside(cells: pd.DataFrame) -> np.ndarray:
    """Cells whose boxes were not clipped to the image after the run had embedded them."""
    centre, size = cells[["x_px", "y_px"]].to_numpy(), cells[["w_px", "h_px"]].to_numpy()
    mask = ((centre - size / 2 > 1) & (centre + size / 2 < 299)).all(1)
    assert mask.sum() > 100
    return mask


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.slow
def test_a_table_of_another_slide_is_refused(run: Run, tmp_path: Path) -> None:
    with (
        open_slide(save(crop()[:200], tmp_path / "a.png"), MPP) as reader,
        pytest.raises(InputError, match=r"cells of image\.png"),
    ):
        read_given(run.folder, reader)


@pytest.mark.slow
def test_the_cells_of_a_run_come_out_as_the_run_has_them(run: Run, tmp_path: Path) -> None:
    options = EmbedOptions(mpp=MPP)
    done = embed_slide(run.image, run.folder, tmp_path, default_model(), options, formats=["geojson"])
    mine = celldetr.read_cells(done.directory)
    assert mine["given_id"].tolist() == run.cells["cell_id"].tolist()
    alike = likeness(vectors(mine), vectors(run.cells))
    assert alike[inside(run.cells)].min() > 0.999
    assert alike.min() > 0.99
    assert (mine["type"] == run.cells["type"]).mean() > 0.99
    assert np.abs(mine["haematoxylin_mean"] - run.cells["haematoxylin_mean"]).median() < 1e-3
    kept = embed_slide(run.image, run.folder, tmp_path, default_model(), options, resume=True)
    assert kept.cells == len(mine)
    with pytest.raises(InputError, match="differs"):
        celldetr.predict_slide(run.image, tmp_path, model=default_model(), mpp=MPP, resume=True)


@pytest.mark.slow
def test_order_ids_and_outlines_of_a_file_stay_under_shuffling(run: Run, tmp_path: Path) -> None:
    whole = json.loads(Path(export_cells(run.folder, "geojson", tmp_path / "a.geojson", shape="ellipse")).read_text())
    features = whole["features"] if isinstance(whole, dict) else whole
    order = np.random.default_rng(0).permutation(len(features))
    path = tmp_path / "shuffled.geojson"
    path.write_text(json.dumps([features[i] | {"id": f"n{i}"} for i in order]))
    done = embed_slide(run.image, path, tmp_path, default_model(), EmbedOptions(mpp=MPP))
    mine = celldetr.read_cells(done.directory)
    assert mine["given_id"].tolist() == [f"n{i}" for i in order]
    assert likeness(vectors(mine), vectors(run.cells)[order]).min() > 0.99
    drawn = shapely.from_wkb(mine["geometry"].tolist())
    given = [shapely.from_geojson(json.dumps(features[i]["geometry"])) for i in order]
    assert all(a.equals(b) for a, b in zip(drawn, given, strict=True))
    assert np.allclose(mine["area_um2"], shapely.area(drawn) * MPP**2, rtol=0.05)
    schema = pq.read_schema(done.directory / "cells.parquet")
    assert schema.names[:2] == ["cell_id", "given_id"]


@pytest.mark.slow
def test_an_image_in_memory_gives_the_rows_of_its_boxes(run: Run) -> None:
    x, y, w, h = (run.cells[name].to_numpy(np.float64) for name in ("x_px", "y_px", "w_px", "h_px"))
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)[::-1]
    mine = default_model().embed(crop(), boxes, MPP)
    assert np.allclose(mine["x_px"], x[::-1])
    assert likeness(vectors(mine)[::-1], vectors(run.cells))[inside(run.cells)].min() > 0.999
    points = default_model().embed(crop(), np.stack([x, y], axis=1), MPP)
    assert np.median(likeness(vectors(points), vectors(run.cells))) > 0.9
    assert len(default_model().embed(crop(), boxes[:0], MPP)) == 0
    with pytest.raises(InputError, match="lie outside"):
        default_model().embed(crop(), boxes + 400, MPP)


def test_cells_that_cannot_be_of_the_slide_are_refused() -> None:
    outside, doubts = check_cells(np.tile(BOXES, (4, 1)), 100, 120, (0.5, 0.5))
    assert not outside.any()
    assert "nuclei come out large" in doubts[0]
    with pytest.raises(InputError, match="outside of the image"):
        check_cells(BOXES, 50, 50, (0.5, 0.5))
    with pytest.raises(InputError, match="not in level-0 pixels"):
        check_cells(BOXES, 100, 120, (5.0, 5.0))


def test_cells_that_are_given_twice_and_tables_of_another_slide_are_doubted(tmp_path: Path) -> None:
    assert on_slide(from_boxes(BOXES), 100, 120, (0.5, 0.5))[2] == []
    assert "2 of 5 nuclei are given twice" in on_slide(from_boxes(BOXES[[0, 1, 2, 0, 1]]), 100, 120, (0.5, 0.5))[2][0]
    (tmp_path / "cells.csv").write_text("Image,x,y\nb.svs,48,67\nb.svs,27,99\n")
    with (
        open_slide(save(crop(), tmp_path / "a.png"), MPP) as reader,
        pytest.warns(DataWarning, match=r"cells are of 'b\.svs', and is read as those of a\.png"),
    ):
        assert len(read_given(tmp_path / "cells.csv", reader)) == 2


def drawn(*items: dict) -> str:
    return json.dumps({"type": "FeatureCollection", "features": list(items)})


def ring(points: Sequence[Sequence[float]], **more: object) -> dict:
    shape = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
    return {"type": "Feature", "geometry": shape, "properties": {"objectType": "detection"}} | more


def rectangle(box: np.ndarray, **more: object) -> dict:
    x0, y0, x1, y1 = box.tolist()
    return ring([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], **more)


def test_points_on_nuclei_are_no_cells_and_crossed_rings_keep_their_box(tmp_path: Path) -> None:
    x0, y0, x1, y1 = BOXES[2].tolist()
    crossed = ring([[x0, y0], [x1, y1], [x1, y0], [x0, y1]])
    marks = {"type": "MultiPoint", "coordinates": [[20, 30], [70, 30], [50, 100]]}
    says = {"type": "Feature", "geometry": marks, "properties": {"objectType": "annotation"}}
    path = tmp_path / "a.geojson"
    path.write_text(drawn(rectangle(BOXES[0]), rectangle(BOXES[1]), crossed, says))
    with pytest.warns(DataWarning, match="left out: 2 points on nuclei"):
        given = read_given(path, slide())
    np.testing.assert_allclose(given.boxes[:3], BOXES)
    np.testing.assert_allclose(given.centres[3:], [[50, 100]])


def test_ids_that_are_not_of_one_cell_each_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(drawn(*(rectangle(box, id="7") for box in BOXES)))
    (tmp_path / "a.csv").write_text("id,x,y\n1,10,20\n,40,50\n3,50,60\n")
    for path in (tmp_path / "a.geojson", tmp_path / "a.csv"):
        with pytest.warns(DataWarning, match="given_id is the position"):
            assert read_given(path, slide()).ids.tolist() == [0, 1, 2]


def test_specks_and_regions_among_nuclei_are_doubted() -> None:
    boxes = np.array([*BOXES.tolist(), [1, 1, 2, 2], [0, 0, 99, 119]])
    doubts = check_cells(np.tile(boxes, (9, 1)), 100, 120, (1.0, 1.0))[1]
    assert "18 of 45 nuclei measure less than 1.5 or more than 60 um (1 to 1.1e+02)" in doubts[0]


def test_cells_of_another_size_of_image_are_refused(tmp_path: Path) -> None:
    shape = {"label": "a", "points": [[10, 20], [30, 44]], "shape_type": "rectangle"}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape], "imageWidth": 200, "imageHeight": 240}))
    with pytest.raises(InputError, match=r"\(200, 240\) px .* \(100, 120\)"):
        read_given(tmp_path / "a.json", slide())


def test_numbers_of_two_nuclei_in_a_label_image_are_said(tmp_path: Path) -> None:
    values = np.zeros((300, 300), np.uint16)
    for i in range(36):
        values[50 * (i // 6) : 50 * (i // 6) + 20, 50 * (i % 6) : 50 * (i % 6) + 20] = i + 1
    reader = from_array(np.full((300, 300, 3), 230, np.uint8), 0.5)
    np.save(tmp_path / "fine.npy", values)
    assert len(read_given(tmp_path / "fine.npy", reader)) == 36
    apart, bridge = values.copy(), values.copy()
    apart[apart == 20] = 3
    bridge[bridge == 2] = 1
    bridge[9:11, 20:50] = 1
    for name, numbers, number in (("apart", apart, 3), ("bridge", bridge, 1)):
        np.save(tmp_path / f"{name}.npy", numbers)
        with pytest.warns(DataWarning, match=rf"1 numbers of several .* thin bridge \({number}\)"):
            assert len(read_given(tmp_path / f"{name}.npy", reader)) == 35


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with open_slide(save(crop(), tmp_path / "a.png"), MPP) as reader:
        with pytest.raises(InputError, match="no such file"):
            read_given(tmp_path / "none.geojson", reader)
        with pytest.raises(InputError, match="expected cells as"):
            read_given(save(crop(), tmp_path / "a.jpg"), reader)


@pytest.mark.slow
def test_doubts_of_the_slide_and_of_the_cells_are_said(tmp_path: Path) -> None:
    image, boxes = crop(), np.array([[40, 60, 56, 74], [120, 90, 134, 108], [200, 210, 216, 222.0]])
    exchanged = default_model().embed(np.ascontiguousarray(image[..., ::-1]), boxes, MPP).attrs["celldetr"]["warnings"]
    assert any("red and blue look exchanged" in text for text in exchanged)
    glow = np.zeros_like(image)
    glow[..., 2] = np.where(image.min(-1) < 110, 220, 10)  # 58 % of it is black
    (tmp_path / "cells.csv").write_text("x,y\n48,67\n127,99\n")
    (tmp_path / "out" / "dark").mkdir(parents=True)
    kept = tmp_path / "out" / "dark" / "run.json"
    kept.write_text('{"status": "complete"}')
    slide = save(glow, tmp_path / "dark.png")
    with pytest.raises(InputError, match="fluorescence"):
        embed_slide(
            slide, tmp_path / "cells.csv", tmp_path / "out", default_model(), EmbedOptions(mpp=MPP), overwrite=True
        )
    assert kept.is_file()  # refused before anything was overwritten


class Foreign(BlobModel):
    """Finds nothing, and knows no cell."""

    def predict_tiles(self, tiles: Sequence[np.ndarray], least_score: float | None = None) -> list[TileCells]:
        return [TileCells.none(len(self.types), self.embedding_dim) for _ in tiles]


def test_scores_and_density_of_given_cells_are_not_doubted() -> None:
    rows = {name: np.full(200, 12.0) for name in ("w_px", "h_px")}
    rows |= {"x_px": np.linspace(10, 90, 200), "y_px": np.linspace(10, 110, 200)}
    columns = {name: pa.array(values, pa.float64()) for name, values in rows.items()}
    columns |= {"score": pa.array(np.full(200, 0.1), pa.float32()), FAMILIARITY: pa.nulls(200, pa.float32())}
    reader, model, options = slide(), Foreign(), PredictOptions(tissue=False)
    job = Job(reader, model, options, make_plan(reader, model, options))
    known = CellFacts.of(pa.table(columns), 0.5)
    assert [text.split(":")[0] for text in doubts(job, known)][:2] == ["low scores", "implausibly many cells"]
    assert {text.split(":")[0] for text in doubts_of_given(job, known)} <= {"blur"}
    strange = columns | {FAMILIARITY: pa.array(np.zeros(200), pa.float32())}
    assert "foreign tissue" in doubts_of_given(job, CellFacts.of(pa.table(strange), 0.5))[0]
