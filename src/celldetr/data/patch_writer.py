"""Write a patch set shard by shard; an interruption leaves whole shards and a ``set.json`` that says where to go on.

``set.json`` is there from the beginning and replaced after every shard; a shard that it does not name is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from celldetr.data.patch_set import SET_FILE, PatchSetInfo, Position, ShardInfo, SlideInfo
from celldetr.data.shards import Patch, ShardWriter
from celldetr.io.files import flush_directory, output_errors, write_json
from celldetr.io.run_folder import Layout

PICTURE = "set.png"
SHARDS = "patches-*.arrow"
LAYOUT = Layout(SET_FILE, outputs=(SHARDS, PICTURE), noun="patch set")


class PatchWriter:
    """Adds patches to a set, from where ``info`` ends. Used as a context; a shard that is not closed is lost.

    Args:
        folder: of the set; made if needed. Files of a set in it that ``info`` does not name are removed.
        info: an incomplete set, empty or with ``next``.
        per_shard: patches of a shard.

    Raises:
        InputError: on entering, adding or leaving: the disk is full, or the place cannot be written to.
    """

    def __init__(self, folder: Path, info: PatchSetInfo, per_shard: int) -> None:
        self.folder, self.info, self._per_shard = folder, info, per_shard
        self._shard: ShardWriter | None = None

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
        """Patches that the shard which is being written still takes; 0 when it is to be closed."""
        return self._per_shard - (self._shard.patches if self._shard else 0)

    @property
    def _name(self) -> str:
        return f"patches-{len(self.info.shards):05d}.arrow"

    def add(self, patch: Patch) -> None:
        """Write one more patch."""
        if self._shard is None:
            self._shard = ShardWriter(self.folder / self._name, self.info.encoding).__enter__()
        self._shard.add(patch)

    def close_shard(self, slides: Sequence[SlideInfo], position: Position | None) -> None:
        """Finish the shard that is being written, if there is one, and say so in ``set.json``.

        Args:
            slides: what became of the slides so far; with the patches of this shard.
            position: where sampling goes on; None: the set is complete.
        """
        shards = self.info.shards
        if self._shard is not None:
            shard, self._shard = self._shard, None
            shard.__exit__(None, None, None)
            size = (self.folder / self._name).stat().st_size
            shards = (*shards, ShardInfo(file=self._name, patches=shard.patches, nuclei=shard.nuclei, bytes=size))
        changes = {
            "status": "complete" if position is None else "incomplete",
            "patches": sum(shard.patches for shard in shards),
            "nuclei": sum(shard.nuclei for shard in shards),
            "shards": shards,
            "slides": tuple(slides),
            "next": position,
        }
        self.info = PatchSetInfo.model_validate(self.info.model_dump() | changes)
        self._save()

    def _save(self) -> None:
        write_json(self.folder / SET_FILE, self.info.model_dump(mode="json"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard is not None:
            stopped = error or RuntimeError("the last shard was not closed")
            self._shard.__exit__(kind or type(stopped), stopped, trace)
            self._shard = None
        if kind is not None and not self.info.shards:
            (self.folder / SET_FILE).unlink(missing_ok=True)
