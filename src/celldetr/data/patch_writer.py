"""Writing a patch set, so that whatever ends it early leaves whole shards and a ``set.json`` that says where to go on.

``set.json`` is replaced after every shard; a shard that it does not name is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from celldetr.data.patch_set import SET_FILE, PatchSetInfo, Position, ShardInfo, SlideInfo, is_patch_set, read_info
from celldetr.data.shards import Patch, ShardWriter
from celldetr.errors import InputError
from celldetr.io.files import flush_directory, output_errors, write_json
from celldetr.io.resume import check_modes, differences

PICTURE = "set.png"
SHARDS = "patches-*.arrow"
OURS = (SHARDS, "patches-*.arrow.tmp", f"{PICTURE}*", f"{SET_FILE}.tmp")  # and ``SET_FILE``, which goes last


def earlier_set(folder: Path, made_with: dict[str, Any], *, resume: bool, overwrite: bool) -> PatchSetInfo | None:
    """What an earlier run has left to go on with; None to begin. Nothing is touched.

    Args:
        folder: of the set.
        made_with: what decides what is in it.
        resume: whether to go on with what is there.
        overwrite: whether to replace it.

    Raises:
        InputError: there is a set and neither ``resume`` nor ``overwrite`` was asked for, both were, it was made with
            other settings, or the folder holds other things.
    """
    check_modes(resume, overwrite)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the set")
    if not is_patch_set(folder):
        ours = {path for pattern in OURS for path in folder.glob(pattern)}
        if any(path not in ours and path.name != ".lock" for path in (folder.iterdir() if folder.exists() else ())):
            raise InputError(
                f"{folder}: holds other files than a patch set, which are not touched; name another folder"
            )
        return None
    if overwrite:
        return None
    if not resume:
        raise InputError(
            f"{folder}: holds a patch set; pass `overwrite=True` to replace, or `resume=True` to continue it"
        )
    info = read_info(folder)
    wrong = differences(info.made_with, made_with)
    if wrong:
        raise InputError(
            f"{folder}: cannot be resumed, it was made with {'; '.join(wrong)}; pass `overwrite=True` to replace it"
        )
    return info


class PatchWriter:
    """Adds patches to a set, from where ``info`` ends. Used as a context; a shard that is not closed is lost.

    Args:
        folder: of the set; made if needed. Files of a set in it that ``info`` does not name are removed.
        info: an incomplete set, empty or with ``next``.
        per_shard: patches of a shard.
        soft: whether patches have confidences and spots.

    Raises:
        InputError: on entering, adding or leaving: the disk is full, or the place cannot be written to.
    """

    def __init__(self, folder: Path, info: PatchSetInfo, per_shard: int, *, soft: bool = False) -> None:
        self.folder, self.info, self._per_shard, self._soft = folder, info, per_shard, soft
        self._shard: ShardWriter | None = None

    def __enter__(self) -> Self:
        kept = {shard.file for shard in self.info.shards}
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for pattern in OURS:
                for path in self.folder.glob(pattern):
                    if path.name not in kept:
                        path.unlink()
            if not kept:
                (self.folder / SET_FILE).unlink(missing_ok=True)
            flush_directory(self.folder)
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
            self._shard = ShardWriter(self.folder / self._name, self.info.encoding, soft=self._soft).__enter__()
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
        write_json(self.folder / SET_FILE, self.info.model_dump(mode="json"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard is not None:
            stopped = error or RuntimeError("the last shard was not closed")
            self._shard.__exit__(kind or type(stopped), stopped, trace)
            self._shard = None
