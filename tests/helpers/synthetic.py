"""Slides in many formats with discs at known places, and a model that measures their centres far below a pixel.

The discs are drawn with soft edges, so that their centroid is where they are put at any resolution; the model weighs
pixels by how dark they are. What is left of a difference is the reader's, the grid's or the table's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from celldetr.model.output import TileCells
from helpers.blobs import TISSUE, BlobModel

DARK = (70, 40, 90)
RADIUS_UM = 4.0
WIDTH_UM, HEIGHT_UM = 220.0, 160.0


def places_um(n: int = 30, gap: float = 16.0, seed: int = 0) -> NDArray[np.float64]:
    """(N, 2) places in micrometres, none nearer than ``gap`` to another or 8 um to the border."""
    rng = np.random.default_rng(seed)
    points = np.zeros((0, 2))
    for point in rng.uniform((8, 8), (WIDTH_UM - 8, HEIGHT_UM - 8), (20 * n, 2)):
        if len(points) < n and np.hypot(*(points - point).T).min(initial=np.inf) >= gap:
            points = np.append(points, [point], 0)
    return points


@cache
def draw(mpp_x: float, mpp_y: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A scene of ``WIDTH_UM`` x ``HEIGHT_UM`` -> (H, W, 3) uint8, and the (N, 2) centres of its discs in its pixels."""
    width, height = round(WIDTH_UM / mpp_x), round(HEIGHT_UM / mpp_y)
    image = np.full((height, width, 3), TISSUE, dtype=np.float64)
    centres = places_um() / (mpp_x, mpp_y)
    reach_x, reach_y = int(RADIUS_UM / mpp_x) + 3, int(RADIUS_UM / mpp_y) + 3
    for x, y in centres:
        left, top = max(int(x) - reach_x, 0), max(int(y) - reach_y, 0)
        part = image[top : int(y) + reach_y + 1, left : int(x) + reach_x + 1]
        ys, xs = np.mgrid[: part.shape[0], : part.shape[1]]
        distance = np.hypot((xs + left + 0.5 - x) * mpp_x, (ys + top + 0.5 - y) * mpp_y)
        cover = np.clip((RADIUS_UM - distance) / max(mpp_x, mpp_y) + 0.5, 0, 1)[..., None]
        part += cover * (np.array(DARK) - part)
    return image.round().astype(np.uint8), centres


@dataclass
class CentroidModel(BlobModel):
    """Finds dark discs and weighs their pixels: boxes are centred where the darkness is."""

    def _find(self, tile: NDArray[np.uint8]) -> TileCells:
        darkness = np.maximum(TISSUE[1] - tile[..., 1].astype(np.float64) - 8, 0)
        labels, n = ndimage.label(darkness > 50)
        boxes = np.zeros((n, 4), np.float32)
        for i, (rows, columns) in enumerate(ndimage.find_objects(labels)):
            top, left = max(rows.start - 3, 0), max(columns.start - 3, 0)
            part = darkness[top : rows.stop + 3, left : columns.stop + 3]
            ys, xs = np.mgrid[: part.shape[0], : part.shape[1]]
            x, y = (xs * part).sum() / part.sum() + left + 0.5, (ys * part).sum() / part.sum() + top + 0.5
            boxes[i] = x - 4, y - 4, x + 4, y + 4
        ones = np.ones(n, np.float32)
        probabilities = np.tile(np.float32([1, 0, 0]), (n, 1))
        return TileCells(boxes, 0.9 * ones, probabilities, np.zeros((n, self.embedding_dim), np.float16))


