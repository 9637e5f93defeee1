"""Slides of the scanners' own formats, through OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.slide.reader import Level, SlideReader, reduction, slide_name
from celldetr.slide.resolution import Candidate, Resolution, micrometres, number, pair, resolve


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
    """Open a slide with OpenSlide.

    Raises:
        InputError: damaged, or of unknown resolution.
    """
    try:
        slide = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as error:
        raise InputError(f"{path}: OpenSlide cannot open it ({error}); the file is damaged or incomplete") from None
    try:
        return OpenSlideReader(path, slide, resolution(path, slide, mpp))
    except BaseException:
        slide.close()
        raise


def resolution(path: Path, slide: openslide.AbstractSlide, mpp: float | None) -> Resolution:
    """Micrometres per pixel from the properties of a slide: OpenSlide's own, Aperio's, then the TIFF tags."""
    properties = slide.properties
    candidates, warnings = pair(
        number(properties.get(openslide.PROPERTY_NAME_MPP_X)),
        number(properties.get(openslide.PROPERTY_NAME_MPP_Y)),
        "openslide.mpp-x/y",
    )
    aperio = number(properties.get("aperio.MPP"))
    if aperio is not None:
        candidates.append(Candidate(aperio, "aperio.MPP"))
    per_unit = number(properties.get("tiff.XResolution"))
    unit = {"inch": "inch", "centimeter": "cm"}.get(properties.get("tiff.ResolutionUnit", ""), "")
    length = micrometres(1.0, unit)
    if per_unit and length:
        candidates.append(Candidate(length / per_unit, "tiff.XResolution"))
    power = number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER, properties.get("aperio.AppMag")))
    return resolve(str(path), mpp, candidates, power, warnings)


class OpenSlideReader(SlideReader):
    """A slide that OpenSlide has opened; its handle serves any number of threads."""

    def __init__(self, path: Path, slide: openslide.AbstractSlide, resolution: Resolution) -> None:
        self._path = path
        self._slide = slide
        # Kept, because after one failed read OpenSlide answers every question with that error.
        self._downsamples = slide.level_downsamples
        whole = slide.dimensions
        levels = tuple(
            Level(width, height, (reduction(whole[0], width), reduction(whole[1], height)))
            for width, height in slide.level_dimensions
        )
        super().__init__(
            name=slide_name(path),
            file=path.name,
            format=slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "openslide"),
            levels=levels,
            resolution=resolution,
            size_bytes=path.stat().st_size,
        )

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        # OpenSlide addresses every level in whole level-0 pixels and divides by its own idea of the reduction.
        downsample = self._downsamples[level]
        origin = (round(x * downsample), round(y * downsample))
        try:
            image = self._slide.read_region(origin, level, (width, height))
        except openslide.OpenSlideError as error:
            raise InputError(
                f"{self._path}: cannot read {width} x {height} px at ({x}, {y}) of level {level} ({error}); "
                "the file is damaged or incomplete"
            ) from None
        if image.getchannel("A").getextrema() == (255, 255):
            return np.asarray(image.convert("RGB"))
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return np.asarray(white)

    def close(self) -> None:
        """See ``SlideReader.close``."""
        self._slide.close()
