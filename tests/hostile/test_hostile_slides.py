"""Slides from strangers: mutated TIFF, OME-TIFF, SVS, PNG and JPEG; files that decode to far more than they are.

Only Python-level failures can be caught here; that OpenSlide and the codecs survive their own input is theirs.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from celldetr.data.readers.common import read_image
from celldetr.data.readers.instance_maps import read_map
from celldetr.errors import InputError
from celldetr.slide.base_reader import Level, slide_name
from celldetr.slide.damage import DamageError, read_around
from celldetr.slide.reader import open_slide
from celldetr.slide.tissue import find_tissue
from helpers.hostile import examples, flipped, in_little_memory, in_time, nothing_written, refused

PIXELS = np.random.default_rng(0).integers(60, 255, (200, 260, 3), dtype=np.uint8)
APERIO = "Aperio Image Library v12.0.1\r\n260x200|MPP = 0.5|AppMag = 20"
HEADER_BYTES = 600  # of each directory that are mutated: its entries and what they point to nearby
VALUES = [0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF]


def tiff(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as file:
            file.write(PIXELS, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)

    return write


def pyramid(path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tiles: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(PIXELS, subifds=1, metadata=metadata, **tiles)
        file.write(PIXELS[::2, ::2], subfiletype=1, **tiles)


def svs(path: Path) -> None:
    tiles: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg", "description": APERIO}
    with tifffile.TiffWriter(path) as file:
        for factor in (1, 2):
            file.write(PIXELS[::factor, ::factor], metadata=None, **tiles)


WRITERS: dict[str, Callable[[Path], None]] = {
    "plain.tif": tiff(),
    "strips.tif": tiff(compression="zlib", rowsperstrip=20),
    "tiled.tif": tiff(tile=(64, 64), compression="lzw", predictor=True),
    "big.tif": tiff(tile=(64, 64), compression="jpeg", bigtiff=True),
    "pyramid.ome.tif": pyramid,
    "slide.svs": svs,
    "image.png": lambda path: Image.fromarray(PIXELS).save(path),
    "image.jpg": lambda path: Image.fromarray(PIXELS).save(path),
}


@cache
def sample(name: str, folder: Path) -> bytes:
    WRITERS[name](folder / name)
    return (folder / name).read_bytes()


def headers(name: str, content: bytes) -> list[int]:
    """Places of a file where its structure is."""
    places = list(range(min(HEADER_BYTES, len(content))))
    if name.endswith((".tif", ".svs")):
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            for page in file.pages:
                places += range(page.offset, min(page.offset + HEADER_BYTES, len(content)))
    return places


def look(path: Path) -> None:
    """All that is done with a slide before a model sees it, and a tile; ``read_around`` is what forgives damage."""
    with open_slide(path, None if path.suffix in (".tif", ".svs") else 0.5) as slide:
        find_tissue(slide)
        for index, level in enumerate(slide.levels):
            wide, high = min(level.width, 64) * level.downsample[0], min(level.height, 64) * level.downsample[1]
            read_around(slide, 0, 0, wide, high, 64, 64)
            refused(lambda i=index, at=level: slide.read_level(i, 0, 0, min(at.width, 70), min(at.height, 70)))


@pytest.mark.parametrize("name", WRITERS)
@given(data=st.data())
@examples(25)
def test_mutated_files(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "slides"
    folder.mkdir(exist_ok=True)
    content = sample(name, folder)
    out = bytearray(content)
    places = headers(name, content)
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        width = data.draw(st.sampled_from([1, 1, 2, 4]))
        new = data.draw(
            st.binary(min_size=width, max_size=width) | st.sampled_from([bytes([v]) * width for v in VALUES])
        )
        out[place : place + width] = new
    cut = data.draw(st.none() | st.none() | st.floats(0, 1))
    path = folder / f"mutated-{name}"
    path.write_bytes(flipped(bytes(out), [], cut))
    with nothing_written(folder):
        refused(lambda: look(path))
        refused(lambda: read_image(path))
        refused(lambda: read_map(path))


# TIFFs made to hurt, tag by tag


def raw_tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", following: int = 0) -> bytes:
    """A classic TIFF of one directory at byte 8: tag -> (type, count, value); ``data`` comes after it."""
    entries = b"".join(struct.pack("<HHII", tag, *values) for tag, values in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + data


def tags(width: int, height: int, **changes: tuple[int, int, int] | None) -> dict[int, tuple[int, int, int]]:
    """RGB of one strip behind the directory; changes are called ``t<tag>``."""
    found: dict[int, Any] = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 2), 273: (4, 1, 400),
        277: (3, 1, 3), 278: (4, 1, height), 279: (4, 1, 1000), 284: (3, 1, 1),
    }  # fmt: skip
    found |= {int(name[1:]): value for name, value in changes.items()}
    return {tag: value for tag, value in found.items() if value is not None}


HUGE = 2**32 - 1
TILED = {"t273": None, "t278": None, "t279": None, "t324": (4, 1, 400), "t325": (4, 1, 1000)}
NASTY: dict[str, bytes] = {
    "endless loop of directories": raw_tiff(tags(10, 10), bytes(2000), following=8),
    "a huge image in one strip": raw_tiff(tags(HUGE, HUGE), bytes(2000)),
    "a huge compressed image": raw_tiff(tags(HUGE, HUGE, t259=(3, 1, 8)), bytes(2000)),
    "an image as large as an integer overflows": raw_tiff(tags(2**31, 2**31, t259=(3, 1, 8)), bytes(2000)),
    "a wide line": raw_tiff(tags(HUGE, 1, t259=(3, 1, 8)), bytes(2000)),
    "no pixels": raw_tiff(tags(0, 0), bytes(2000)),
    "huge tiles": raw_tiff(
        tags(2000, 2000, t322=(4, 1, 2**20), t323=(4, 1, 2**20), t259=(3, 1, 8), **TILED), bytes(2000)
    ),
    "tiles of no size": raw_tiff(tags(2000, 2000, t322=(4, 1, 0), t323=(4, 1, 0), **TILED), bytes(2000)),
    "tiny tiles of a huge image": raw_tiff(tags(2**21, 2**21, t322=(4, 1, 16), t323=(4, 1, 16), **TILED), bytes(2000)),
    "a tag of billions of values": raw_tiff(tags(100, 100, t273=(4, HUGE, 400), t279=(4, HUGE, 400)), bytes(2000)),
    "a description of gigabytes": raw_tiff(tags(100, 100, t270=(2, HUGE, 400)), bytes(2000)),
    "offsets outside": raw_tiff(tags(100, 100, t273=(4, 1, HUGE)), bytes(2000)),
    "no strips at all": raw_tiff(tags(100, 100, t273=None, t279=None), bytes(2000)),
    "4000 samples": raw_tiff(tags(100, 100, t277=(3, 1, 4000)), bytes(2000)),
    "no rows in a strip": raw_tiff(tags(100, 100, t278=(4, 1, 0)), bytes(2000)),
    "SubIFDs that are their parents": raw_tiff(tags(10, 10, t330=(4, 1, 8)), bytes(2000)),
    "just a header": b"II*\0",
    "a header and an offset of nowhere": b"II*\0" + struct.pack("<I", HUGE),
    "BigTIFF with an offset of nowhere": b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63),
}


@pytest.mark.parametrize("mpp", [0.5, 0.05, 10.0])
@pytest.mark.parametrize("name", NASTY)
def test_nasty_tiffs(name: str, mpp: float, tmp_path: Path) -> None:
    path = tmp_path / "nasty.tif"
    path.write_bytes(NASTY[name])

    def open_and_look() -> None:
        with open_slide(path, mpp) as slide:
            find_tissue(slide)

    in_little_memory(open_and_look)


def png(width: int, height: int, *, chunk: bytes = b"") -> bytes:
    """All black, as small as it can be, whatever its size."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = min(height, 60_000)
    body = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush() if width < 30_000 else b"x"
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + chunk + part(b"IDAT", body) + part(b"IEND", b"")


