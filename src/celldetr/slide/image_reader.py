"""Images that fit in memory: arrays, PNG, JPEG and bitmaps.

PNG and JPEG have fields for dots per inch, but what fills them is screens and printers (72, 96, 300), never a
microscope: they are not looked at, and the resolution must be given.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import FULL_16, GREY_NOTE, grey_to_rgb, over_white, range_note, to_bytes
from celldetr.slide.levels import Level
from celldetr.slide.orientation import ORIENTATION, upright
from celldetr.slide.resolution import Resolution, resolve

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")  # first bytes


class ArrayReader(SlideReader):
    """A slide whose level 0, its only one, is an array."""

    def __init__(
        self,
        array: NDArray[np.uint8],
        resolution: Resolution,
        source: Path | str,
        format: str = "array",
        warnings: tuple[str, ...] = (),
        orientation: int = 1,
    ) -> None:
        self._array = array
        height, width = array.shape[:2]
        levels = (Level(width, height, (1.0, 1.0)),)
        super().__init__(source, format=format, levels=levels, resolution=resolution, warnings=warnings)
        self.orientation = orientation

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        return np.ascontiguousarray(self._array[y : y + height, x : x + width])


def from_unit(array: NDArray[Any]) -> NDArray[Any]:
    """Floats that all are in [0, 1] as uint8; anything else as it is."""
    array = np.asarray(array)
    if array.dtype.kind != "f" or not array.size or not (array.min() >= 0 and array.max() <= 1):  # false of NaN, too
        return array
    return (array * 255).round().astype(np.uint8)


def check_rgb(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Refuse what is not an (H, W, 3) uint8 image, saying how to make it one."""
    array = np.asarray(array)
    got = f"image of shape {array.shape} and type {array.dtype}: expected (H, W, 3) uint8 RGB"
    if array.ndim == 3 and array.shape[2] == 4:
        raise InputError(f"{got}; an alpha channel has no one meaning, pass image[..., :3] if it is opaque")
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        raise InputError(f"{got}; channels come last, pass image.transpose(1, 2, 0)")
    if array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"{got}; for a grey image (H, W) pass numpy.stack([image] * 3, -1); a stack cannot be used")
    if array.dtype.kind == "f":
        raise InputError(f"{got}, or floats from 0 to 1; if its values are in 0..255, pass image.astype('uint8')")
    if array.dtype != np.uint8:
        raise InputError(f"{got}; rescale its values to 0..255 and pass image.astype('uint8')")
    if array.size == 0:
        raise InputError(f"{got} with at least one pixel")
    return array


def to_rgb(image: Image.Image) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Pixels of a Pillow image of any mode as (H, W, 3) uint8, transparency made white, and warnings."""
    notes = (GREY_NOTE,) if image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;") else ()
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow's own conversion would cut off at 255
        samples = np.asarray(image).clip(0, FULL_16).astype(np.uint16)
        return grey_to_rgb(to_bytes(samples, FULL_16)), (*notes, range_note(FULL_16, ""))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        if not rgba[..., 3].any():
            return np.ascontiguousarray(rgba[..., :3]), (*notes, "it is transparent everywhere, which is not heeded")
        return over_white(rgba[..., :3], rgba[..., 3]), notes
    return np.asarray(image.convert("RGB")), notes


def png_depth(path: Path) -> int:
    """Bits per sample of a PNG (its IHDR chunk); Pillow reduces 16 to 8 without a word. 8 for anything else."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if len(head) == 25 and head.startswith(b"\x89PNG") else 8


def decode(path: Path) -> tuple[NDArray[np.uint8], int, str, tuple[str, ...]]:
    """Decode a PNG, JPEG or bitmap.

    Returns:
        pixels (H, W, 3) uint8 RGB, upright; the orientation (EXIF) in which they are stored; the format, in lower case;
        and warnings.

    Raises:
        InputError: too large, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG", "BMP"))
        with image:
            kind = (image.format or "jpeg").lower()
            deep = (range_note(FULL_16, ""),) if image.mode in ("RGB", "RGBA") and png_depth(path) == 16 else ()
            orientation = image.getexif().get(ORIENTATION, 1)
            pixels, notes = to_rgb(image)
    except Image.DecompressionBombError:
        raise InputError(
            f"{path}: too large for a PNG or JPEG, which is decoded whole; save it as a tiled TIFF"
        ) from None
    except Exception as error:  # damaged chunks make Pillow's decoders raise almost anything
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be decoded ({reason}); the file is damaged or incomplete") from None
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return upright(pixels, orientation), orientation, kind, notes + deep


def open_image(path: Path, mpp: float | None) -> SlideReader:
    """Open a PNG, JPEG or bitmap; it is decoded whole."""
    resolution = resolve(str(path), mpp, ())
    pixels, orientation, kind, notes = decode(path)
    if orientation != 1:
        notes += (f"the image is stored turned (EXIF orientation {orientation}) and is read as viewers show it",)
    return ArrayReader(pixels, resolution, path, kind, notes, orientation)
