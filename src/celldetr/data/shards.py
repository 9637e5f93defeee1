"""Shards of a patch set: Arrow IPC files, memory-mapped, of which a row is read without the others.

| column | what |
|---|---|
| slide | name of the slide |
| x, y | top left corner, level-0 px of the slide |
| mpp | micrometres per pixel of the picture |
| image | JPEG or PNG, all of one size |
| boxes | xyxy of each nucleus in px of the picture, flattened |
| scores | of each nucleus, 0 to 1; 1 where annotated |
| types | of each nucleus, index into the set's types, -1 where unknown |
| confidence | of each nucleus' type, 0 to 1; null: 1 |
| spots | of each nucleus, index into the compositions of the row, -1 where it is in no spot; null: there are none |
| compositions | of each spot the share of each of the set's types, flattened; null: there are none |
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.spots import Spots
from celldetr.errors import InputError

SCHEMA = pa.schema(
    [
        pa.field("slide", pa.string(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("x", "y", "mpp")),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("boxes", pa.list_(pa.float32()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("types", pa.list_(pa.int16()), nullable=False),
        pa.field("confidence", pa.list_(pa.float32())),
        pa.field("spots", pa.list_(pa.int16())),
        pa.field("compositions", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Patch:
    """One row, its picture decoded.

    Attributes:
        slide: name of the slide.
        x, y: of its top left corner, level-0 px.
        mpp: micrometres per pixel of ``image``.
        image: (px, px, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy, px of ``image``.
        scores: (N,) float32.
        types: (N,) int16, -1 = unknown.
        confidence: (N,) float32 of the types; None: 1.
        spots: groups of nuclei of known composition; None: there are none.
    """

    slide: str
    x: float
    y: float
    mpp: float
    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    types: NDArray[np.int16]
    confidence: NDArray[np.float32] | None = None
    spots: Spots | None = None


class Shards:
    """The rows of several shards, one after the other.

    Args:
        paths: of the files, in the order of their rows.
        types: number of types of the set.

    Raises:
        InputError: a file is missing or no shard.
    """

    def __init__(self, paths: Sequence[Path], types: int) -> None:
        self._paths, self._types = paths, types
        table = pa.concat_tables([_open(path) for path in paths])
        self._columns = {name: table[name] for name in table.column_names}

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self._paths, self._types)  # another process maps the files anew

    def _array(self, name: str, row: int) -> NDArray[Any]:
        return self._columns[name][row].values.to_numpy().copy()  # the file itself is read-only

    def _has(self, name: str, row: int) -> bool:
        """Whether a nullable column has a value; version 0.1.0 left out the columns that are null in all rows."""
        return name in self._columns and self._columns[name][row].is_valid

    def counts(self) -> NDArray[np.int64]:
        """(rows, types + 1) nuclei of each type, the last column those of unknown type; no picture is read."""
        kinds = max(self._types, 1) + 1  # a set without types has one, which no nucleus is of
        parts = [np.zeros((0, kinds), np.int64)]
        for chunk in self._columns["types"].chunks:
            lengths = np.diff(chunk.offsets.to_numpy())
            cells = np.repeat(np.arange(len(chunk)) * kinds, lengths) + chunk.flatten().to_numpy() % kinds
            parts.append(np.bincount(cells, minlength=len(chunk) * kinds).reshape(-1, kinds))
        return np.concatenate(parts)

    def nuclei(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
        """Boxes (N, 4), scores (N,) and types (N,) of a row, as in ``Patch``; its picture is not decoded."""
        boxes, scores, types = (self._array(name, row) for name in ("boxes", "scores", "types"))
        return boxes.reshape(-1, 4), scores, types

    def patch(self, row: int) -> Patch:
        """Decode one row."""
        slide, x, y, mpp = (self._columns[name][row].as_py() for name in ("slide", "x", "y", "mpp"))
        with Image.open(io.BytesIO(self._columns["image"][row].as_buffer()), formats=("JPEG", "PNG")) as picture:
            image = np.array(picture.convert("RGB"))
        confidence = self._array("confidence", row) if self._has("confidence", row) else None
        spots = None
        if self._has("compositions", row) and len(shares := self._array("compositions", row)):
            spots = Spots(self._array("spots", row).astype(np.int64), shares.reshape(-1, self._types))
        return Patch(slide, x, y, mpp, image, *self.nuclei(row), confidence, spots)


def _open(path: Path) -> pa.Table:
    """A shard, mapped into memory."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the patch set is incomplete, copy it again") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy or make the patch set again") from None
    missing = [field.name for field in SCHEMA if not field.nullable and field.name not in table.schema.names]
    if missing:
        raise InputError(f"{path}: no shard of a patch set, it has no column {missing[0]!r}")
    return table