def level(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means of whole blocks of pixels; what is left at the right and below is cut off, as scanners do."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, *image.shape[2:])
    return blocks.mean((1, 3)).round().astype(image.dtype)


Writer = Callable[[Path, NDArray[Any], float, float], dict[str, Any]]
TILES: dict[str, Any] = {"tile": (128, 160), "compression": "zlib"}


def per_cm(x: float, y: float) -> dict[str, Any]:
    return {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}


def plain_tiff(path: Path, image: NDArray[Any], x: float, y: float, **options: Any) -> dict[str, Any]:
    tifffile.imwrite(path.with_suffix(".tif"), image, **({"photometric": "rgb"} | per_cm(x, y) | options))
    return {"path": path.with_suffix(".tif")}


def bigtiff(path: Path, image: NDArray[Any], x: float, y: float) -> dict[str, Any]:
    return plain_tiff(path, image, x, y, bigtiff=True, byteorder=">", **TILES)


def pyramid_tiff(path: Path, image: NDArray[Any], x: float, y: float) -> dict[str, Any]:
    path = path.with_suffix(".tiff")
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric="rgb", metadata=None, **TILES, **per_cm(x, y))
        for factor in (2, 4, 8):
            file.write(level(image, factor), photometric="rgb", metadata=None, subfiletype=1, **TILES)
    return {"path": path}


def ome_tiff(path: Path, image: NDArray[Any], x: float, y: float) -> dict[str, Any]:
    path = path.with_suffix(".ome.tif")
    sizes = {"PhysicalSizeX": x * 1000, "PhysicalSizeY": y * 1000}
    metadata = {"axes": "YXS", **sizes, "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric="rgb", subifds=2, metadata=metadata, **TILES)
        for factor in (2, 4):
            file.write(level(image, factor), photometric="rgb", subfiletype=1, **TILES)
    return {"path": path}


def imagej_tiff(path: Path, image: NDArray[Any], x: float, y: float) -> dict[str, Any]:
    path = path.with_suffix(".tif")
    tifffile.imwrite(path, image, imagej=True, resolution=(1 / x, 1 / y), metadata={"unit": "um"})
    return {"path": path}


def png(path: Path, image: NDArray[Any], x: float, y: float) -> dict[str, Any]:
    Image.fromarray(image).save(path.with_suffix(".png"))
    return {"path": path.with_suffix(".png"), "mpp": x}


def svs(path: Path, image: NDArray[Any], x: float, y: float, factors: Sequence[int] = (1, 4)) -> dict[str, Any]:
    path = path.with_suffix(".svs")
    tiles = {"tile": (240, 240), "compression": "jpeg", "compressionargs": {"level": 95}, "photometric": "rgb"}
    with tifffile.TiffWriter(path) as file:
        for factor in factors:
            data = level(image, factor)
            about = f"Aperio Image Library v12.0.1\r\n{data.shape[1]}x{data.shape[0]}|MPP = {x}|AppMag = {10 / x:.0f}"
            file.write(data, description=about, metadata=None, **tiles)
    return {"path": path}


SCN_OFFSET = (210, 130)  # level-0 px of the Leica slide between its corner and what was scanned


def scn(path: Path, image: NDArray[Any], x: float, y: float, factors: Sequence[int] = (1, 4)) -> dict[str, Any]:
    """A Leica SCN as OpenSlide reads it: the scanned area lies somewhere on a larger slide."""
    path = path.with_suffix(".scn")
    levels = [level(image, factor) for factor in factors]
    step_x, step_y = round(x * 1e6), round(y * 1e6)  # picometres, so that odd sizes are whole numbers
    height, width = image.shape[:2]
    dimensions = "".join(
        f'<dimension sizeX="{data.shape[1]}" sizeY="{data.shape[0]}" r="{i}" ifd="{i}"/>'
        for i, data in enumerate(levels)
    )
    view = f'sizeX="{width * step_x}" sizeY="{height * step_y}"'
    about = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{3 * width * step_x}" sizeY="{4 * height * step_y}"><image>'
        f'<pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels>'
        f'<view {view} offsetX="{SCN_OFFSET[0] * step_x}" offsetY="{SCN_OFFSET[1] * step_y}"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
        "</image></collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for i, data in enumerate(levels):
            tiles = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 95}, "photometric": "rgb"}
            resolution = per_cm(x * factors[i], y * factors[i])
            file.write(data, description=about if i == 0 else None, metadata=None, **tiles, **resolution)
    return {"path": path}


FORMATS: dict[str, Writer] = {
    "plain-tiff": plain_tiff,
    "bigtiff": bigtiff,
    "pyramid-tiff": pyramid_tiff,
    "ome-tiff": ome_tiff,
    "imagej-tiff": imagej_tiff,
    "png": png,
    "svs": svs,
    "scn": scn,
}
