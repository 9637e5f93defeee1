"""Write a patch set shard by shard; after an interruption ``set.json`` names whole shards and where to continue."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from celldetr.config.data import Encoding
from celldetr.data.patch_set import SET_FILE, PatchSetInfo, Position, ShardInfo, SlideInfo
from celldetr.data.shards import SCHEMA, Patch
from celldetr.io.files import flush_directory, output_errors, replacing, write_json
from celldetr.io.run_folder import Layout

PICTURE = "set.png"
SHARDS = "patches-*.arrow"
LAYOUT = Layout(SET_FILE, outputs=(SHARDS, PICTURE), noun="patch set")
GROUP = 64  # rows that are written together
QUALITY = 92  # of JPEG, without subsampling of colour, which distinguishes stains


class PatchWriter:
    """Adds patches to a set, from where ``info`` ends. Used as a context; a shard that is not closed is lost.

    Args:
        folder: of the set; made if needed. Shards in it that ``info`` does not name are removed.
        info: an incomplete set, empty or with ``next``.
        per_shard: patches of a shard.

    Raises:
        InputError: on entering, adding or leaving: the disk is full, or the place cannot be written to.
    """

    def __init__(self, folder: Path, info: PatchSetInfo, per_shard: int) -> None:
        self.folder, self.info, self._per_shard = folder, info, per_shard
        self._open = ExitStack()  # the shard that is being written
        self._shard: pa.RecordBatchFileWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._patches = self._nuclei = 0  # in the shard

    def __enter__(self) -> Self:
        kept = {shard.file for shard in self.info.shards}
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for pattern in (SHARDS, f"{SHARDS}.tmp", f"{PICTURE}*"):
                for path in self.folder.glob(pattern):
                    if path.name not in kept:
                        path.unlink()
            flush_directory(self.folder)
        if not kept:
            self._save()
        return self

    @property
    def room(self) -> int:
        """Patches that the shard still takes; 0 when it is to be closed."""
        return self._per_shard - self._patches

    @property
    def _name(self) -> str:
        return f"patches-{len(self.info.shards):05d}.arrow"

    def add(self, patch: Patch) -> None:
        """Write one more patch."""
        if self._shard is None:
            temporary = self._open.enter_context(replacing(self.folder / self._name))
            self._shard = self._open.enter_context(pa.ipc.new_file(str(temporary), SCHEMA))
        self._rows.append(_row(patch, self.info.encoding))
        self._patches += 1
        self._nuclei += len(patch.boxes)
        if len(self._rows) == GROUP:
            self._flush()

    def close_shard(self, slides: Sequence[SlideInfo], position: Position | None) -> None:
        """Finish the shard that is being written, if there is one, and say so in ``set.json``.

        Args:
            slides: counts of the slides so far, with the patches of this shard.
            position: where sampling goes on; None: the set is complete.
        """
        shards = self.info.shards
        if self._shard is not None:
            self._flush()
            self._open.close()
            size = (self.folder / self._name).stat().st_size
            shards = (*shards, ShardInfo(file=self._name, patches=self._patches, nuclei=self._nuclei, bytes=size))
            self._shard, self._patches, self._nuclei = None, 0, 0
        changes = {
            "status": "complete" if position is None else "incomplete",
            "patches": sum(shard.patches for shard in shards),
            "nuclei": sum(shard.nuclei for shard in shards),
            "shards": shards,
            "slides": tuple(slide.model_copy(deep=True) for slide in slides),
            "next": position,
        }
        self.info = PatchSetInfo.model_validate(self.info.model_dump() | changes)
        self._save()

    def _flush(self) -> None:
        if self._shard is not None and self._rows:
            self._shard.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []

    def _save(self) -> None:
        write_json(self.folder / SET_FILE, self.info.model_dump(mode="json"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard is not None:
            error = error or RuntimeError("the last shard was not closed")
            self._open.__exit__(type(error), error, trace)
        if kind is not None and not self.info.shards:
            (self.folder / SET_FILE).unlink(missing_ok=True)


def _row(patch: Patch, encoding: Encoding) -> dict[str, Any]:
    """A patch as a row of ``SCHEMA``."""
    spots = patch.spots
    return {
        "slide": patch.slide,
        "x": patch.x,
        "y": patch.y,
        "mpp": patch.mpp,
        "image": encode(patch.image, encoding),
        "boxes": np.asarray(patch.boxes, dtype=np.float32).reshape(-1),
        "scores": np.asarray(patch.scores, dtype=np.float32),
        "types": np.asarray(patch.types, dtype=np.int16),
        "confidence": patch.confidence,
        "spots": None if spots is None else spots.of.astype(np.int16),
        "compositions": None if spots is None else spots.compositions.reshape(-1),
    }


def encode(image: NDArray[np.uint8], encoding: Encoding) -> bytes:
    """An (H, W, 3) uint8 picture as JPEG or PNG."""
    stream = io.BytesIO()
    options = {"quality": QUALITY, "subsampling": 0} if encoding == "jpeg" else {}
    Image.fromarray(image).save(stream, format=encoding, **options)
    return stream.getvalue()
