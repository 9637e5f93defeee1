"""Cell tables and slides made by hand, for the tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

TYPES = ("lymphocyte", "epithelial", "stromal")


def random_cells(
    n: int, types: Sequence[str] = TYPES, *, size: tuple[int, int] = (2220, 2967), seed: int = 0
) -> pd.DataFrame:
    """n plausible cells of a slide of ``size`` (width, height) px at 0.5 mpp; a column per type's probability."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, len(types), n)
    side = rng.normal(14, 3, (n, 2)).clip(6, 30) * (0.7 + 0.3 * code[:, None])
    centre = rng.uniform(20, np.array(size) - 20, (n, 2))
    p = rng.dirichlet(np.full(len(types), 0.5), n) + 2 * np.eye(len(types))[code]
    p /= p.sum(1, keepdims=True)
    frame = pd.DataFrame({"cell_id": np.arange(n, dtype=np.int64)})
    frame[["x_px", "y_px"]] = centre.astype(np.float64)
    frame[["w_px", "h_px"]] = side.astype(np.float32)
    frame[["x_um", "y_um"]] = centre * 0.5
    frame["score"] = rng.beta(6, 2, n).astype(np.float32)
    frame["type"] = np.array(types, dtype=object)[code]
    frame["type_score"] = p[np.arange(n), code].astype(np.float32)
    for k, name in enumerate(types):
        frame[f"p_{name}"] = p[:, k].astype(np.float32)
    return frame


def random_embeddings(cells: pd.DataFrame, types: Sequence[str] = TYPES, *, d: int = 8, seed: int = 0) -> np.ndarray:
    """(n, d) float16 in which types form clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(types), d))
    code = [list(types).index(name) for name in cells["type"]]
    return (centres[code].reshape(len(cells), d) + 0.4 * rng.normal(size=(len(cells), d))).astype(np.float16)


def write_run(
    directory: Path,
    cells: pd.DataFrame,
    embeddings: np.ndarray,
    run: dict[str, Any] | None = None,
    *,
    row_group: int = 100_000,
) -> Path:
    """Write ``cells.parquet`` and ``run.json`` into ``directory`` and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    x, y, w, h = (cells[name].to_numpy(dtype=float) for name in ("x_px", "y_px", "w_px", "h_px"))
    columns = {name: pa.array(cells[name]) for name in cells if name != "type"}
    columns["type"] = pa.array(cells["type"], pa.string()).dictionary_encode()
    flat = pa.array(embeddings.reshape(-1), pa.float16())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    columns["geometry"] = pa.array(shapely.to_wkb(shapely.box(x - w / 2, y - h / 2, x + w / 2, y + h / 2)), pa.binary())
    order = [*cells.columns, "embedding", "geometry"]
    pq.write_table(
        pa.table({name: columns[name] for name in order}), directory / "cells.parquet", row_group_size=row_group
    )
    described = {"slide": directory.name + ".svs", "mpp": 0.5} if run is None else run
    (directory / "run.json").write_text(json.dumps(described), encoding="utf-8")
    return directory


@dataclass
class ArraySlide:
    """Pixels in memory, read by nearest neighbour, white outside."""

    pixels: NDArray[np.uint8]
    mpp: float = 0.5

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def read_region(
        self, x: float, y: float, width: float, height: float, out_width: int, out_height: int
    ) -> NDArray[np.uint8]:
        column = np.floor(x + (np.arange(out_width) + 0.5) * width / out_width).astype(int)
        row = np.floor(y + (np.arange(out_height) + 0.5) * height / out_height).astype(int)
        out = self.pixels[row.clip(0, self.height - 1)][:, column.clip(0, self.width - 1)].copy()
        out[(row < 0) | (row >= self.height)] = 255
        out[:, (column < 0) | (column >= self.width)] = 255
        return out
