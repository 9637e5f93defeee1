"""What the directories of a TIFF declare, looked at before any library reads the file.

Libraries allocate what a header asks for, and some end the whole process where there is not so much memory (GLib, and
with it OpenSlide). A tile is what must be held at once however it is read, so it is what is checked. Everything else
about a file is left to its reader, which says more about what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from celldetr.errors import InputError

TILE_BYTES = 256 * 2**20  # of a decoded tile; 8192 x 8192 px of RGBA
DIRECTORIES = 10_000  # that are looked at
ENTRIES = 1_000  # of a directory
CHILDREN = 100  # of a directory: SubIFDs

TILE_WIDTH, TILE_LENGTH, SAMPLES, BITS, SUBIFDS = 322, 323, 277, 258, 330
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # BYTE, SHORT, LONG, IFD, LONG8, IFD8


@dataclass(frozen=True)
class _Form:
    """Sizes of the fields of classic TIFF or BigTIFF."""

    order: str
    big: bool

    @property
    def offset(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "I"))

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))


def check_tiff_header(path: Path) -> None:
    """Refuse a TIFF whose tiles are too large to be decoded.

    Raises:
        InputError: a tile has more than ``TILE_BYTES``, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for tags in _directories(file):
                width, height = tags.get(TILE_WIDTH, [0])[0], tags.get(TILE_LENGTH, [0])[0]
                samples, bits = max(tags.get(SAMPLES, [1])[0], 4), tags.get(BITS, [8])[0]
                if width * height * samples * max(bits // 8, 1) > TILE_BYTES:
                    raise InputError(
                        f"{path}: its tiles are {width} x {height} px, too large to be decoded; damaged, or save it "
                        "with smaller tiles"
                    )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _directories(file: BinaryIO) -> Iterator[dict[int, list[int]]]:
    """Numbers by tag of each directory that can be reached, each once; what leads out of the file ends a chain."""
    head = file.read(16)
    form = _Form("<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+"))
    try:
        waiting = [form.offset.unpack_from(head, 8 if form.big else 4)[0]]
    except struct.error:
        return
    seen: set[int] = {0}
    while waiting and len(seen) <= DIRECTORIES:
        offset = waiting.pop()
        if offset in seen:
            continue
        seen.add(offset)
        try:
            file.seek(offset)
            (n,) = form.count.unpack(file.read(form.count.size))
            if n > ENTRIES:
                continue
            content = file.read(n * form.entry.size + form.offset.size)
            waiting.append(form.offset.unpack_from(content, n * form.entry.size)[0])
            tags = {}
            for i in range(n):
                tag, kind, count, value = form.entry.unpack_from(content, i * form.entry.size)
                if tag in (TILE_WIDTH, TILE_LENGTH, SAMPLES, BITS, SUBIFDS) and kind in INTEGERS and count:
                    tags[tag] = _numbers(file, form, INTEGERS[kind], count, value)
        except (struct.error, ValueError, OverflowError):
            continue
        waiting += tags.get(SUBIFDS, [])
        yield tags


def _numbers(file: BinaryIO, form: _Form, code: str, count: int, value: bytes) -> list[int]:
    """The first numbers of a tag, ``CHILDREN`` at most."""
    form_of = struct.Struct(f"{form.order}{min(count, CHILDREN)}{code}")
    if struct.calcsize(form.order + code) * count > len(value):
        file.seek(form.offset.unpack(value)[0])
        value = file.read(form_of.size)
    return list(form_of.unpack_from(value))
