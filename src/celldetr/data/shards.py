"""A shard: some thousands of patches with their nuclei in one Arrow file, of which any row is read without the others.

The file is Arrow IPC, not compressed, memory-mapped: pictures are compressed already, and a row costs the pages that it
lies on. It is read by its messages in their order, not by the footer, which a hostile file may point anywhere. Rows are
in groups of ``GROUP``, so where a row is needs no index.

| column | what |
|---|---|
| slide | name of the slide |
| x, y | top left corner, level-0 px of the slide |
| mpp | micrometres per pixel of the picture |
| image | JPEG or PNG, all of one size |
| boxes | xyxy of each nucleus in px of the picture, flattened |
| scores | of each nucleus, 0 to 1; 1 where annotated |
| types | of each nucleus, index into the set's types, -1 where unknown |

A set whose types are not equally sure, or are known of groups of nuclei only, has three columns more:

| column | what |
|---|---|
| confidence | of each nucleus, how sure its type is, 0 to 1 |
| spots | of each nucleus, index into the compositions of the row, -1 where it is in no spot |
| compositions | of each spot the share of each of the set's types, flattened |
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.spots import Spots, is_composition
from celldetr.errors import InputError
from celldetr.io.files import replacing

Encoding = Literal["jpeg", "png"]
GROUP = 64  # rows that are written, and checked, together
QUALITY = 92  # of JPEG, without subsampling of colour: stains are told apart by it
MAGIC = b"ARROW1\0\0"

SCHEMA = pa.schema(
    [
        pa.field("slide", pa.string(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("x", "y", "mpp")),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("boxes", pa.list_(pa.float32()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("types", pa.list_(pa.int16()), nullable=False),
    ]
)
SOFT = ("confidence", "spots", "compositions")
SOFT_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("confidence", pa.list_(pa.float32()), nullable=False),
        pa.field("spots", pa.list_(pa.int16()), nullable=False),
        pa.field("compositions", pa.list_(pa.float32()), nullable=False),
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
        confidence: (N,) float32 of the types; None: all alike.
        spots: groups of the nuclei whose composition is known; None: none.
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


def encode(image: NDArray[np.uint8], encoding: Encoding) -> bytes:
    """An (H, W, 3) uint8 picture as JPEG (quality 92, 4:4:4) or PNG."""
    stream = io.BytesIO()
    if encoding == "jpeg":
        Image.fromarray(image).save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    else:
        Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


class ShardWriter:
    """Writes a shard, which appears under its name when the context ends well, and not at all otherwise.

    Args:
        path: of the shard.
        encoding: of the pictures.
        soft: whether it has confidences and spots.

    Raises:
        InputError: on entering, adding or leaving: the disk is full, or the place cannot be written to.
    """

    def __init__(self, path: Path, encoding: Encoding, *, soft: bool = False) -> None:
        self._path, self._encoding = path, encoding
        self._schema = SOFT_SCHEMA if soft else SCHEMA
        self._stack = ExitStack()
        self._rows: list[dict[str, Any]] = []
        self.patches = self.nuclei = 0

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(replacing(self._path))
        try:
            self._writer = self._stack.enter_context(pa.ipc.new_file(str(temporary), self._schema))
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def add(self, patch: Patch) -> None:
        """Write one more row."""
        row = {
            "slide": patch.slide,
            "x": patch.x,
            "y": patch.y,
            "mpp": patch.mpp,
            "image": encode(patch.image, self._encoding),
            "boxes": np.asarray(patch.boxes, dtype=np.float32).reshape(-1),
            "scores": np.asarray(patch.scores, dtype=np.float32),
            "types": np.asarray(patch.types, dtype=np.int16),
        }
        if self._schema is SOFT_SCHEMA:
            n, spots = len(patch.boxes), patch.spots
            row |= {
                "confidence": np.ones(n, np.float32) if patch.confidence is None else patch.confidence,
                "spots": np.full(n, -1, np.int16) if spots is None else spots.of.astype(np.int16),
                "compositions": np.zeros(0, np.float32) if spots is None else spots.compositions.reshape(-1),
            }
        self._rows.append(row)
        self.patches += 1
        self.nuclei += len(patch.boxes)
        if len(self._rows) == GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._flush()
            except BaseException as failed:
                self._stack.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)


class Shard:
    """An open shard.

    Args:
        path: of the file.
        rows: that it must hold.
        px: side of its pictures.
        types: number of types that it may name.

    Raises:
        InputError: no such file, or not a shard as ``ShardWriter`` writes it.
    """

    def __init__(self, path: Path, rows: int, px: int, types: int) -> None:
        self._path, self._rows, self._px, self._types = path, rows, px, types
        try:
            with pa.memory_map(str(path)) as file:
                schema, groups = _groups(file, rows)
                sizes = [len(pa.ipc.read_record_batch(group, schema)) for group in groups]
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; the patch set is incomplete, copy it again") from None
        except (OSError, pa.ArrowException, ValueError) as error:
            raise self._damaged(" ".join(str(error).split())) from None
        if sum(sizes) != rows or any(size != GROUP for size in sizes[:-1]):
            raise self._damaged(f"it holds {sum(sizes)} patches in groups of {sizes[:1]}, expected {rows} by {GROUP}")
        self._schema = schema
        self._groups = groups  # of the mapped file: nothing of them is in memory before it is looked at
        self._checked: tuple[int, pa.RecordBatch] | None = None

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self._path}: damaged, or not a shard of a patch set ({reason}); copy or make it again")

    def _batch(self, group: int) -> pa.RecordBatch:
        if self._checked is None or self._checked[0] != group:
            try:
                batch = pa.ipc.read_record_batch(self._groups[group], self._schema)
                batch.validate(full=True)  # offsets from a stranger's file may point outside of it
            except (OSError, pa.ArrowException, ValueError) as error:
                raise self._damaged(" ".join(str(error).split())) from None
            if any(column.null_count for column in batch.columns):
                raise self._damaged("a value is missing")
            self._checked = group, batch
        return self._checked[1]

    def nuclei(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
        """Boxes (N, 4), scores (N,) and types (N,) of a row, as in ``Patch``; its picture is not looked at.

        Raises:
            InputError: boxes that do not fit the picture, unknown types.
        """
        batch, place = self._batch(row // GROUP), row % GROUP
        boxes, scores, types = (self._list(batch, name, place) for name in ("boxes", "scores", "types"))
        boxes = boxes.astype(np.float32).reshape(-1, 4) if not len(boxes) % 4 else boxes
        if boxes.ndim != 2 or not len(boxes) == len(scores) == len(types):
            raise self._damaged(f"row {row}: {len(boxes)} boxes, {len(scores)} scores and {len(types)} types")
        inside = (boxes >= 0).all() and (boxes <= self._px).all()  # False for what is no number
        if not (inside and (boxes[:, 2:] > boxes[:, :2]).all() and (scores >= 0).all() and (scores <= 1).all()):
            raise self._damaged(f"row {row}: a box outside the picture of {self._px} px, or a score outside 0 to 1")
        if len(types) and not -1 <= types.min() <= types.max() < self._types:
            raise self._damaged(f"row {row}: types {types.min()} to {types.max()}, of {self._types} that the set has")
        return boxes, scores, types

    def soft(self, row: int) -> tuple[NDArray[np.float32] | None, Spots | None]:
        """Confidences (N,) and spots of a row, as in ``Patch``; its picture is not looked at.

        Raises:
            InputError: they do not fit the nuclei, or are no shares.
        """
        if self._schema is SCHEMA:
            return None, None
        batch, place = self._batch(row // GROUP), row % GROUP
        count = len(batch["scores"][place])
        confidence, of, shares = (self._list(batch, name, place) for name in SOFT)
        if not (len(confidence) == len(of) == count) or not ((confidence >= 0) & (confidence <= 1)).all():
            raise self._damaged(
                f"row {row}: {count} nuclei, {len(confidence)} confidences, which must be 0 to 1, and {len(of)} spots"
            )
        if not len(shares):
            if len(of) and (of != -1).any():
                raise self._damaged(f"row {row}: nuclei in spots, and no composition of a spot")
            return confidence, None
        if not self._types or len(shares) % self._types:
            raise self._damaged(f"row {row}: {len(shares)} shares of {self._types} types")
        compositions = shares.reshape(-1, self._types)
        if not is_composition(compositions):
            raise self._damaged(f"row {row}: the shares of a spot's types are not 0 to 1 with a sum of 1")
        if len(of) and not -1 <= of.min() <= of.max() < len(compositions):
            raise self._damaged(f"row {row}: spots {of.min()} to {of.max()}, of {len(compositions)}")
        return confidence, Spots(of.astype(np.int64), compositions)

    def patch(self, row: int) -> Patch:
        """Decode one row.

        Raises:
            InputError: the row is damaged: see ``nuclei``; or no picture of the set's size.
        """
        boxes, scores, types = self.nuclei(row)
        batch, place = self._batch(row // GROUP), row % GROUP
        x, y, mpp = (float(batch[name][place].as_py()) for name in ("x", "y", "mpp"))
        if not np.isfinite([x, y, mpp]).all():
            raise self._damaged(f"row {row}: its place ({x}, {y}) or mpp {mpp} is no number")
        image = self._decode(batch["image"][place].as_buffer(), row)
        return Patch(batch["slide"][place].as_py(), x, y, mpp, image, boxes, scores, types, *self.soft(row))

    def _list(self, batch: pa.RecordBatch, name: str, place: int) -> NDArray[Any]:
        values = batch[name][place].values
        if values.null_count:
            raise self._damaged("a value is missing")
        return values.to_numpy().copy()  # else it would keep the file mapped, and be read-only

    def _decode(self, content: pa.Buffer, row: int) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(content.to_pybytes()), formats=("JPEG", "PNG")) as image:
                if image.size == (self._px, self._px):
                    return np.array(image.convert("RGB"))
                size = image.size
        except Exception as error:  # damaged data make Pillow's decoders raise almost anything
            raise self._damaged(f"row {row}: no picture, {error or type(error).__name__}") from None
        raise self._damaged(f"row {row}: a picture of {size[0]} x {size[1]} px in a set of {self._px}")


def _groups(file: pa.NativeFile, rows: int) -> tuple[pa.Schema, list[pa.Message]]:
    """The columns of a mapped Arrow file of so many rows, and its groups of rows, each a piece of the map.

    Raises:
        ValueError, pa.ArrowException, OSError: it is none, of other columns, or compressed.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it is not an Arrow file")
    most = 2 + rows // GROUP  # a stranger's file may hold a million empty ones
    messages = list(islice(pa.ipc.MessageReader.open_stream(file), most + 1))
    found = pa.ipc.read_schema(messages[0]) if messages and messages[0].type == "schema" else None
    schema = next((known for known in (SCHEMA, SOFT_SCHEMA) if found is not None and found.equals(known)), None)
    if schema is None:
        raise ValueError(f"its columns are not {', '.join(SCHEMA.names)}, or these and {', '.join(SOFT)}")
    groups = messages[1:]
    for group in groups:
        if group.type != "record batch" or _is_compressed(group.metadata.to_pybytes()):
            raise ValueError("expected groups of rows that are not compressed: what they unpack to is not known before")
    return schema, groups


def _is_compressed(metadata: bytes) -> bool:
    """Whether the metadata of a record batch (a flatbuffer, format/Message.fbs of Arrow) name a compression.

    Arrow's own reader would ask for as much memory as a compressed buffer says that it needs.
    """
    try:
        message = struct.unpack_from("<I", metadata, 0)[0]
        batch = _field(metadata, message, 2)  # Message: version, header_type, header, bodyLength
        batch += struct.unpack_from("<I", metadata, batch)[0]
        return _field(metadata, batch, 3) != 0  # RecordBatch: length, nodes, buffers, compression
    except struct.error:
        raise ValueError("its metadata are damaged") from None


def _field(data: bytes, table: int, index: int) -> int:
    """Position of a field of a flatbuffer's table; 0 where it is not set."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise ValueError("its metadata are damaged")
    size = struct.unpack_from("<H", data, vtable)[0]
    if 4 + 2 * index + 2 > size:
        return 0
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0]
    return table + offset if offset else 0


def rows_of(shards: Sequence[int]) -> NDArray[np.int64]:
    """First row of each shard, and the number of all, from the rows of each."""
    return np.cumsum([0, *shards], dtype=np.int64)
