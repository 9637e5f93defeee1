"""How large an encoded tile of a TIFF says it is, before it is decoded.

Deflate, LZW and their like stop where the tile is full. Image formats in a tile bring a size of their own, which their
decoders believe: a kilobyte can be gigabytes. Compressions whose size cannot be told are not read.
"""

from __future__ import annotations

import struct

BOUNDED = {1, 5, 8, 32773, 32946, 34925, 34926, 50000}  # none, LZW, deflate, PackBits, LZMA, Zstandard
JPEG = {6, 7, 33007, 34892}
JPEG_2000 = {33003, 33004, 33005, 34712}
WEBP = {34927, 50001}
PNG = {34933}
READ = BOUNDED | JPEG | JPEG_2000 | WEBP | PNG
NAMES = "none, LZW, deflate, Zstandard, LZMA, PackBits, JPEG, JPEG 2000, WebP or PNG"
SLACK = 4  # times the tile that its content may be: encoders fill up blocks


def check_encoded_size(compression: int, encoded: bytes, pixels: int) -> None:
    """Refuse what would be decoded to far more than a tile.

    Args:
        compression: value of the TIFF tag.
        encoded: content of the tile.
        pixels: of the tile.

    Raises:
        ValueError: it is too large, or says nothing.
    """
    if compression in BOUNDED:
        return
    try:
        width, height = _size(compression, encoded)
    except (struct.error, IndexError):
        raise ValueError("it does not say how large it is") from None
    if width * height > SLACK * max(pixels, 64 * 64):
        raise ValueError(f"it holds {width} x {height} px, more than belong there")


def _size(compression: int, encoded: bytes) -> tuple[int, int]:
    """Width and height; (0, 0) where the format is not what the tag says, which its decoder will notice."""
    if compression in JPEG:
        return _jpeg(encoded)
    if compression in PNG:
        return struct.unpack_from(">II", encoded, 16) if encoded.startswith(b"\x89PNG") else (0, 0)
    if compression in WEBP:
        return _webp(encoded)
    start = encoded.find(b"\xff\x4f\xff\x51")  # JPEG 2000: start of codestream, then the segment SIZ
    if start < 0:
        return 0, 0
    x1, y1, x0, y0 = struct.unpack_from(">IIII", encoded, start + 8)
    (components,) = struct.unpack_from(">H", encoded, start + 40)
    return max(x1 - x0, 0) * max(components, 4) // 4, max(y1 - y0, 0)


def _jpeg(encoded: bytes) -> tuple[int, int]:
    """The largest of the frames: decoders differ in which they take."""
    width = height = 0
    place = 2
    while place + 4 <= len(encoded):
        if encoded[place] != 0xFF:
            break
        marker = encoded[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker in (0xD8, 0x01) or 0xD0 <= marker <= 0xD7:  # without content
            place += 2
            continue
        if marker == 0xDA:  # the pixels
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            high, wide = struct.unpack_from(">HH", encoded, place + 5)
            width, height = max(width, wide), max(height, high)
        place += 2 + struct.unpack_from(">H", encoded, place + 2)[0]
    return width, height


def _webp(encoded: bytes) -> tuple[int, int]:
    kind = encoded[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    return 0, 0
