"""Metadata of a TIFF: micrometres per pixel (OME-XML, Aperio's description, ImageJ's unit, or the
resolution tags, in this order), names of
channels, and the range of its samples.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from celldetr.slide.resolution import Resolution, candidates_of, micrometres, number, resolve


def series_size(series: Any) -> tuple[int, int]:
    """(width, height) of one of tifffile's series; (0, 0) for what is not an image."""
    axes, shape = series.axes, series.shape
    return (shape[axes.index("X")], shape[axes.index("Y")]) if "X" in axes and "Y" in axes else (0, 0)


def tiff_resolution(path: Path, file: Any, series: Any, mpp: float | None) -> Resolution:
    """Decide on the resolution of an open ``tifffile.TiffFile``, of which ``series`` is read."""
    page = series.keyframe
    pixels = _ome_pixels(file, series)
    ome_x, ome_y = (None, None) if pixels is None else (_physical_size(pixels, axis) for axis in "XY")
    unit = {2: "inch", 3: "cm"}.get(page.tags.valueof("ResolutionUnit", 1), "")
    source = "TIFF resolution tags"
    if file.is_imagej:
        unit, source = str((file.imagej_metadata or {}).get("unit", unit)), "ImageJ metadata"
    per_unit = [_quotient(page.tags.valueof(f"{axis}Resolution")) for axis in "XY"]
    x, y = (micrometres(1 / value, unit) if value else None for value in per_unit)
    aperio = re.search(r"\|\s*MPP\s*=\s*([\d.,]+)", page.description)
    own = number(aperio[1]) if aperio else None
    candidates = [
        *candidates_of(ome_x, ome_y, "OME PhysicalSize"),
        *candidates_of(own, own, "aperio.MPP"),
        *candidates_of(x, y, source),
    ]
    # Aperio's software writes the objective power into the description, too.
    power = re.search(r"(?:AppMag|NominalMagnification)\s*=\s*\"?(\d+(?:\.\d+)?)", page.description)
    return resolve(str(path), mpp, candidates, float(power[1]) if power else None)


def _quotient(value: Any) -> float | None:
    return value[0] / value[1] if isinstance(value, tuple) and value[1] else None


def _physical_size(pixels: ElementTree.Element, axis: str) -> float | None:
    value = number(pixels.get(f"PhysicalSize{axis}"))
    return None if value is None else micrometres(value, pixels.get(f"PhysicalSize{axis}Unit", "µm"))


def _ome_pixels(file: Any, series: Any) -> ElementTree.Element | None:
    """The Pixels element of OME-XML with the size of ``series``; None if there is none."""
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except (ElementTree.ParseError, TypeError):
        return None
    size = series_size(series)
    sized = (element for element in root.iter() if element.tag.endswith("}Pixels"))
    return next((p for p in sized if (number(p.get("SizeX")), number(p.get("SizeY"))) == size), None)


def channel_names(file: Any, series: Any) -> tuple[str, ...]:
    """Names of the channels of ``series`` in OME-XML; none where it has none."""
    pixels = _ome_pixels(file, series)
    channels = () if pixels is None else (part for part in pixels if part.tag.endswith("}Channel"))
    return tuple(channel.get("Name", "").strip() for channel in channels)


def sample_range(file: Any, series: Any) -> tuple[int, str]:
    """Value of a fully bright sample, and what declares it ("" if nothing does and the whole type is taken).

    OME's SignificantBits, the tag MaxSampleValue, or the number of bits, in this order.
    """
    page = series.keyframe
    full = (1 << 8 * page.dtype.itemsize) - 1 if page.dtype is not None and page.dtype.kind == "u" else 255
    pixels = _ome_pixels(file, series)
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
