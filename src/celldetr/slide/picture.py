"""Pictures that are decoded whole and upright, by the readers of slides: pictures of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import DEEPER

NEARLY_BLACK = 32  # value that no picture with glass, or with tissue of more than 8 bits, stays below
MOST_PIXELS = 2 * 89_478_485  # that Pillow decodes


@dataclass(frozen=True)
class Decoded:
    """A picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        mpp: micrometres per pixel, as given, else as the file says; None: it does not.
        orientation: in which it is stored.
        notes: one sentence each, of pixels and resolution.
    """

    pixels: NDArray[np.uint8]
    mpp: float | None
    orientation: int
    notes: tuple[str, ...]


def decode_whole(path: Path, mpp: float | None) -> Decoded:
    """Decode a picture; ``mpp`` as given, instead of what the file says.

    Raises:
        FileNotFoundError: there is none.
        InputError: no image, too large, or damaged.
    """
    with path.open("rb") as file:
        head = file.read(16)
    from celldetr.slide.image_reader import SIGNATURES, decode
    from celldetr.slide.reader import open_slide

    if head.startswith(SIGNATURES):
        pixels, orientation, _, notes = decode(path)
        _check_black(path, pixels, notes)
        return Decoded(pixels, mpp, orientation, notes)
    try:
        reader = open_slide(path, mpp)
    except InputError:
        if mpp is not None:
            raise
        # Without a resolution in the file any will do to decode it; if there is another reason, it comes again.
        reader = open_slide(path, 1.0)
        return _whole(path, reader, None)
    return _whole(path, reader, reader.mpp)


def _check_black(path: Path, pixels: NDArray[np.uint8], notes: Sequence[str]) -> None:
    """Refuse samples of more than 8 bits that are nearly black: a camera's 12 bits, or 8, in 16."""
    if pixels.max() < NEARLY_BLACK and any(DEEPER in note for note in notes):
        raise InputError(
            f"{path}: is black but for values up to {pixels.max()} of 255: its samples use few of the bits that it "
            "declares; save it with 8 bits"
        )


def _whole(path: Path, reader: SlideReader, mpp: float | None) -> Decoded:
    with reader:
        width, height = reader.width, reader.height
        if width * height > MOST_PIXELS:
            raise InputError(f"{path}: {width} x {height} px are too many for a picture of labels; cut it into parts")
        pixels = reader.read_region(0, 0, width, height, width, height)
        _check_black(path, pixels, reader.warnings)
        turned = reader.orientation != 1  # of which the last warning is, and the caller says more
        return Decoded(pixels, mpp, reader.orientation, reader.warnings[: len(reader.warnings) - turned])
