"""From the slide engine's own output to every export and picture: the two sides agree on the table and on run.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray

from celldetr.cells.export import export_cells
from celldetr.cells.reader import open_table, read_cells
from celldetr.model.output import TileCells
from celldetr.report.overview import write_overview
from celldetr.report.page import origin
from celldetr.report.summary import facts, write_summary
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import from_array
from helpers.runs import run_slide


class GridModel:
    """Finds a cell of 16 px every 32 px, the left half of a tile of one type, the right half of another."""

    mpp = 0.5
    types = ("lymphocyte", "stromal", "dead")
    embedding_dim = 4
    image_px = None

    def describe(self) -> dict[str, object]:
        return {"name": "grid", "licence": "none"}

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> list[TileCells]:
        found = []
        for tile in tiles:
            y, x = (v.ravel() for v in np.mgrid[16 : tile.shape[0] : 32, 16 : tile.shape[1] : 32])
            boxes = np.stack([x - 8, y - 8, x + 8, y + 8], axis=1).astype(np.float32)
            right = (x > tile.shape[1] / 2).astype(np.float32)
            p = np.stack([0.9 - 0.8 * right, 0.1 + 0.8 * right, 0 * right], axis=1)
            embeddings = np.repeat(right[:, None], 4, axis=1).astype(np.float16)
            found.append(TileCells(boxes, np.full(len(x), 0.75, np.float32), p.astype(np.float32), embeddings))
        return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlideReader]:
    image = np.random.default_rng(0).integers(120, 200, (300, 500, 3), dtype=np.uint8)
    reader = from_array(image, 0.5, "slide 1")
    options = PredictOptions(tile=128, overlap=32, tissue=False)
    return run_slide(reader, GridModel(), tmp_path_factory.mktemp("out"), options).directory, reader


def test_table_and_provenance_are_understood(finished: tuple[Path, SlideReader]) -> None:
    run, reader = finished
    table = open_table(run)
    assert (table.slide, table.mpp, table.types, table.embedding_dim) == ("slide 1", 0.5, GridModel.types, 4)
    assert table.count == len(read_cells(run)) > 0
    assert table.run["tissue_mm2"] == pytest.approx(300 * 500 * 0.25e-6, rel=0.01)
    known = dict(facts(table, reader))
    assert origin(table.run).startswith("model grid · CellDETR ")
    assert known["cells"] == f"{table.count:,}"
    assert {"tissue", "slide", "resolution"} <= set(known)


def test_a_table_alone_still_knows_its_slide(finished: tuple[Path, SlideReader], tmp_path: Path) -> None:
    run, _ = finished
    alone = tmp_path / "moved.parquet"
    alone.write_bytes((run / "cells.parquet").read_bytes())
    assert (open_table(alone).slide, open_table(alone).mpp) == ("slide 1", 0.5)
    features = [export_cells(p, "geojson", tmp_path / f"{i}.geojson") for i, p in enumerate((run, alone))]
    assert features[0].read_bytes() == features[1].read_bytes()


def test_exports_hold_the_cells_of_the_table(finished: tuple[Path, SlideReader], tmp_path: Path) -> None:
    run, _ = finished
    cells = read_cells(run)
    frame = geopandas.read_file(export_cells(run, "geojson", tmp_path / "c.geojson"))
    boxes = shapely.bounds(shapely.from_wkb(cells["geometry"].to_numpy()))
    assert np.abs(frame.bounds.to_numpy() - boxes).max() <= 0.0051
    data = anndata.read_h5ad(export_cells(run, "anndata", tmp_path / "c.h5ad"))
    assert np.array_equal(data.X, np.stack(cells["embedding"].tolist()).astype(np.float32))
    assert data.obs["type"].tolist() == cells["type"].tolist()
    text = pd.read_csv(export_cells(run, "csv", tmp_path / "c.csv"))
    assert text["type"].tolist() == cells["type"].tolist()
    kept = [name for name in cells.columns if name not in ("embedding", "geometry")]
    assert text.columns.tolist() == ["cell_id", "name", *kept[1:]]


def test_pictures_are_drawn(finished: tuple[Path, SlideReader]) -> None:
    run, reader = finished
    assert write_overview(run, reader).stat().st_size > 10_000
    page = write_summary(run, reader).read_text(encoding="utf-8")
    count = open_table(run).count
    assert f"<td>{count / (300 * 500 * 0.25e-6):,.0f}</td>" in page
