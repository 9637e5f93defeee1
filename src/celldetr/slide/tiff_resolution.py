"""Micrometres per pixel of a TIFF: OME-XML, ImageJ's unit, or the resolution tags, in this order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from celldetr.slide.resolution import Candidate, Resolution, micrometres, number, pair, resolve


def series_size(series: Any) -> tuple[int, int]:
    """(width, height) of one of tifffile's series; (0, 0) for what is not an image."""
    axes, shape = series.axes, series.shape
    return (shape[axes.index("X")], shape[axes.index("Y")]) if "X" in axes and "Y" in axes else (0, 0)


def tiff_resolution(path: Path, file: Any, series: Any, mpp: float | None) -> Resolution:
    """Decide on the resolution of an open TIFF.

    Args:
        path: of the file, for messages.
        file: the open ``tifffile.TiffFile``.
        series: the image of it that is read, at full resolution.
        mpp: as given by the user, or None.

    Raises:
        InputError: ``mpp`` is out of range, or the file states nothing a microscope could have made.
    """
    page = series.keyframe
    candidates: list[Candidate] = []
    warnings: list[str] = []
    if file.is_ome:
        found, notes = _ome(file, series)
        candidates, warnings = candidates + found, warnings + notes
    x, y = _per_unit(page, "XResolution"), _per_unit(page, "YResolution")
    unit = {2: "inch", 3: "cm"}.get(page.tags.valueof("ResolutionUnit", 1), "")
    source = "TIFF resolution tags"
    if file.is_imagej:
        unit, source = str((file.imagej_metadata or {}).get("unit", unit)), "ImageJ metadata"
    found, notes = pair(x and micrometres(1 / x, unit), y and micrometres(1 / y, unit), source)
    if not candidates:
        warnings = notes
    return resolve(str(path), mpp, candidates + found, _power(page), warnings)


def _per_unit(page: Any, tag: str) -> float | None:
    value = page.tags.valueof(tag)
    return value[0] / value[1] if isinstance(value, tuple) and value[1] else None


def _ome(file: Any, series: Any) -> tuple[list[Candidate], list[str]]:
    """PhysicalSizeX and Y of the image with the size of ``series``, in OME-XML."""
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except (ElementTree.ParseError, TypeError):
        return [], []
    width, height = series_size(series)
    for pixels in root.iter():
        same = number(pixels.get("SizeX")) == width and number(pixels.get("SizeY")) == height
        if not (same and pixels.tag.endswith("}Pixels")):
            continue
        sides = []
        for axis in ("X", "Y"):
            value = number(pixels.get(f"PhysicalSize{axis}"))
            unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
            sides.append(None if value is None else micrometres(value, unit))
        return pair(sides[0], sides[1], "OME PhysicalSize")
    return [], []


def _power(page: Any) -> float | None:
    """Objective power where a description names it as Aperio's software does."""
    match = re.search(r"(?:AppMag|NominalMagnification)\s*=\s*\"?(\d+(?:\.\d+)?)", page.description)
    return float(match[1]) if match else None
