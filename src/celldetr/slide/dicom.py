"""What the head of a DICOM file says: to which series it belongs, and how its pixels are compressed (PS3.5, PS3.10)."""

from __future__ import annotations

from pathlib import Path

from celldetr.errors import InputError

SERIES, SYNTAX = b"\x20\x00\x0e\x00", b"\x02\x00\x10\x00"  # tags (0020,000E) and (0002,0010), little endian
HEAD = 2**16  # bytes in which they are found
ROOT = "1.2.840.10008.1.2"
DECODED = {ROOT, f"{ROOT}.1", f"{ROOT}.4.50", f"{ROOT}.4.90", f"{ROOT}.4.91"}  # by OpenSlide: none, JPEG, JPEG 2000
NAMES = {
    f"{ROOT}.5": "RLE", f"{ROOT}.1.99": "Deflate", f"{ROOT}.4.51": "JPEG of 12 bits",
    f"{ROOT}.4.57": "lossless JPEG", f"{ROOT}.4.70": "lossless JPEG", f"{ROOT}.4.80": "JPEG-LS",
    f"{ROOT}.4.81": "JPEG-LS", f"{ROOT}.4.201": "HTJ2K", f"{ROOT}.4.202": "HTJ2K", f"{ROOT}.4.203": "HTJ2K",
    f"{ROOT}.4.110": "JPEG XL", f"{ROOT}.4.111": "JPEG XL", f"{ROOT}.4.112": "JPEG XL",
}  # fmt: skip


def dicom_series(path: Path) -> bytes:
    """SeriesInstanceUID of a DICOM file; empty where its first bytes have none."""
    return _uid(path, SERIES)


def check_syntax(path: Path) -> None:
    """Refuse a DICOM file in a transfer syntax that OpenSlide does not decode.

    Raises:
        InputError: it is, and how to convert it.
    """
    syntax = _uid(path, SYNTAX).decode("ascii", "replace")
    if not syntax or syntax in DECODED:
        return
    target = f"{path.parent.name or 'slide'}_jpeg"
    raise InputError(
        f"{path}: DICOM in {NAMES.get(syntax, 'another compression')} (transfer syntax {syntax}), where JPEG, JPEG 2000"
        ' and uncompressed pixels can be read. wsidicom converts it (pip install wsidicom): python -c "from wsidicom'
        " import WsiDicom; from wsidicom.codec import JpegSettings;"
        f" WsiDicom.open('{path.parent}').save('{target}', transcoding=JpegSettings(quality=95))\""
    )


def _uid(path: Path, tag: bytes) -> bytes:
    """The value of an element in the head of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return b""
    at = head.find(tag)
    if at < 0:
        return b""
    explicit = head[at + 4 : at + 6] == b"UI"  # else the length takes four bytes
    size = int.from_bytes(head[at + 6 : at + 8] if explicit else head[at + 4 : at + 8], "little")
    return head[at + 8 : at + 8 + size].rstrip(b"\0 ")
