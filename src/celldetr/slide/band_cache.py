"""Cache of raw detections per row of tiles (band), before duplicates across tiles are dropped.

Detecting is nearly all of the work and depends on one band only; which of two tiles keeps a nucleus on their seam
depends on the bands above. So bands are detected in any order, by any number of processes, and the seams are settled in
one go. A band is one file, named after the run's identity, so that no other run's is taken for it; two processes that
detect the same band write the same content.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from celldetr.io.files import replacing
from celldetr.model.output import TileCells
from celldetr.slide.grid import Tile

PARTS = "parts"  # folder of working files
BANDS = "found-*.npz"
VERSION = 2  # of the files; 1, in 0.1.0, had no stains
_FIELDS = tuple(field.name for field in fields(TileCells))
_ALWAYS = tuple(field.name for field in fields(TileCells) if field.default is MISSING)


@dataclass(frozen=True)
class DetectedTile:
    """Raw detections in a tile, also beyond what it owns."""

    tile: Tile  # where
    cells: TileCells | None  # None if nothing of it could be decoded
    # left, top, right, bottom, in pixels of the tile, of what could not be; None if all could
    lost: tuple[int, int, int, int] | None = None
    reason: str = ""  # why it could not


def digest(identity: Mapping[str, Any]) -> str:
    """Short name of a run's identity (``provenance.identity``), the same for every batch size."""
    options = {key: value for key, value in identity["options"].items() if key != "batch_size"}
    text = json.dumps({**identity, "options": options, "band_version": VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class BandCache:
    """The detected bands of the run of an identity (``provenance``), in the ``directory`` of its results."""

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        self._folder = directory / PARTS
        self._run = digest(identity)

    def path(self, band: int) -> Path:
        """Where the file of a band is or will be."""
        return self._folder / f"found-{self._run}-{band:06d}.npz"

    def write(self, band: int, tiles: Sequence[DetectedTile]) -> None:
        """Write a band; the folder exists (a worker that was taken for dead finds it gone)."""
        arrays: dict[str, NDArray[Any]] = {
            "columns": np.array([item.tile.column for item in tiles], np.int64),
            "counts": np.array([len(item.cells or ()) for item in tiles], np.int64),
            "lost": np.array([item.lost or (0, 0, 0, 0) for item in tiles], np.int64).reshape(-1, 4),
            "reasons": np.array([item.reason for item in tiles], np.str_),
        }
        cells = [item.cells for item in tiles if item.cells is not None] or [TileCells.none(1, 1)]
        arrays |= TileCells.join(cells).columns()
        # A process that was taken for dead may write the same band at the same time.
        with replacing(self.path(band), tag=uuid4().hex) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def missing(self, bands: Sequence[int]) -> list[int]:
        """Those of some bands that are not there; ``read`` says whether one is whole."""
        return [band for band in bands if not self.path(band).is_file()]

    def holds(self, bands: Sequence[int]) -> bool:
        """Whether any of some bands is there."""
        return len(self.missing(bands)) < len(bands)

    def read(self, band: int, tiles: Sequence[Tile]) -> list[DetectedTile] | None:
        """Detections in the ``tiles`` of a band, or None if the file is not there, damaged, or of other tiles."""
        try:
            with np.load(self.path(band), allow_pickle=False) as file:
                found = [name for name in _FIELDS if name in _ALWAYS or name in file.files]
                arrays = {name: file[name] for name in ("columns", "counts", "lost", "reasons", *found)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        if arrays["columns"].tolist() != [tile.column for tile in tiles]:
            return None
        ends = arrays["counts"].cumsum()
        if len(ends) and any(len(arrays[name]) != ends[-1] for name in found):
            return None
        starts = ends - arrays["counts"]
        items = []
        for i, tile in enumerate(tiles):
            cells = TileCells(**{name: arrays[name][starts[i] : ends[i]] for name in found})
            left, top, right, bottom = arrays["lost"][i].tolist()
            lost = (left, top, right, bottom) if right > left else None
            whole = lost == (0, 0, tile.width, tile.height)
            items.append(DetectedTile(tile, None if whole else cells, lost, str(arrays["reasons"][i])))
        return items
