"""Images that fit in memory: arrays, PNG and JPEG.

PNG and JPEG have fields for dots per inch, but what fills them is screens and printers (72, 96, 300), never a
microscope: they are not looked at, and the resolution must be given.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from celldetr.errors import InputError
from celldetr.slide.reader import Level, SlideReader, slide_name
from celldetr.slide.resolution import Resolution, resolve


class ArrayReader(SlideReader):
    """A slide whose level 0, its only one, is an array."""

    def __init__(
        self,
        array: NDArray[np.uint8],
        resolution: Resolution,
        *,
        name: str,
        file: str = "",
        format: str = "array",
        size_bytes: int = 0,
    ) -> None:
        self._array = array
        height, width = array.shape[:2]
        super().__init__(
            name=name,
            file=file,
            format=format,
            levels=(Level(width, height, (1.0, 1.0)),),
            resolution=resolution,
            size_bytes=size_bytes,
        )

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        return np.ascontiguousarray(self._array[y : y + height, x : x + width])


def check_rgb(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Refuse what is not an (H, W, 3) uint8 image, saying how to make it one.

    Raises:
        InputError: another type or shape, or no pixels.
    """
    array = np.asarray(array)
    got = f"image of shape {array.shape} and type {array.dtype}: expected (H, W, 3) uint8 RGB"
    if array.ndim == 3 and array.shape[2] == 4:
        raise InputError(f"{got}; an alpha channel has no one meaning, pass image[..., :3] if it is opaque")
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        raise InputError(f"{got}; channels come last, pass image.transpose(1, 2, 0)")
    if array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"{got}; nuclei are told by colour, so a grey image or a stack cannot be used")
    if array.dtype.kind == "f":
        raise InputError(f"{got}; if its values are in 0..1, pass (image * 255).round().astype('uint8')")
    if array.dtype != np.uint8:
        raise InputError(f"{got}; rescale its values to 0..255 and pass image.astype('uint8')")
    if array.size == 0:
        raise InputError(f"{got} with at least one pixel")
    return array


def to_rgb(image: Image.Image, origin: str) -> NDArray[np.uint8]:
    """Pixels of a Pillow image as (H, W, 3) uint8: palettes looked up, transparency made white, CMYK converted.

    Raises:
        InputError: a grey image.
    """
    if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;"):
        raise InputError(f"{origin}: is a grey image (mode {image.mode}); expected RGB: nuclei are told by colour")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(white)
    return np.asarray(image.convert("RGB"))


def open_image(path: Path, mpp: float | None) -> SlideReader:
    """Open a PNG or JPEG; it is decoded whole.

    Raises:
        InputError: damaged, grey, too large to be decoded whole, or no ``mpp`` given.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG"))
        with image:
            resolution = resolve(str(path), mpp, ())
            kind = "png" if image.format == "PNG" else "jpeg"
            pixels = to_rgb(image, str(path))
    except Image.DecompressionBombError:
        raise InputError(
            f"{path}: too large for a PNG or JPEG, which is decoded whole; save it as a tiled TIFF"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be decoded ({error}); the file is damaged or incomplete") from None
    return ArrayReader(
        pixels, resolution, name=slide_name(path), file=path.name, format=kind, size_bytes=path.stat().st_size
    )
