"""What the metadata of a TIFF say: micrometres per pixel (OME-XML, ImageJ's unit, or the resolution tags, in this
order) and the range of its samples.
"""

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
    """PhysicalSizeX and Y in OME-XML."""
    pixels = _ome_pixels(file, series)
    if pixels is None:
        return [], []
    sides = []
    for axis in ("X", "Y"):
        value = number(pixels.get(f"PhysicalSize{axis}"))
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        sides.append(None if value is None else micrometres(value, unit))
    return pair(sides[0], sides[1], "OME PhysicalSize")


def _ome_pixels(file: Any, series: Any) -> ElementTree.Element | None:
    """The Pixels element of OME-XML with the size of ``series``; None if there is none."""
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except (ElementTree.ParseError, TypeError):
        return None
    size = series_size(series)
    sized = (p for p in root.iter() if p.tag.endswith("}Pixels"))
    return next((p for p in sized if (number(p.get("SizeX")), number(p.get("SizeY"))) == size), None)


def channel_names(file: Any, series: Any) -> tuple[str, ...]:
    """Names of the channels of ``series`` in OME-XML; none where it has none, or numbers alone."""
    pixels = _ome_pixels(file, series) if file.is_ome else None
    channels = () if pixels is None else (part for part in pixels if part.tag.endswith("}Channel"))
    names = [channel.get("Name", "").strip() for channel in channels]
    return tuple(name for name in names if name and not re.fullmatch(r"(channel)?[\s:\d_-]*", name.lower()))


def sample_range(file: Any, series: Any) -> tuple[int, str]:
    """Value of a fully bright sample, and what declares it ("" if nothing does and the whole type is taken).

    OME's SignificantBits, the tag MaxSampleValue, or the number of bits, in this order.
    """
    page = series.keyframe
    full = (1 << 8 * page.dtype.itemsize) - 1 if page.dtype is not None and page.dtype.kind == "u" else 255
    pixels = _ome_pixels(file, series) if file.is_ome else None
    bits = number(pixels.get("SignificantBits")) if pixels is not None else None
    if bits and 8 <= bits < full.bit_length() and bits == int(bits):
        return (1 << int(bits)) - 1, f"OME SignificantBits {bits:g}"
    stated = page.tags.valueof("MaxSampleValue")
    stated = max(stated) if isinstance(stated, tuple) and stated else stated
    if isinstance(stated, int) and 255 <= stated < full:
        return stated, "TIFF MaxSampleValue"
    bits = page.bitspersample
    if isinstance(bits, int) and 1 < bits < full.bit_length():
        return (1 << bits) - 1, f"{bits} bits"
    return full, ""


def _power(page: Any) -> float | None:
    """Objective power where a description names it as Aperio's software does."""
    match = re.search(r"(?:AppMag|NominalMagnification)\s*=\s*\"?(\d+(?:\.\d+)?)", page.description)
    return float(match[1]) if match else None
