"""A slide of dark discs, and a model that finds them exactly: what the engine is tested with instead of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from celldetr.model.output import TileCells

TISSUE, RED, BLUE = (230, 180, 210), (120, 40, 60), (60, 40, 120)


def blob_image(
    centres: NDArray[np.float64], height: int, width: int, radius: float = 5, ground: tuple[int, int, int] = TISSUE
) -> NDArray[np.uint8]:
    """Discs of alternating colour at (N, 2) centres (x, y) on a plain ground."""
    image = np.full((height, width, 3), ground, dtype=np.uint8)
    reach = int(radius) + 2
    for i, (x, y) in enumerate(centres):
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        part = image[top : int(y) + reach, left : int(x) + reach]
        ys, xs = np.mgrid[: part.shape[0], : part.shape[1]]
        part[(xs + left + 0.5 - x) ** 2 + (ys + top + 0.5 - y) ** 2 <= radius**2] = RED if i % 2 else BLUE
    return image


def scattered(n: int, height: int, width: int, gap: float = 16, seed: int = 0) -> NDArray[np.float64]:
    """At most n whole-pixel points, none nearer than ``gap`` to another or 8 px to the border."""
    rng = np.random.default_rng(seed)
    points = np.zeros((0, 2))
    for point in rng.integers((8, 8), (width - 8, height - 8), (n, 2)):
        if np.hypot(*(points - point).T).min(initial=np.inf) >= gap:
            points = np.append(points, [point], 0)
    return points


@dataclass
class BlobModel:
    """Finds dark discs by connected components. ``fail_at`` is the call that raises ``error``."""

    mpp: float = 0.5
    types: tuple[str, ...] = ("red", "blue", "green")
    embedding_dim: int = 4
    image_px: int | None = None
    name: str = "blobs"
    fail_at: int | None = None
    error: BaseException = field(default_factory=lambda: RuntimeError("the model fell over"))
    calls: int = 0
    tiles_seen: int = 0

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "sha256": "0" * 64, "mpp": self.mpp}

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> list[TileCells]:
        if self.calls == self.fail_at:
            raise self.error
        self.calls += 1
        self.tiles_seen += len(tiles)
        return [self._find(tile) for tile in tiles]

    def _find(self, tile: NDArray[np.uint8]) -> TileCells:
        assert tile.dtype == np.uint8
        assert tile.shape[2] == 3
        labels, n = ndimage.label(tile[..., 1] < 110)
        slices = ndimage.find_objects(labels)
        boxes = np.array([(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in slices], np.float32).reshape(-1, 4)
        colour = np.array([tile[s][labels[s] == i + 1].mean(0) for i, s in enumerate(slices)]).reshape(-1, 3)
        red = np.where(colour[:, 0] > colour[:, 2], 0.75, 0.125)
        probabilities = np.stack([red, 0.875 - red, np.full(n, 0.125)], 1).astype(np.float32)
        size = boxes[:, 2:] - boxes[:, :2]
        embeddings = np.concatenate([size, colour[:, :2] / 255], 1).astype(np.float16)
        return TileCells(boxes, np.full(n, 0.9, np.float32), probabilities, embeddings)
