"""From the samples of a file to 8-bit RGB: ranges as the file declares them, transparency made white, grey copied.

Nothing is scaled by what an image contains: two tiles of a slide, and two slides of a scanner, keep their difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY_NOTE = (
    "the image is grey: red, green and blue are taken as equal; the model tells nuclei and types by their colour, so "
    "expect missed cells and wrong types"
)
FULL_16 = 65535
DEEPER = "bits per channel"  # in the warning of samples of more than 8 bits
COLOURS = {"red", "green", "blue", "r", "g", "b", "rgb", "brightfield"}  # names of the channels of a colour image
PRIMARY = (("red", "r", "FF0000"), ("green", "g", "00FF00"), ("blue", "b", "0000FF"))  # names and colour of channels


def range_note(highest: int, source: str) -> str:
    """The warning that goes with samples of more than 8 bits; ``source`` is what declares ``highest``, or empty."""
    if source:
        return f"more than 8 {DEEPER}: 0..{highest} ({source}) is read as 0..255"
    return f"16 {DEEPER}: 0..{highest} is read as 0..255; a camera's 12 bits would look black"


def dyes_note(names: Sequence[str]) -> tuple[str, ...]:
    """The warning that goes with channels whose names are neither colours nor numbers."""
    told = [name for name in names if not re.fullmatch(r"(channel)?[\s:\d_-]*", name.lower())]
    if {name.lower() for name in told} <= COLOURS:
        return ()
    return (f"its channels {', '.join(map(repr, told))} are read as red, green and blue; fluorescence is not H&E",)


def rgb_order(*told: Sequence[str]) -> list[int]:
    """Which of three channels are red, green and blue: by their names, else by their colours, else as they lie."""
    for texts in told:
        lower = [text.lower() for text in texts]
        places = [[i for i, text in enumerate(lower) if text in {name.lower() for name in names}] for names in PRIMARY]
        if len(lower) == 3 and all(len(place) == 1 for place in places):
            return [place[0] for place in places]
    return [0, 1, 2]


def to_bytes(samples: NDArray[Any], highest: int) -> NDArray[np.uint8]:
    """Unsigned samples of 8 or 16 bits in 0..``highest`` -> uint8 in 0..255, rounded; what is above becomes 255."""
    if samples.dtype == np.uint8 and highest == 255:
        return samples
    values = np.arange(np.iinfo(samples.dtype).max + 1, dtype=np.int64)
    table = np.minimum((values * 255 + highest // 2) // highest, 255).astype(np.uint8)
    return table[samples]


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) -> (h, w, 3)."""
    return np.repeat(grey[..., None], 3, axis=2)


def over_white(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], multiplied: bool = False) -> NDArray[np.uint8]:
    """Colour (h, w, 3), perhaps ``multiplied`` by alpha (h, w) already, seen on white."""
    opaque = alpha[..., None].astype(np.uint16)
    if multiplied:
        return np.minimum(pixels + (255 - opaque), 255).astype(np.uint8)
    return ((pixels * opaque + 255 * (255 - opaque) + 127) // 255).astype(np.uint8)


def decode_luminance(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance and chroma (H, W, 3) of JPEG's full range to RGB (ITU-T T.871)."""
    y, b, r = np.moveaxis(pixels.astype(np.float32), -1, 0) - np.array([0, 128, 128], np.float32)[:, None, None]
    rgb = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1)
    return (rgb + 0.5).clip(0, 255).astype(np.uint8)
