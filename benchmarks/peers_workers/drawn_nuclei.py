"""Outputs that a trained network would give, drawn from boxes: what post-processing is fed where weights are random.

Random weights give maps without nuclei, or with thousands; both would time something else. Here every box holds an
ellipse, and the maps are the training targets of the respective method with a little noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Nuclei:
    """Ellipses on a tile of S pixels a side.

    Attributes:
        labels: (S, S) int32, 0 for background, i + 1 for box i; of overlapping ones the nearer centre.
        radius: (S, S) float32, distance from the centre as a part of the ellipse's: 0 at the centre, 1 on the outline.
        offset: (S, S, 2) float32, (x, y) from the centre of the nucleus, pixels; 0 outside.
        half: (N, 2) float32, half axes along x and y, pixels.
    """

    labels: np.ndarray
    radius: np.ndarray
    offset: np.ndarray
    half: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """(S, S, 2) offset in half axes, in [-1, 1]: the horizontal and vertical maps of HoVer-Net."""
        half = np.concatenate([np.ones((1, 2), np.float32), self.half])[self.labels]
        return (self.offset / half).astype(np.float32)


def draw(boxes: np.ndarray, size: int) -> Nuclei:
    """Nuclei from (N, 4) boxes, xyxy in pixels."""
    labels = np.zeros((size, size), np.int32)
    radius = np.full((size, size), np.inf, np.float32)
    offset = np.zeros((size, size, 2), np.float32)
    half = np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 2).astype(np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    for index, ((cx, cy), (a, b)) in enumerate(zip((boxes[:, :2] + boxes[:, 2:]) / 2, half, strict=True)):
        own = np.hypot((x - cx) / a, (y - cy) / b)
        inside = (own < 1) & (own < radius)
        labels[inside], radius[inside] = index + 1, own[inside]
        offset[inside] = np.stack([x - cx, y - cy], axis=-1)[inside]
    return Nuclei(labels, radius, offset, half)


def rays(nuclei: Nuclei, rows: np.ndarray, columns: np.ndarray, count: int) -> np.ndarray:
    """(M, count) distances in pixels from places inside nuclei to their outlines, in ``count`` directions from +x."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    half = nuclei.half[nuclei.labels[rows, columns] - 1][:, None]  # (M, 1, 2)
    start = nuclei.offset[rows, columns][:, None] / half
    step = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None] / half
    # |start + t step| = 1
    a, b, c = (step**2).sum(-1), (start * step).sum(-1), (start**2).sum(-1) - 1
    return ((-b + np.sqrt(b**2 - a * c)) / a).astype(np.float32)
