"""Runs of two slides, with pixels and outlines, for the tests of ``celldetr view``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from PIL import Image

from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run

SIZE = (1500, 1100)  # px at 0.5 um
MPP = 0.5


@dataclass(frozen=True)
class ViewRun:
    """``out`` has a folder of results a slide, ``slides`` their images; ``cells`` and ``embeddings`` by slide."""

    out: Path
    slides: Path
    cells: dict[str, pd.DataFrame]
    embeddings: dict[str, np.ndarray]


def write_view_run(folder: Path, cells: int = 300, names: tuple[str, ...] = ("one", "two")) -> ViewRun:
    """Slides of dark ellipses on pink, where the cells are; their outlines are these ellipses."""
    out, slides = folder / "out", folder / "slides"
    slides.mkdir(parents=True)
    frames, embeddings = {}, {}
    for seed, name in enumerate(names):
        frame = random_cells(cells, size=SIZE, seed=seed).sort_values("y_px", ignore_index=True)
        frame["cell_id"] = np.arange(cells)
        frame["area_um2"] = np.where(np.arange(cells) % 5 == 0, np.nan, frame["w_px"] * frame["h_px"] / 4)
        frames[name], embeddings[name] = frame, random_embeddings(frame, seed=seed)
        run = {"slide": f"{name}.png", "mpp": MPP, "width": SIZE[0], "height": SIZE[1], "types": list(TYPES)}
        table = write_run(out / name, frame, embeddings[name], run, row_group=64) / "cells.parquet"
        rings = ellipses(frame)
        columns = pq.read_table(table)
        at = columns.schema.get_field_index("geometry")
        wkb = pa.array(shapely.to_wkb(shapely.polygons(rings)), pa.binary())
        pq.write_table(columns.set_column(at, "geometry", wkb), table, row_group_size=64)
        draw(rings, slides / f"{name}.png")
    return ViewRun(out, slides, frames, embeddings)


def ellipses(frame: pd.DataFrame) -> np.ndarray:
    """(n, 24, 2) points in level-0 px."""
    angles = np.arange(24) * 2 * np.pi / 24
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    centres, sizes = frame[["x_px", "y_px"]].to_numpy(), frame[["w_px", "h_px"]].to_numpy(dtype=float)
    return centres[:, None] + circle * sizes[:, None] / 2


def draw(rings: np.ndarray, path: Path) -> None:
    from PIL import ImageDraw

    image = Image.new("RGB", SIZE, (238, 205, 222))
    pen = ImageDraw.Draw(image)
    for ring in rings:
        pen.polygon([tuple(point) for point in ring], fill=(96, 60, 130))
    image.save(path)
