"""Plain, tiled, pyramidal, ImageJ and OME TIFF, through tifffile's page structure.

Of a tiled file only the tiles that a region touches are decoded; an uncompressed file in strips is mapped into
memory; a compressed one is decoded whole if it is small and strip by strip if it is not.
"""

from __future__ import annotations

import math
import struct
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import (
    GREY_NOTE,
    decode_luminance,
    dyes_note,
    grey_to_rgb,
    over_white,
    range_note,
    rgb_order,
    to_bytes,
)
from celldetr.slide.damage import DamageError
from celldetr.slide.image_reader import ArrayReader
from celldetr.slide.levels import TILE, Level, paddings, reduction
from celldetr.slide.orientation import ORIENTATION, upright
from celldetr.slide.resolution import Resolution
from celldetr.slide.tiff_resolution import channel_names, sample_range, series_size, tiff_resolution

WHOLE_BYTES = 512 * 2**20  # a level in strips that decodes to no more than this is decoded at once and kept
SEGMENT_BYTES = 256 * 2**20  # largest tile or strip that is decoded
CACHE_BYTES = 64 * 2**20  # of decoded tiles and strips
JPEG2000, JPEG2000_HEAD = (33003, 33005, 34712), 4096  # compressions, and bytes that hold the main header's begin
GREY = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
SAME_SHAPE = 0.02  # relative difference of width / height between levels of one pyramid
OTHER_SHARE = 0.1  # of the area of the largest image, that another has which is no label


def open_tiff(path: Path, mpp: float | None) -> SlideReader:
    """Open a TIFF."""
    try:
        # Of an OME-TIFF of several files this one alone: pages of others are not to be had through its handle.
        return _open(path, tifffile.TiffFile(path, _multifile=False), mpp)
    except InputError:
        raise
    except Exception as error:  # a damaged header makes tifffile, and what is computed from it, raise almost anything
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a TIFF that can be read ({reason}); damaged or incomplete?") from None


def _open(path: Path, file: Any, mpp: float | None) -> SlideReader:
    _check_chain(path, file)
    # Of several of one size that in colour: a mask may come before its image.
    series = max(
        file.series, key=lambda each: (math.prod(series_size(each)), each.keyframe.samplesperpixel), default=None
    )
    if series is None:
        raise InputError(f"{path}: a TIFF without an image; damaged or incomplete?")
    highest, source = sample_range(file, series)
    lock = threading.Lock()  # of the file, which all levels read through one handle
    levels = _pyramid(file, series)
    names = channel_names(file, series)
    order = rgb_order(names) if series.axes == "CYX" else None
    pyramid = [TiffLevel(path, file, level, highest, lock, order) for level in levels]
    notes = [GREY_NOTE] if pyramid[0].is_grey else []
    if others := _others(file, levels):
        notes.append(
            f"the file holds {others + 1} images, of which the largest is read; write the others to files of their own"
        )
    if order not in (None, [0, 1, 2]):
        notes.append(f"its channels {', '.join(map(repr, names))} are read in the order of their names")
    if series.axes == "CYX":
        notes += dyes_note(names)
    if highest > 255 and not pyramid[0].is_palette:
        notes.append(range_note(highest, source))
    reader = TiffReader(path, file, pyramid, tiff_resolution(path, file, series, mpp), tuple(notes))
    orientation = series.keyframe.tags.valueof(ORIENTATION, 1)
    return reader if orientation not in range(2, 9) else _turned(path, reader, int(orientation))


def _turned(path: Path, reader: TiffReader, orientation: int) -> SlideReader:
    """A small TIFF that is stored turned, upright. Slides are not turned: neither OpenSlide nor QuPath does so."""
    if reader.width * reader.height * 3 > WHOLE_BYTES or len(reader.levels) > 1:
        reader.warnings += (f"its tag Orientation ({orientation}) is not heeded: the slide is read as it is stored",)
        return reader
    with reader:
        pixels = upright(reader.read_level(0, 0, 0, reader.width, reader.height), orientation)
    x, y = (reader.mpp_y, reader.mpp_x) if orientation > 4 else (reader.mpp_x, reader.mpp_y)
    note = f"the image is stored turned (TIFF orientation {orientation}) and is read as viewers show it"
    resolution = Resolution(x, y, reader.mpp_source)
    return ArrayReader(pixels, resolution, path, reader.format, (*reader.warnings, note), orientation)


