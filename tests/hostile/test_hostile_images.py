"""Images and slides that decode to far more than they are, or that no decoder of ours should see."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from celldetr.data.readers.common import read_image
from celldetr.data.readers.instance_maps import read_map
from celldetr.io.safe_io import slide_name
from celldetr.slide.reader import open_slide
from helpers.hostile import in_little_memory, refused

PIXELS = np.random.default_rng(0).integers(60, 255, (200, 260, 3), dtype=np.uint8)


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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), [("a.png", lambda: png(20_000, 20_000)), ("a.jpg", lambda: jpeg(65_000))])
def test_an_image_that_decodes_to_gigabytes_is_refused(name: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    for read in (lambda: open_slide(path, 0.5), lambda: read_image(path), lambda: read_map(path)):
        assert in_little_memory(read) is not None


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
