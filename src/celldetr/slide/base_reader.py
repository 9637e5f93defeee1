"""SlideReader, the class every reader of slides derives from: regions at any resolution from a pyramid of levels.

``read_region`` takes any rectangle in level-0 pixels, with fractional corners, and resamples it to any size from the
coarsest pyramid level that is still fine enough. A new format is a subclass that reads whole pixels of one level, and a
line in ``slide.reader``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.io.safe_io import printable, slide_name
from celldetr.slide.levels import Level, settle
from celldetr.slide.resolution import Resolution

SOURCE_PIXELS = 16 * 2**20  # most pixels of a level held at once; larger regions are resampled in blocks
LEVEL_TOLERANCE = 1.02  # a level this much coarser than asked for is still taken: 2 % does not blur a nucleus
BICUBIC_SUPPORT = 2  # source pixels either side, times the reduction
# Resampling reduces by whole factors first where the reduction is at least twice this. 2 is indistinguishable (PIL).
REDUCING_GAP = 2.0
LONGEST_SIDE = 2**22  # px
LARGEST_MM2 = 20_000  # a slide of 75 x 25 mm has a tenth of it
EDGE = 1e-3  # px beyond the slide that count as rounding, not as outside


class SlideReader(ABC):
    """An open slide. Reading is safe from several threads. Use as a context manager, or call ``close``.

    Attributes:
        name: of its output: the file name without its extensions.
        file: the file's name without folders, or "" for an array.
        format: vendor or file type, e.g. ``aperio``, ``ome-tiff``, ``png``, ``array``.
        levels: finest first; there is at least one.
        mpp_x, mpp_y: micrometres per pixel of level 0 along x and y; they differ where pixels are not square.
        mpp: their geometric mean: ``mpp`` squared is the area of a pixel.
        mpp_source: where that is from: ``given``, or the metadata property.
        bounds: (x, y, width, height) in level-0 pixels of what was scanned, where the file says so (MIRAX, Leica SCN);
            viewers such as QuPath count from its corner. None where it does not.
        size_bytes: of the file, 0 for an array.
        warnings: one sentence each.
        orientation: in which the file says that pixels are stored (EXIF, TIFF); 1: as they are seen. Those of PNG, JPEG
            and small TIFF are read upright.
    """

    orientation: int = 1

    def __init__(
        self,
        source: Path | str,
        *,
        format: str,
        levels: tuple[Level, ...],
        resolution: Resolution,
        warnings: tuple[str, ...] = (),
        bounds: tuple[int, int, int, int] | None = None,
    ) -> None:
        """``source``: the file, or the name of what is not from a file."""
        if isinstance(source, Path):
            self.name, self.file, self.size_bytes = slide_name(source), printable(source.name), source.stat().st_size
        else:
            self.name, self.file, self.size_bytes = source, "", 0
        _check_size(self.file or self.name, levels, resolution)
        self.format, self.bounds = format, bounds
        self.levels, notes = settle(levels, self.read_level)
        self.mpp, self.mpp_x, self.mpp_y = resolution.mpp, resolution.mpp_x, resolution.mpp_y
        self.mpp_source = resolution.source
        self.warnings = (*resolution.warnings, *warnings, *notes)

    @property
    def width(self) -> int:
        """Of level 0, px."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Of level 0, px."""
        return self.levels[0].height

    @abstractmethod
    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Whole pixels of one level, a rectangle inside it -> (height, width, 3) uint8 RGB, transparency made white.

        Raises:
            DamageError: the file is damaged there.
            InputError: it cannot be read any more.
        """

    def displacement(self, level: int, x: int, y: int) -> tuple[float, float]:
        """How far right of and below (x, y) the pixels that ``read_level`` returns begin, in pixels of the level."""
        return 0.0, 0.0

    def read_region(
        self, x: float, y: float, width: float, height: float, out_width: int, out_height: int
    ) -> NDArray[np.uint8]:
        """Read a rectangle at any resolution.

        Args:
            x, y: its top left corner in level-0 pixels; pixel i covers [i, i + 1).
            width, height: its size in level-0 pixels.
            out_width, out_height: size of the result in pixels.

        Returns:
            (out_height, out_width, 3) uint8 RGB. What lies outside the slide is white.

        Raises:
            DamageError: the file is damaged there.
            InputError: it cannot be read any more.
        """
        step_x, step_y = width / out_width, height / out_height
        index = self.level_for(step_x, step_y)
        down_x, down_y = self.levels[index].downsample
        out = np.empty((out_height, out_width, 3), dtype=np.uint8)
        for left, top, right, bottom in _blocks(width / down_x, height / down_y, out_width, out_height):
            box = (x + left * step_x, y + top * step_y, x + right * step_x, y + bottom * step_y)
            out[top:bottom, left:right] = self._resample(index, box, right - left, bottom - top)
        return out

    def thumbnail_size(self, mpp: float) -> tuple[int, int]:
        """Width and height of the whole slide at about ``mpp`` micrometres per pixel, at least one pixel a side."""
        width = max(1, round(self.width / max(mpp / self.mpp_x, 1.0)))
        height = max(1, round(self.height / max(mpp / self.mpp_y, 1.0)))
        return width, height

    def level_for(self, step_x: float, step_y: float) -> int:
        """Index of the coarsest level that is as fine as these steps, level-0 pixels along x and y."""
        fine_enough = [
            i
            for i, level in enumerate(self.levels)
            if level.usable
            and level.downsample[0] <= step_x * LEVEL_TOLERANCE
            and level.downsample[1] <= step_y * LEVEL_TOLERANCE
        ]
        return max(fine_enough, key=lambda i: self.levels[i].downsample, default=0)

    def _resample(
        self, index: int, box: tuple[float, float, float, float], out_width: int, out_height: int
    ) -> NDArray[np.uint8]:
        """One block of ``read_region``: a box in level-0 pixels, small enough to be held at its level's resolution."""
        level = self.levels[index]
        dx, dy = level.downsample
        left, top, right, bottom = box[0] / dx, box[1] / dy, box[2] / dx, box[3] / dy
        source, x0, y0 = self._source(index, left, top, right, bottom, out_width, out_height)
        inner = (left - x0, top - y0, right - x0, bottom - y0)
        whole = all(abs(edge - round(edge)) < 1e-6 for edge in inner)
        if whole and (round(right - left), round(bottom - top)) == (out_width, out_height):
            x, y = round(inner[0]), round(inner[1])
            return source[y : y + out_height, x : x + out_width]
        height, width = source.shape[:2]
        # The margin makes the box lie inside up to rounding (and, at the slide's edge, a displacement), which Pillow
        # does not forgive.
        safe = (max(inner[0], 0.0), max(inner[1], 0.0), min(inner[2], float(width)), min(inner[3], float(height)))
        image = Image.fromarray(source)
        resized = image.resize((out_width, out_height), Image.Resampling.BICUBIC, safe, reducing_gap=REDUCING_GAP)
        return np.asarray(resized)

    def _source(
        self, index: int, left: float, top: float, right: float, bottom: float, out_width: int, out_height: int
    ) -> tuple[NDArray[np.uint8], float, float]:
        """Pixels of a level that a box (in its pixels) needs, filter margin included, and where the first begins."""
        level = self.levels[index]
        spare = 0 if level.exact else 1
        x0, x1 = _needed(left, right, out_width, level.width, spare)
        y0, y1 = _needed(top, bottom, out_height, level.height, spare)
        inside = max(x0, 0), max(y0, 0), min(x1, level.width), min(y1, level.height)
        dx, dy = self.displacement(index, inside[0], inside[1])
        if inside == (x0, y0, x1, y1):
            return self.read_level(index, x0, y0, x1 - x0, y1 - y0), x0 + dx, y0 + dy
        source = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            pixels = self.read_level(index, inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1])
            source[inside[1] - y0 : inside[3] - y0, inside[0] - x0 : inside[2] - x0] = pixels
        return source, x0 + dx, y0 + dy

    def close(self) -> None:
        """Release the file; reading afterwards is an error."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_size(name: str, levels: tuple[Level, ...], resolution: Resolution) -> None:
    """Refuse what no slide can be: a header may declare anything, and memory is needed for the thumbnail of it."""
    width, height = levels[0].width, levels[0].height
    area = width * resolution.mpp_x / 1000 * height * resolution.mpp_y / 1000
    if not 0 < max(width, height) <= LONGEST_SIDE or min(width, height) < 1 or area > LARGEST_MM2:
        raise InputError(
            f"{name}: {width} x {height} px at {resolution.mpp:g} um per pixel: expected at most {LONGEST_SIDE:,} px a "
            f"side and {LARGEST_MM2:,} mm², which is larger than any slide; damaged, or pass the right `mpp`"
        )
    if any(min(level.width, level.height) < 1 for level in levels):
        raise InputError(f"{name}: has a level without pixels; the file is damaged")


def _needed(low: float, high: float, out: int, size: int, spare: int) -> tuple[int, int]:
    """First and one past the last pixel along an axis that a resampled interval needs; may reach outside 0..size.

    ``spare`` pixels more are taken on either side.

    The filter's margin stops at the slide's edge, so that white from outside is not mixed into its last pixels; only
    what the interval itself covers outside is white.
    """
    margin = 0 if low == round(low) and high - low == out else BICUBIC_SUPPORT * max(1.0, (high - low) / out) + 1
    margin += spare and BICUBIC_SUPPORT + spare
    first, last = math.floor(low + EDGE), math.ceil(high - EDGE)
    first = max(math.floor(low - margin), min(first, 0))
    last = min(math.ceil(high + margin), max(last, size))
    return first, max(last, first + 1)


def _blocks(width: float, height: float, out_width: int, out_height: int) -> list[tuple[int, int, int, int]]:
    """Cut an output, whose source measures ``width`` x ``height`` px, into parts (left, top, right, bottom)."""
    side = math.isqrt(SOURCE_PIXELS)
    columns = np.linspace(0, out_width, min(out_width, math.ceil(width / side)) + 1).round().astype(int)
    rows = np.linspace(0, out_height, min(out_height, math.ceil(height / side)) + 1).round().astype(int)
    return [
        (int(left), int(top), int(right), int(bottom))
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