def _check_chain(path: Path, file: Any) -> None:
    """Refuse a file whose directories lead beyond its end: a truncated one often keeps its first image only."""
    form, handle = file.tiff, file.filehandle
    handle.seek(8 if form.is_bigtiff else 4)
    seen: set[int] = set()
    while (offset := struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0]) not in seen | {0}:
        seen.add(offset)
        end = offset + form.tagnosize
        if end < handle.size:
            handle.seek(offset)
            end += struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0] * form.tagsize
        if end + form.offsetsize > handle.size:
            raise InputError(f"{path}: the file is truncated: a directory of it should be at byte {offset}")
        handle.seek(end)


def _pyramid(file: Any, series: Any) -> list[Any]:
    """The levels of an image, finest first: SubIFDs, or reduced pages that follow it (as libvips and GDAL write)."""
    levels = list(series.levels)
    if len(levels) == 1:
        reduced = [other for other in file.series if other.keyframe.is_reduced and other.axes == series.axes]
        levels += [other for other in reduced if _is_smaller(other, series)]
    return sorted(levels, key=lambda level: -series_size(level)[0])


def _is_smaller(image: Any, full: Any) -> bool:
    """Whether an image may be a reduction of another, by its shape, or by its shape without what fills up its tiles."""
    (w, h), (width, height) = series_size(image), series_size(full)
    if not (0 < w < width and 0 < h <= height):
        return False
    page = image.keyframe
    filled = page.is_tiled and bool(paddings((width, height), (w, h), (page.tilewidth, page.tilelength)))
    return filled or abs(w * height / (h * width) - 1) < SAME_SHAPE


def _others(file: Any, levels: list[Any]) -> int:
    """How many further images a file has that may be slides: neither levels of the first, nor small as labels are."""
    first = levels[0]
    return sum(
        math.prod(series_size(other)) >= OTHER_SHARE * math.prod(series_size(first))
        for other in file.series
        if other not in levels
        and not _is_smaller(other, first)
        and not other.keyframe.is_reduced
        and other.axes == first.axes
    )


class TiffReader(SlideReader):
    """A TIFF pyramid."""

    def __init__(
        self, path: Path, file: Any, pyramid: list[TiffLevel], resolution: Resolution, notes: tuple[str, ...]
    ) -> None:
        self._file, self._pyramid = file, pyramid
        full = pyramid[0]
        super().__init__(
            path,
            format="ome-tiff" if file.is_ome else "imagej-tiff" if file.is_imagej else "tiff",
            levels=tuple(
                Level(p.width, p.height, (reduction(full.width, p.width), reduction(full.height, p.height)), p.tile)
                for p in pyramid
            ),
            resolution=resolution,
            warnings=notes,
        )

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        return self._pyramid[level].read(x, y, width, height)

    def close(self) -> None:
        """See ``SlideReader.close``."""
        self._file.close()


