"""Images and slides that decode to far more than they are, or that no decoder of ours should see."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from celldetr.data.readers.common import read_image
from celldetr.data.readers.instance_maps import read_map
from celldetr.slide.base_reader import slide_name
from celldetr.slide.damage import read_around
from celldetr.slide.reader import open_slide
from celldetr.slide.tissue import find_tissue
from helpers.hostile import in_little_memory, refused

PIXELS = np.random.default_rng(0).integers(60, 255, (200, 260, 3), dtype=np.uint8)
HUGE = 2**32 - 1


def tiff(width: int, height: int, following: int = 0, **changes: tuple[int, int, int] | None) -> bytes:
    """A classic TIFF of one RGB strip behind its only directory; changes of tags are called ``t<tag>``."""
    tags: dict[int, Any] = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 2), 273: (4, 1, 400),
        277: (3, 1, 3), 278: (4, 1, height), 279: (4, 1, 1000), 284: (3, 1, 1),
    }  # fmt: skip
    tags |= {int(name[1:]): value for name, value in changes.items()}
    present = {tag: value for tag, value in sorted(tags.items()) if value is not None}
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in present.items())
    return b"II*\0" + struct.pack("<IH", 8, len(present)) + entries + struct.pack("<I", following) + bytes(2000)


TILED = {"t273": None, "t278": None, "t279": None, "t324": (4, 1, 400), "t325": (4, 1, 1000)}
NASTY: dict[str, bytes] = {
    "endless loop of directories": tiff(10, 10, following=8),
    "a huge image in one strip": tiff(HUGE, HUGE),
    "a huge compressed image": tiff(HUGE, HUGE, t259=(3, 1, 8)),
    "huge tiles": tiff(2000, 2000, t322=(4, 1, 2**20), t323=(4, 1, 2**20), t259=(3, 1, 8), **TILED),
    "tiny tiles of a huge image": tiff(2**21, 2**21, t322=(4, 1, 16), t323=(4, 1, 16), **TILED),
    "a tag of billions of values": tiff(100, 100, t273=(4, HUGE, 400), t279=(4, HUGE, 400)),
    "no pixels": tiff(0, 0),
}


@pytest.mark.parametrize("name", NASTY)
def test_tiffs_that_say_what_they_are_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nasty.tif"
    path.write_bytes(NASTY[name])

    def open_and_look() -> None:
        with open_slide(path, 0.5) as slide:
            find_tissue(slide)

    in_little_memory(open_and_look)


def png(width: int, height: int) -> bytes:
    """All black, as small as it can be, whatever its size."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")


def jpeg(side: int) -> bytes:
    """A small JPEG that says it is large."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(content)


@pytest.mark.parametrize(("name", "make"), [("a.png", lambda: png(20_000, 20_000)), ("a.jpg", lambda: jpeg(65_000))])
def test_an_image_that_decodes_to_gigabytes_is_refused(name: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    for read in (lambda: open_slide(path, 0.5), lambda: read_image(path), lambda: read_map(path)):
        assert in_little_memory(read) is not None


@pytest.mark.parametrize("kind", ["zlib", "jpeg"])
def test_tiles_that_decode_to_gigabytes_are_damaged_places(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), compression=kind)
    bomb = jpeg(65_000) if kind == "jpeg" else imagecodecs.zlib_encode(bytes(2**28), 9)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        for tag, value in ((tags["TileByteCounts"], len(bomb)), (tags["TileOffsets"], len(content))):
            size = {3: 2, 4: 4}[tag.dtype]
            content[tag.valueoffset : tag.valueoffset + size] = min(value, 2 ** (8 * size) - 1).to_bytes(size, "little")
    path.write_bytes(bytes(content) + bomb)

    def read() -> None:
        with open_slide(path, 0.5) as slide:
            read_around(slide, 0, 0, 64, 64, 64, 64)
            whole, lost = read_around(slide, 128, 64, 64, 64, 64, 64)
            assert not lost.any()
            assert whole.shape == (64, 64, 3)

    in_little_memory(read, 200 * 2**20)


def test_ome_xml_with_entities_of_entities(tmp_path: Path) -> None:
    entities = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)
    )
    text = f'<?xml version="1.0"?>{entities}]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">&m;</OME>'
    path = tmp_path / "bomb.ome.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", description=text.encode(), metadata=None)
    in_little_memory(lambda: open_slide(path, 0.5))


def test_files_are_what_they_hold_not_what_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF")
    assert refused(lambda: read_image(tmp_path / "a.png")) is not None  # Pillow would start Ghostscript


@pytest.mark.parametrize("name", ["...svs", "..ome.tif", "a\nb.png"])
def test_the_name_of_a_slide_stays_in_the_folder(name: str) -> None:
    found = slide_name(Path("somewhere") / name)
    assert found.isprintable()
    assert found not in ("", ".", "..")
    assert "/" not in found
