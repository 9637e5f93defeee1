"""Segmentations of COCO annotations as areas: polygons, and run lengths, plain or compressed as by pycocotools.

Run lengths count pixels column by column, background first (Lin et al., ECCV 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import shown

MOST_BITS = 30  # of a compressed count: images are not larger


def read_area(segmentation: Any, shape: tuple[int, ...], where: str) -> shapely.Geometry | None:
    """The area of an annotation in pixels of its image; None where it has none, as annotations of boxes do.

    Args:
        segmentation: of the annotation: a list of polygons ``[x, y, x, y, ...]``, or run lengths.
        shape: (H, W, ...) of the image.
        where: the annotation, for messages.

    Raises:
        InputError: neither of these, or run lengths of an image of another size.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, shape, where)
    try:
        rings = [np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in segmentation]
    except (TypeError, ValueError):
        rings = [np.array([[np.nan, np.nan]])]
    if not all(np.isfinite(ring).all() for ring in rings):
        raise InputError(
            f"{where}: segmentation must be polygons [[x, y, x, y, ...]] or run lengths, got {shown(segmentation, 60)}"
        )
    parts = [shapely.Polygon(ring) for ring in rings if len(ring) > 2]
    return shapely.MultiPolygon(parts) if parts else None


def _from_runs(segmentation: dict[str, Any], shape: tuple[int, ...], where: str) -> shapely.Geometry | None:
    """The pixels of run lengths, joined to one area."""
    counts = segmentation.get("counts")
    try:
        runs = _decompress(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        runs = np.array([-1])
    height, width = shape[:2]
    if segmentation.get("size") != [height, width] or (runs < 0).any() or runs.sum() != height * width:
        raise InputError(
            f"{where}: run lengths must be of {height} x {width} px (rows, columns) as the image, got"
            f" {shown({**segmentation, 'sum': int(runs.sum())}, 80)}"
        )
    ends = np.cumsum(runs)
    starts, stops = ends[:-1:2], ends[1::2]
    # A run that goes on in the next columns becomes one rectangle a column.
    first, last = starts // height, (stops - 1) // height
    columns = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)] or [first])
    which = np.repeat(np.arange(len(first)), np.maximum(last - first + 1, 0))
    top = np.maximum(starts[which] - columns * height, 0)
    bottom = np.minimum(stops[which] - columns * height, height)
    filled = bottom > top
    columns, top, bottom = columns[filled], top[filled], bottom[filled]
    return shapely.union_all(shapely.box(columns, top, columns + 1, bottom)) if filled.any() else None


def _decompress(text: str) -> NDArray[np.int64]:
    """Counts as numbers of five bits a character, from the third on relative to the last but one."""
    runs: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits > MOST_BITS:
            raise ValueError(f"no run lengths: {text[:20]!r}")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue  # more of this number
        if code & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return np.array(runs, dtype=np.int64)