@pytest.mark.parametrize("side", [(2**31 - 1, 2**31 - 1), (20_000, 20_000), (2**31 - 1, 1)])
def test_a_png_that_decodes_to_gigabytes_is_refused(side: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*side))
    assert in_little_memory(lambda: open_slide(path, 0.5)) is not None
    assert in_little_memory(lambda: read_image(path)) is not None
    assert in_little_memory(lambda: read_map(path)) is not None


def test_a_png_with_a_text_that_decodes_to_gigabytes(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2**26, zip=True)
    Image.new("RGB", (50, 50)).save(tmp_path / "bomb.png", pnginfo=info)
    in_little_memory(lambda: open_slide(tmp_path / "bomb.png", 0.5))


def jpeg(side: int) -> bytes:
    """A small JPEG that says it is large."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(content)


def test_a_jpeg_that_says_it_is_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg(65_000))
    assert in_little_memory(lambda: open_slide(path, 0.5)) is not None


@pytest.mark.parametrize("kind", ["zlib", "zstd", "lzw", "jpeg", "jpeg2000", "webp", "png", "lzma"])
def test_tiles_that_decode_to_gigabytes_are_damaged_places(kind: str, tmp_path: Path) -> None:
    # One tile is replaced by something of the same compression that is a hundred thousand times larger.
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), compression=kind)
    zeros = bytes(2**28)
    wide = np.zeros((4000, 4000, 3), np.uint8) if kind in ("webp", "png", "jpeg2000") else None
    bombs: dict[str, Callable[[], bytes]] = {
        "zlib": lambda: zlib.compress(zeros, 9),
        "zstd": lambda: imagecodecs.zstd_encode(zeros, 3),
        "lzw": lambda: imagecodecs.lzw_encode(zeros[: 2**27]),
        "lzma": lambda: imagecodecs.lzma_encode(zeros, 1),
        "jpeg": lambda: jpeg(65_000),
        "jpeg2000": lambda: imagecodecs.jpeg2k_encode(wide, level=90),
        "webp": lambda: imagecodecs.webp_encode(wide, lossless=True, level=0),
        "png": lambda: imagecodecs.png_encode(wide, level=1),
    }
    content = bytearray(path.read_bytes())
    bomb = bombs[kind]()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        counts, offsets = page.tags["TileByteCounts"], page.tags["TileOffsets"]
        for tag, value in ((counts, len(bomb)), (offsets, len(content))):
            size = {3: 2, 4: 4}[tag.dtype]
            content[tag.valueoffset : tag.valueoffset + size] = (
                value.to_bytes(size, "little") if value < 2 ** (8 * size) else b"\xff" * size
            )
    path.write_bytes(bytes(content) + bomb)

    def read() -> None:
        with open_slide(path, 0.5) as slide:
            if kind not in ("zlib", "zstd", "lzw", "lzma"):  # these stop where the tile is full
                with pytest.raises(DamageError, match="more than belong there"):
                    slide.read_region(0, 0, 64, 64, 64, 64)
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


# Names


@pytest.mark.parametrize("name", ["...svs", "..svs", "..ome.tif", "...ome.tif", "....png", "a\nb.png", "a\x1b[31m.png"])
def test_the_name_of_a_slide_stays_in_the_folder(name: str) -> None:
    found = slide_name(Path("somewhere") / name)
    assert found.isprintable()
    assert found not in ("", ".", "..")
    assert "/" not in found


@pytest.mark.parametrize("width", [0, 2**23])
def test_levels_of_impossible_sizes(width: int) -> None:
    from celldetr.slide.base_reader import _check_size
    from celldetr.slide.resolution import Resolution

    with pytest.raises(InputError, match=r"larger than any slide|damaged"):
        _check_size("a.svs", (Level(width, 100, (1.0, 1.0)),), Resolution(0.5, "given"))


def test_files_are_what_they_hold_not_what_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF")
    with in_time(), pytest.raises(InputError, match="cannot be read as an image"):  # Pillow would start Ghostscript
        read_image(tmp_path / "a.png")


def test_compressions_of_unknown_size_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), compression="jpegxl")
    with pytest.raises(InputError, match=r"compressed by JPEGXL, which is not read; expected none, LZW"):
        open_slide(path, 0.5)