class TiffLevel:
    """One resolution of a TIFF, a series of tifffile's: where its pixels are and how they become RGB.

    ``highest`` is the value of a sample that is fully bright, ``lock`` that of the file, ``order`` which of the stored
    channels are red, green and blue; None: as they are stored.
    """

    def __init__(
        self,
        path: Path,
        file: Any,
        series: Any,
        highest: int,
        lock: threading.Lock,
        order: list[int] | None = None,
    ) -> None:
        self._order = order
        self._path, self._handle, self._lock = path, file.filehandle, lock
        self._series, self._page = series, series.keyframe
        self._pages = [page for page in series.pages if page is not None]
        self.width, self.height = series_size(series)
        self.tile = (self._page.tilewidth, self._page.tilelength) if self._page.is_tiled else TILE
        self._array: Any = None
        self._samples_first = _check_colour(path, series)
        self._highest = highest
        page = self._page
        segments = [
            segment for part in self._pages for segment in zip(part.dataoffsets, part.databytecounts, strict=True)
        ]
        end = max((offset + count for offset, count in segments), default=0)
        if end > self._handle.size:
            raise InputError(f"{path}: the file is truncated: {self._handle.size} bytes of {end}")
        decoded = math.prod(series.shape) * page.dtype.itemsize
        self._whole = not page.is_tiled and decoded <= WHOLE_BYTES
        if not page.is_tiled and series.dataoffset is not None:
            if series.dataoffset + decoded > file.filehandle.size:
                raise InputError(f"{path}: the file is truncated: its pixels alone would be {decoded:,} bytes")
            dtype = page.dtype.newbyteorder(file.byteorder)
            self._array = np.memmap(path, dtype, "r", series.dataoffset, series.shape)
        pixels = page.tilewidth * page.tilelength if page.is_tiled else page.rowsperstrip * self.width
        segment = pixels * page.samplesperpixel * page.dtype.itemsize
        if self._array is None and not self._whole and segment > SEGMENT_BYTES:
            raise InputError(f"{path}: its pixels are compressed in too large pieces; save it with smaller tiles")
        self._luminance = _is_undecoded(self._handle, self._pages)
        self._segment = lru_cache(max(2, CACHE_BYTES // max(segment, 1)))(self._decode)

    @property
    def is_palette(self) -> bool:
        """Whether samples are numbers of colours."""
        return bool(self._page.photometric == tifffile.PHOTOMETRIC.PALETTE)

    @property
    def is_grey(self) -> bool:
        """Whether there is one sample a pixel, or one and alpha."""
        return self._series.axes != "CYX" and self._page.photometric in GREY

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        try:
            if self._whole and self._array is None:
                self._decode_whole()
            if self._array is not None:
                rows, columns = slice(y, y + height), slice(x, x + width)
                raw = self._array[:, rows, columns] if self._samples_first else self._array[rows, columns]
                return self._rgb(np.moveaxis(raw, 0, -1) if self._samples_first else raw)
            return self._rgb(self._read_segments(x, y, width, height))
        except Exception as error:  # codecs raise what they like on damaged data, also OSErrors without a number
            if isinstance(error, OSError) and error.errno is not None:
                raise InputError(
                    f"{self._path}: cannot be read any more ({error.strerror}); is its disk there?"
                ) from None
            place = f"{width} x {height} px at ({x}, {y}) of the level of {self.width} x {self.height} px"
            reason = f"{str(error) or type(error).__name__}); damaged, or compressed in an unknown way"
            raise DamageError(self._path, f"cannot read {place} ({reason}") from None

    def _decode_whole(self) -> None:
        with self._lock:
            if self._array is None and self._whole:
                try:
                    self._array = self._series.asarray()
                except Exception:  # one bad strip; the others are read one by one
                    self._whole = False

    def _read_segments(self, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        """Decode the tiles or strips that a rectangle touches -> (height, width[, samples]) of the file's own type."""
        page = self._page
        tile_w, tile_h = (page.tilewidth, page.tilelength) if page.is_tiled else (self.width, page.rowsperstrip)
        across, down = -(-self.width // tile_w), -(-self.height // tile_h)
        samples = len(self._pages) if len(self._pages) > 1 else page.samplesperpixel
        planes = samples if self._samples_first and len(self._pages) == 1 else 1
        # White where a sparse file has no data.
        white = 0 if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE else np.iinfo(page.dtype).max
        out = np.full((height, width, samples), white, dtype=page.dtype)
        for p in range(len(self._pages)):
            for plane in range(planes):
                for row in range(y // tile_h, -(-(y + height) // tile_h)):
                    for column in range(x // tile_w, -(-(x + width) // tile_w)):
                        data, (s, _, top, left, _) = self._segment(p, (plane * down + row) * across + column)
                        if data is None:
                            continue
                        first = p if len(self._pages) > 1 else s
                        data = data[0]  # depth
                        y0, x0 = max(y, top), max(x, left)
                        y1, x1 = min(y + height, top + data.shape[0]), min(x + width, left + data.shape[1])
                        part = data[y0 - top : y1 - top, x0 - left : x1 - left]
                        out[y0 - y : y1 - y, x0 - x : x1 - x, first : first + data.shape[2]] = part
        return out[..., 0] if samples == 1 else out

    def _decode(self, p: int, index: int) -> tuple[Any, Any]:
        """Decoded segment ``index`` of page ``p`` (None if the file has no data for it) and its place in the image."""
        page = self._pages[p]
        with self._lock:
            count = page.databytecounts[index]
            self._handle.seek(page.dataoffsets[index])
            encoded = self._handle.read(count) if count else None
        header = getattr(page, "jpegheader", None)
        data, place, _ = page.decode(encoded, index, jpegtables=page.jpegtables, jpegheader=header)
        return data, place

    def _rgb(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        if self.is_palette:
            table = np.asarray(self._page.colormap)  # (3, 2 ** bits) uint16
            return np.ascontiguousarray((table >> 8).astype(np.uint8)[:, raw].transpose(1, 2, 0))
        samples = to_bytes(raw if raw.ndim == 3 else raw[..., None], self._highest)
        colours = 1 if self.is_grey else 3
        pixels = samples[..., :colours] if self._order is None else samples[..., self._order]
        if self._page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = 255 - pixels
        if self._luminance:
            pixels = decode_luminance(pixels)
        if colours == 1:
            pixels = grey_to_rgb(pixels[..., 0])
        # A further sample is alpha only where the file's ExtraSamples tag says so.
        multiplied = tifffile.EXTRASAMPLE.ASSOCALPHA in self._page.extrasamples
        if samples.shape[2] > colours and (multiplied or tifffile.EXTRASAMPLE.UNASSALPHA in self._page.extrasamples):
            return over_white(pixels, samples[..., colours], multiplied)
        return np.ascontiguousarray(pixels)


def _is_undecoded(handle: Any, pages: list[Any]) -> bool:
    """Whether JPEG 2000 holds luminance and chroma that its codec leaves as they are: no transform in the codestream.

    Aperio's compression 33003 says so by its number, others by the colour space of the TIFF.
    """
    page = pages[0]
    named = page.compression == 33003 or page.photometric == tifffile.PHOTOMETRIC.YCBCR
    if page.compression not in JPEG2000 or not named:
        return False
    offset = next((offset for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True) if count), 0)
    handle.seek(offset)
    head = handle.read(JPEG2000_HEAD)
    at = head.find(b"\xff\x4f\xff\x51") + 2  # start of codestream, after the boxes of a JP2 file
    while at + 4 < len(head) and head[at : at + 2] != b"\xff\x52":  # coding style default
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return at + 8 < len(head) and head[at + 8] == 0


def _check_colour(path: Path, series: Any) -> bool:
    """Whether samples come before rows; raises if the image is not RGB(A), grey or a palette of 8 or 16 bits."""
    page, axes, shape = series.keyframe, series.axes, series.shape
    found = f"{path}: holds {axes} data of shape {tuple(shape)}, {page.dtype}, {page.photometric.name.lower()}"
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and axes == "YX":
        return False
    kinds = {"YXS": (False, 2), "SYX": (True, 0), "CYX": (True, 0)}
    samples_first, axis = kinds.get(axes, (False, -1))
    is_grey = page.photometric in GREY and (axes == "YX" or (axis >= 0 and axes != "CYX" and shape[axis] == 2))
    if not is_grey and (axis < 0 or shape[axis] not in (3, 4) or (axes == "CYX" and shape[axis] != 3)):
        raise InputError(f"{found}; expected one RGB or grey image, not a stack or fluorescence channels")
    if page.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{found}; expected 8 or 16 bits per channel")
    jpeg = page.compression in (6, 7, *JPEG2000)  # these become RGB here or in their codecs
    rgb = {tifffile.PHOTOMETRIC.RGB} | ({tifffile.PHOTOMETRIC.YCBCR} if jpeg else set())
    if axes == "CYX":
        rgb |= {tifffile.PHOTOMETRIC.MINISBLACK}
    if page.photometric not in rgb and not is_grey:
        raise InputError(f"{found}; expected the colour space RGB; save it as RGB")
    return samples_first
