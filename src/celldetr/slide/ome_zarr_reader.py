"""RGB images in OME-Zarr (NGFF), chunk by chunk."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import check_codecs, is_file, read_bytes
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import dyes_note, range_note, rgb_order, to_bytes
from celldetr.slide.damage import DamageError
from celldetr.slide.levels import Level, reduction
from celldetr.slide.ome_zarr import METADATA_BYTES, LevelPlace, ZarrImage, find_images
from celldetr.slide.resolution import Resolution, candidates_of, resolve

CHUNK_BYTES = 256 * 2**20  # largest chunk that is decoded
CACHE_BYTES = 64 * 2**20  # of decoded chunks, a level
OTHER_SHARE = 0.1  # of the area of the largest image, that another has which is no label


def open_ome_zarr(folder: Path, mpp: float | None) -> SlideReader:
    """Open the largest image of a store; ``mpp`` as given, instead of what it says.

    Raises:
        InputError: no image, not one in RGB, metadata or chunks that cannot be used, or of unknown resolution.
    """
    images = [(image, [_Array(folder, place, image) for place in image.levels]) for image in find_images(folder)]
    images = [(image, sorted(arrays, key=lambda array: -array.area)) for image, arrays in images]
    image, arrays = max(images, key=lambda each: each[1][0].area)
    finest = arrays[0]
    finest.check()
    notes = dyes_note([name for name, _ in image.channels])
    if finest.highest > 255:
        notes += (range_note(finest.highest, ""),)
    others = sum(each[0].area >= OTHER_SHARE * finest.area for _, each in images) - 1
    if others:
        notes += (f"the store holds {others + 1} images, of which the largest, {image.folder.name}, is read",)
    shown = [array for array in arrays if not _is_displaced(array, finest)]
    if len(shown) < len(arrays):
        notes += (f"levels that lie elsewhere by their translation are not read: {len(arrays) - len(shown)}",)
    scale = finest.place.scale or (None, None)
    sides = [side * um if side and um else None for side, um in zip(scale, image.um, strict=True)]
    resolution = resolve(str(folder), mpp, candidates_of(sides[0], sides[1], "OME-Zarr scale"))
    order = rgb_order([name for name, _ in image.channels], [colour for _, colour in image.channels])
    return OmeZarrReader(folder, shown, order, resolution, notes)


class _Array:
    """The array of a level, opened; axes by their letters."""

    def __init__(self, store: Path, place: LevelPlace, image: ZarrImage) -> None:
        import zarr

        self.place, self.axes = place, image.axes
        files = [place.folder / name for name in (".zarray", "zarr.json")]
        for file in filter(is_file, files):
            check_codecs(file, read_bytes(file, METADATA_BYTES))
        try:
            self.data: Any = zarr.open_array(str(place.folder), mode="r")
        except Exception as error:  # missing, damaged, of an unknown codec: each in its own way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{store}: level {place.folder.name!r} cannot be opened ({reason})") from None
        shape, dtype = tuple(self.data.shape), self.data.dtype
        self._found = f"{store}: holds {image.axes} data of shape {shape}, {dtype}"
        if len(shape) != len(image.axes) or min(shape) < 1:
            raise InputError(f"{self._found}; expected as many dimensions as axes")
        self.sizes = dict(zip(image.axes, shape, strict=True))
        self.chunk = dict(zip(image.axes, self.data.chunks, strict=True))
        self.area = self.sizes["x"] * self.sizes["y"]
        self.highest = 65535 if dtype == np.uint16 else 255

    def check(self) -> None:
        """Refuse what is not one plane of three channels of 8 or 16 bits."""
        rest = math.prod(size for axis, size in self.sizes.items() if axis not in "cyx")
        if rest != 1 or self.sizes.get("c") != 3:
            raise InputError(f"{self._found}; expected one RGB image, not a stack or fluorescence channels")
        if self.data.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{self._found}; expected 8 or 16 bits per channel, without sign")
        if math.prod(self.data.chunks) * self.data.dtype.itemsize > CHUNK_BYTES:
            raise InputError(f"{self._found} in chunks of {self.data.chunks}: too large; save it with smaller chunks")

    def read(self, x: slice, y: slice) -> NDArray[Any]:
        """Samples (h, w, 3) of the array's own type."""
        place = {"x": x, "y": y, "c": slice(None)}
        samples = np.asarray(self.data[tuple(place.get(axis, 0) for axis in self.axes)])
        left = [axis for axis in self.axes if axis in place]
        return samples.transpose([left.index(axis) for axis in "yxc"])


def _is_displaced(array: _Array, finest: _Array) -> bool:
    """Whether a level begins more than one of its pixels beside the finest one."""
    scale = array.place.scale or (1.0, 1.0)
    offsets = zip(array.place.offset, finest.place.offset, scale, strict=True)
    return any(abs(own - first) > side for own, first, side in offsets)


class OmeZarrReader(SlideReader):
    """An image of a store, its levels finest first; ``order``: channels that are red, green and blue."""

    def __init__(
        self, folder: Path, arrays: list[_Array], order: list[int], resolution: Resolution, notes: tuple[str, ...]
    ) -> None:
        for array in arrays:
            array.check()
        self._path, self._arrays, self._order = folder, arrays, order
        self._chunk = lru_cache(max(4, CACHE_BYTES // (3 * max(a.chunk["x"] * a.chunk["y"] for a in arrays))))(
            self._decode
        )
        whole = arrays[0].sizes
        super().__init__(
            folder,
            format="ome-zarr",
            levels=tuple(
                Level(
                    array.sizes["x"],
                    array.sizes["y"],
                    (reduction(whole["x"], array.sizes["x"]), reduction(whole["y"], array.sizes["y"])),
                    (array.chunk["x"], array.chunk["y"]),
                )
                for array in arrays
            ),
            resolution=resolution,
            warnings=notes,
        )

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See ``SlideReader.read_level``."""
        out = np.empty((height, width, 3), np.uint8)
        across, down = (self._arrays[level].chunk[axis] for axis in "xy")
        for row in range(y // down, -(-(y + height) // down)):
            for column in range(x // across, -(-(x + width) // across)):
                pixels = self._chunk(level, row, column)
                left, top = column * across, row * down
                x0, y0 = max(x, left), max(y, top)
                x1, y1 = min(x + width, left + pixels.shape[1]), min(y + height, top + pixels.shape[0])
                out[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _decode(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """The pixels of one chunk, all channels."""
        array = self._arrays[level]
        across, down = array.chunk["x"], array.chunk["y"]
        try:
            samples = array.read(slice(column * across, (column + 1) * across), slice(row * down, (row + 1) * down))
        except Exception as error:  # codecs raise what they like on damaged chunks
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DamageError(
                self._path, f"cannot read chunk ({row}, {column}) of level {level} ({reason}); damaged?"
            ) from None
        return to_bytes(np.ascontiguousarray(samples[..., self._order]), array.highest)
