"""A patch set: a folder of shards and ``set.json``, which describes the patches; read as a sequence of samples.

    SET/set.json   SET/set.png   SET/patches-00000.arrow   SET/patches-00001.arrow   ...

Rows are in the order of the slides, and of one slide in random order, so that a split is a few ranges of rows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Mpp, Probability, TypeName, parse
from celldetr.config.data import Encoding, PatchPx
from celldetr.data.sample import LazySamples, Sample
from celldetr.data.shards import Shards
from celldetr.errors import InputError, near
from celldetr.io.safe_io import is_file, load_json

SET_FILE = "set.json"
FORMAT = "celldetr-patches"
SPLITS = ("all", "train", "val")
UNTYPED = ("nucleus",)  # what the type of cells is called in a set that names no types

Natural = Field(ge=0)


class ShardInfo(Config):
    """One shard, in the order of rows."""

    file: str  # in the folder of the set
    patches: int = Field(ge=1)
    nuclei: int = Natural
    bytes: int = Natural


class SlideInfo(Config, frozen=False):
    """Counts of one slide."""

    name: str
    file: str
    places: int = Field(0, ge=0)  # places of the grid with tissue
    looked_at: int = Field(0, ge=0)  # of these, in random order, until there were patches enough
    patches: int = Field(0, ge=0)
    nuclei: int = Field(0, ge=0)
    # Reason -> places; those with too little tissue are none of ``looked_at``.
    left_out: dict[str, int] = Field(default_factory=dict)
    failed: str = ""  # why the slide could not be read at all
    group: str = ""  # what must not be split between training and test, a donor, say; "": the slide


class Position(Config):
    """Where sampling goes on."""

    slide: int = Natural  # the first that is not finished
    place: int = Natural  # of its places, the first that was not sampled


class PatchSetInfo(Config):
    """Content of ``set.json``."""

    format: Literal["celldetr-patches"] = "celldetr-patches"
    version: Literal[1] = 1
    status: Literal["complete", "incomplete"]
    mpp: Mpp  # micrometres per pixel of the patches
    px: PatchPx  # side of a patch
    patches: int = Natural
    nuclei: int = Natural
    encoding: Encoding
    types: tuple[TypeName, ...] = ()  # that column ``types`` indexes; none: all nuclei are of unknown type
    validation: Probability  # share of the slides (of the patches, where there is one slide) in split val
    licence: str = "unknown"  # of the slides, as whoever made the set has said
    made_with: dict[str, Any]  # version, options, seed, model: what decides which patches come out
    shards: tuple[ShardInfo, ...]
    slides: tuple[SlideInfo, ...]
    next: Position | None = None  # of an incomplete set

    @classmethod
    def begin(cls, **settings: Any) -> Self:
        """A set without patches; ``settings`` are the other fields."""
        start = Position(slide=0, place=0)
        return cls(status="incomplete", patches=0, nuclei=0, shards=(), slides=(), next=start, **settings)


def is_patch_set(path: Path) -> bool:
    """Whether a folder is a patch set, finished or not."""
    return is_file(path / SET_FILE)


def read_info(path: Path) -> PatchSetInfo:
    """Read ``set.json`` of a folder.

    Raises:
        InputError: there is none, or it is not as ``celldetr data sample`` writes it.
    """
    file = path / SET_FILE
    if not is_file(file):
        raise InputError(f"{path}: not a patch set, it has no {SET_FILE}; make one with celldetr data sample")
    values = load_json(file)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{file}: not of a patch set; expected format {FORMAT!r}")
    return parse(PatchSetInfo, values, str(file))


def split_rows(info: PatchSetInfo, split: str) -> list[range]:
    """The rows of a split: whole slides, chosen by their names alone; of a single slide its last rows.

    Raises:
        InputError: no such split.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r}: a patch set has none of that name; {near(split, SPLITS)}")
    ends = np.cumsum([slide.patches for slide in info.slides]).tolist()
    ranges = [
        (slide.name, range(end - slide.patches, end))
        for slide, end in zip(info.slides, ends, strict=True)
        if slide.patches
    ]
    if split == "all":
        return [range(info.patches)]
    if len(ranges) == 1:
        rows = ranges[0][1]
        held = min(round(info.validation * len(rows)), len(rows) - 1)
        return [rows[: len(rows) - held]] if split == "train" else [rows[len(rows) - held :]]
    order = sorted(ranges, key=lambda item: hashlib.sha256(item[0].encode("utf-8", "surrogateescape")).digest())
    count = min(max(1, round(info.validation * len(order))), len(order) - 1) if info.validation and order else 0
    held_out = {name for name, _ in order[:count]}
    return [rows for name, rows in ranges if (name in held_out) == (split == "val")]


class PatchSet(LazySamples):
    """The patches of a set as samples, decoded when asked for; also in forked and spawned processes.

    Attributes:
        info: content of ``set.json``.
        type_names: of ``Sample.types``.

    Raises:
        InputError: no such set, one that is not finished or damaged, no such split, or nothing in it.
    """

    def __init__(self, path: Path | str, split: str = "all") -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        if self.info.status != "complete":
            raise InputError(f"{path}: is not finished; run celldetr data sample again with `resume=True`")
        self.type_names = self.info.types or UNTYPED
        ranges = split_rows(self.info, split)
        self._rows = np.concatenate([np.arange(rows.start, rows.stop) for rows in ranges]) if ranges else np.zeros(0)
        if not len(self._rows):
            held = f"; it was made to hold out {self.info.validation:g} for validation"
            raise InputError(f"{path}: no patch in split {split!r}{held if split != 'all' else ''}")
        self._groups = {slide.name: slide.group for slide in self.info.slides if slide.group}
        for shard in self.info.shards:
            file = self.path / shard.file
            size = file.stat().st_size if is_file(file) else -1
            if size != shard.bytes:
                what = "is missing" if size < 0 else f"has {size:,} bytes"
                raise InputError(f"{file}: {what}, {SET_FILE} says {shard.bytes:,} bytes; copy or make the set again")
        self._shards = Shards([self.path / shard.file for shard in self.info.shards], len(self.info.types))
        sizes = np.full(len(self._rows), float(self.info.px**2))
        super().__init__(self._decode, self._shards.counts()[self._rows], sizes)

    def _decode(self, index: int) -> Sample:
        patch = self._shards.patch(int(self._rows[index]))
        return Sample(
            name=f"{patch.slide} [x={patch.x:.0f},y={patch.y:.0f}]",
            image=patch.image,
            mpp=self.info.mpp,
            boxes=patch.boxes,
            types=patch.types.astype(np.int64),
            type_names=self.type_names,
            points=((patch.boxes[:, :2] + patch.boxes[:, 2:]) / 2).astype(np.float32),
            group=self._groups.get(patch.slide, patch.slide),
            confidence=patch.confidence,
            spots=patch.spots,
        )

    def nuclei(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (n, 4) and scores (n,), 1 where annotated, of the nuclei of a patch, which is not decoded."""
        return self._shards.nuclei(int(self._rows[index]))[:2]
