"""Slides of the scanners' own formats, through OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import decode_luminance
from celldetr.slide.damage import DamageError
from celldetr.slide.dicom import check_syntax
from celldetr.slide.levels import TILE, Level, reduction
from celldetr.slide.resolution import Resolution, candidates_of, micrometres, number, resolve
from celldetr.slide.stain_check import is_luminance

# On Leica slides OpenSlide cuts quotients off, and a level can be displaced by more than one of its pixels. They are
# read from level 0 unless the result is coarser than this, level-0 pixels per pixel: thumbnails are, tiles are not.
LEICA_STEP = 8
LOOK = 2048  # px a side of the coarsest level whose colours are looked at


def detect_vendor(path: Path) -> str | None:
    """OpenSlide's name of a slide's vendor; None if it does not know the file, or only as a generic TIFF.

    Generic TIFFs are left to ``tiff_reader``, which understands the resolution that OME and ImageJ write.
    """
    try:
        vendor = openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        return None
    return None if vendor == "generic-tiff" else vendor


def open_openslide(path: Path, mpp: float | None) -> SlideReader:
    """Open a slide with OpenSlide."""
    vendor = detect_vendor(path)
    if vendor == "dicom":
        check_syntax(path)
    try:
        slide = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as error:
        if not _is_unsupported(error):
            raise InputError(f"{path}: OpenSlide cannot open it ({error}); the file is damaged or incomplete") from None
        if "TIFF compression" in str(error) and vendor == "aperio":  # whose tiles lie as in any TIFF
            from celldetr.slide.tiff_reader import open_tiff

            return open_tiff(path, mpp)
        raise _unsupported(path, error) from None
    try:
        return OpenSlideReader(path, slide, _resolution(path, slide, mpp))
    except InputError:
        raise
    except Exception as error:  # properties that are no text, levels of no size
        raise InputError(f"{path}: not a slide that can be read ({error}); damaged or incomplete?") from None


def _is_unsupported(error: openslide.OpenSlideError) -> bool:
    """Whether a file is whole, but of a kind that OpenSlide does not decode, such as CZI in JPEG XR."""
    return "unsupported" in str(error).lower() or "not supported" in str(error).lower()


def _unsupported(path: Path, error: openslide.OpenSlideError) -> InputError:
    return InputError(
        f"{path}: OpenSlide cannot decode it ({error}); convert it with Bio-Formats: bfconvert -noflat -bigtiff "
        f"-tilex 512 -tiley 512 -compression JPEG {path.name} {path.stem}.ome.tiff"
    )


def _resolution(path: Path, slide: openslide.AbstractSlide, mpp: float | None) -> Resolution:
    """From the properties of a slide: OpenSlide's own, Aperio's, then the TIFF tags."""
    properties = slide.properties
    x, y = (number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    aperio = number(properties.get("aperio.MPP"))
    unit = {"inch": "inch", "centimeter": "cm"}.get(properties.get("tiff.ResolutionUnit", ""), "")
    length = micrometres(1.0, unit)
    per_unit = [number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    tag_x, tag_y = (length / value if length and value else None for value in per_unit)
    candidates = [
        *candidates_of(x, y, "openslide.mpp-x/y"),
        *candidates_of(aperio, aperio, "aperio.MPP"),
        *candidates_of(tag_x, tag_y, "tiff.X/YResolution"),
    ]
    power = number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER, properties.get("aperio.AppMag")))
    return resolve(str(path), mpp, candidates, power)


def _bounds(slide: openslide.AbstractSlide) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of what was scanned, level-0 pixels; None if the file does not say."""
    try:
        x, y, width, height = (
            int(slide.properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return None
    return x, y, width, height


def _tile(slide: openslide.AbstractSlide, level: int) -> tuple[int, int]:
    """Width and height of the tiles of a level, px."""
    sides = (number(slide.properties.get(f"openslide.level[{level}].tile-{side}")) for side in ("width", "height"))
    width, height = (int(side or 0) for side in sides)
    return (width, height) if min(width, height) > 0 else TILE


class OpenSlideReader(SlideReader):
    """A slide that OpenSlide has opened; its handle serves any number of threads."""

    def __init__(self, path: Path, slide: openslide.AbstractSlide, resolution: Resolution) -> None:
        self._path = path
        self._slide = slide
        self._downsamples = slide.level_downsamples
        self._luminance = False  # whether pixels are luminance and chroma that should have been decoded
        whole = slide.dimensions
        levels = tuple(
            Level(
                width,
                height,
                (reduction(whole[0], width), reduction(whole[1], height)),
                _tile(slide, index),
                exact=own == round(own),
            )
            for index, ((width, height), own) in enumerate(zip(slide.level_dimensions, self._downsamples, strict=True))
        )
        super().__init__(
            path,
            format=slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "openslide"),
            levels=levels,
            resolution=resolution,
            bounds=_bounds(slide),
        )
        if self.format == "dicom" and self._is_luminance():
            self._luminance = True
            self.warnings += ("its pixels are luminance and chroma though the file calls them RGB; they are decoded",)

    def _is_luminance(self) -> bool:
        """Whether the coarsest level has the colours of luminance and chroma: some DICOM files name them wrongly."""
        level = self.levels[-1]
        try:
            return is_luminance(
                self.read_level(len(self.levels) - 1, 0, 0, min(level.width, LOOK), min(level.height, LOOK))
            )
        except InputError:  # damaged there
            return False

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        pixels = self._opaque(level, x, y, width, height)
        return decode_luminance(pixels) if self._luminance else pixels

    def _opaque(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels as the file has them, transparency made white."""
        try:
            image = self._read(self._origin(level, x, y), level, (width, height))
        except openslide.OpenSlideError as error:
            if _is_unsupported(error):
                raise _unsupported(self._path, error) from None
            place = f"{width} x {height} px at ({x}, {y}) of level {level}"
            reason = f"cannot read {place} ({error}); the file is damaged or incomplete"
            raise DamageError(self._path, reason) from None
        if image.getchannel("A").getextrema() == (255, 255):
            return np.asarray(image.convert("RGB"))
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return np.asarray(white)

    def _read(self, origin: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Read with the common handle, or if that fails with a fresh one, which replaces it if it can read the place.

        After one failed read OpenSlide answers every question to that handle, in all threads, with the same error. The
        old handle is closed when the last thread that reads with it lets go of it.
        """
        try:
            return self._slide.read_region(origin, level, size)
        except openslide.OpenSlideError:
            pass  # of this read, or of an earlier one
        try:
            fresh = openslide.OpenSlide(str(self._path))
        except (openslide.OpenSlideError, OSError) as error:
            raise InputError(
                f"{self._path}: cannot be read any more ({error}); is the disk or the network share still there?"
            ) from None
        image = fresh.read_region(origin, level, size)
        self._slide = fresh
        return image

    def _origin(self, level: int, x: int, y: int) -> tuple[int, int]:
        """The level-0 pixel to ask for: OpenSlide divides it by its own, often odd, idea of the reduction."""
        return round(x * self._downsamples[level]), round(y * self._downsamples[level])

    def displacement(self, level: int, x: int, y: int) -> tuple[float, float]:
        """See ``SlideReader.displacement``: OpenSlide interpolates where its quotient is not a whole number."""
        origin, downsample = self._origin(level, x, y), self._downsamples[level]
        return origin[0] / downsample - x, origin[1] / downsample - y

    def level_for(self, step_x: float, step_y: float) -> int:
        """See ``SlideReader.level_for``."""
        if self.format == "leica" and min(step_x, step_y) < LEICA_STEP:
            return 0
        return super().level_for(step_x, step_y)

    def close(self) -> None:
        """See ``SlideReader.close``."""
        self._slide.close()
