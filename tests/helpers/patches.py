"""Synthetic slides for sampling, in parts blurred, penned or empty, a model that sees dark discs, and small sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from celldetr.config.data import Encoding
from celldetr.data.patch_set import PatchSetInfo, Position, SlideInfo
from celldetr.data.patch_writer import PatchWriter
from celldetr.data.shards import Patch
from celldetr.model.output import TileCells

GLASS, TISSUE, NUCLEUS, INK = (243, 243, 245), (225, 160, 195), (80, 50, 120), (30, 160, 130)
MPP, PX = 0.5, 64


def tissue(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Noisy stroma with a dark disc of 5 px radius every 16 px or so."""
    rng = np.random.default_rng(seed)
    image = np.array(TISSUE, dtype=np.float64) + rng.normal(0, 6, (height, width, 1))
    ys, xs = np.mgrid[:height, :width]
    for y in range(8, height, 16):
        for x in range(8, width, 16):
            image[np.hypot(ys - y - rng.integers(-2, 3), xs - x - rng.integers(-2, 3)) < 5] = NUCLEUS
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def write_slide(path: Path, columns: Sequence[str], rows: int = 4, seed: int = 0) -> Path:
    """A PNG of ``len(columns)`` x ``rows`` patches; a column is sharp, blurred, pen, glass or stroma (no nuclei)."""
    height = rows * PX
    parts = []
    for number, kind in enumerate(columns):
        part = tissue(PX, height, seed * 100 + number)
        if kind == "blurred":
            part = ndimage.gaussian_filter(part, (3, 3, 0))
        elif kind == "pen":
            part[:, PX * 3 // 8 :] = INK
        elif kind == "glass":
            part[:] = GLASS
        elif kind == "stroma":
            noise = np.random.default_rng(seed).normal(0, 8, (height, PX, 1))
            part = np.clip(np.array(TISSUE) + noise, 0, 255).astype(np.uint8)
        parts.append(part)
    Image.fromarray(np.concatenate(parts, axis=1)).save(path)
    return path


class DiscModel:
    """Boxes of connected dark pixels. ``seen`` counts the tiles."""

    mpp, types, embedding_dim = MPP, ("a", "b"), 4
    image_px: int | None = None

    def __init__(self) -> None:
        self.seen = 0

    def describe(self) -> dict[str, object]:
        return {"name": "discs", "sha256": "0" * 64}

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> list[TileCells]:
        self.seen += len(tiles)
        return [self._find(tile) for tile in tiles]

    def _find(self, tile: NDArray[np.uint8]) -> TileCells:
        groups, _ = ndimage.label(tile[..., 1] < 100)
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(groups) if x.stop - x.start > 4]
        table = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        n = len(table)
        # Scores depend on how many tiles came before: whoever repeats a tile in a run is found out.
        scores = np.full(n, 0.5, dtype=np.float32)
        return TileCells(table, scores, np.full((n, 2), 0.5, np.float32), np.zeros((n, 4), np.float16))


def write_set(
    folder: Path,
    slides: dict[str, Sequence[Patch]],
    *,
    px: int = 32,
    types: tuple[str, ...] = (),
    per_shard: int = 5,
    validation: float = 0.25,
    encoding: Encoding = "png",
) -> PatchSetInfo:
    """A complete set of patches, through the writer."""
    info = PatchSetInfo(
        status="incomplete",
        mpp=MPP,
        px=px,
        patches=0,
        nuclei=0,
        encoding=encoding,
        types=types,
        validation=validation,
        made_with={},
        shards=(),
        slides=(),
        next=Position(slide=0, place=0),
    )
    told: list[SlideInfo] = []
    with PatchWriter(folder, info, per_shard) as writer:
        for number, (name, patches) in enumerate(slides.items()):
            told.append(slide_info(name, 0, 0))
            for count, patch in enumerate(patches, 1):
                writer.add(patch)
                told[-1] = slide_info(name, count, told[-1].nuclei + len(patch.boxes))
                if not writer.room:
                    writer.close_shard(told, Position(slide=number, place=count))
        writer.close_shard(told, None)
        return writer.info


def slide_info(name: str, patches: int, nuclei: int) -> SlideInfo:
    return SlideInfo(
        name=name, file=f"{name}.svs", places=patches, looked_at=patches, patches=patches, nuclei=nuclei, left_out={}
    )


def random_patch(slide: str, number: int, px: int = 32, cells: int | None = None, types: int = 0) -> Patch:
    rng = np.random.default_rng([number, sum(map(ord, slide))])
    n = int(rng.integers(0, 6)) if cells is None else cells
    corner = rng.uniform(0, px - 8, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 8, (n, 2))], axis=1).astype(np.float32)
    image = rng.integers(0, 256, (px, px, 3), dtype=np.uint8)
    kinds = rng.integers(-1, types, n) if types else np.full(n, -1)
    return Patch(
        slide, 10.5 * number, 3.0, MPP, image, boxes, rng.uniform(0, 1, n).astype(np.float32), kinds.astype(np.int16)
    )
