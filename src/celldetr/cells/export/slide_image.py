"""The image of a slide as an element of SpatialData: a pyramid that is read block by block, while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # px, side of what is read and written at once
COARSEST = 1024  # px, longest side at which the pyramid ends


class Picture(Protocol):
    """An open slide (``celldetr.slide.reader.open_slide``)."""

    @property
    def width(self) -> int:
        """Of level 0, px."""

    @property
    def height(self) -> int:
        """Of level 0, px."""

    @property
    def file(self) -> str:
        """Its name."""

    def read_region(
        self, x: float, y: float, width: float, height: float, out_width: int, out_height: int
    ) -> NDArray[np.uint8]:
        """Level-0 rectangle -> (out_height, out_width, 3)."""


def image_pyramid(slide: Picture, zoom: float, systems: Mapping[str, Any]) -> Any:
    """The multiscale image (c, y, x) of a slide, each level half of the one before.

    Args:
        slide: open until the store is written; read from several threads.
        zoom: pixels of the finest level per pixel of the slide's level 0, at most 1.
        systems: coordinate system -> transformation of level-0 pixels into it.

    Returns:
        ``xarray.DataTree`` as ``spatialdata.models.Image2DModel`` has it.
    """
    import xarray
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Sequence

    levels: dict[str, Any] = {}
    width, height = max(1, round(slide.width * zoom)), max(1, round(slide.height * zoom))
    while True:
        step_x, step_y = slide.width / width, slide.height / height
        coordinates = {
            "c": ["r", "g", "b"],
            "y": (np.arange(height) + 0.5) * step_y,
            "x": (np.arange(width) + 0.5) * step_x,
        }
        level = xarray.DataArray(_blocks(slide, width, height), coordinates, ("c", "y", "x"), name="image")
        to_level_0 = Scale([step_y, step_x], axes=("y", "x"))
        level.attrs["transform"] = {name: Sequence([to_level_0, system]) for name, system in systems.items()}
        levels[f"scale{len(levels)}"] = xarray.Dataset({"image": level})
        if max(width, height) <= COARSEST:
            break
        width, height = max(1, width // 2), max(1, height // 2)
    tree = xarray.DataTree.from_dict(levels)
    Image2DModel().validate(tree)
    return tree


def _blocks(slide: Picture, width: int, height: int) -> Any:
    """The slide at a size, (3, height, width) uint8, as a dask array."""
    import dask.array

    def sizes(side: int) -> tuple[int, ...]:
        return (*[BLOCK] * (side // BLOCK), *([side % BLOCK] * bool(side % BLOCK)))

    chunks = ((3,), sizes(height), sizes(width))
    return dask.array.map_blocks(
        partial(_read, slide, width, height), chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )


def _read(slide: Picture, width: int, height: int, block_info: Any) -> NDArray[np.uint8]:
    """One block, (3, h, w)."""
    _, (top, bottom), (left, right) = block_info[None]["array-location"]
    step_x, step_y = slide.width / width, slide.height / height
    pixels = slide.read_region(
        left * step_x, top * step_y, (right - left) * step_x, (bottom - top) * step_y, right - left, bottom - top
    )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
