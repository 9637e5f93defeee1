"""The one sample type: an image and its labelled nuclei, whatever format they came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1  # type of a nucleus whose type is not known: it trains detection, not typing


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: unique within its dataset.
        image: (H, W, 3) uint8 RGB.
        mpp: micrometres per pixel of ``image``.
        boxes: (N, 4) float32, absolute xyxy in pixels of ``image``, x right, y down.
        types: (N,) int64 index into ``type_names``, or ``UNKNOWN``.
        type_names: names of the types, shared by all samples of a dataset.
        points: (N, 2) float32 (x, y), the annotated centre of each nucleus: the point where points are what was
            annotated, else the centre of the true box. Evaluation measures distances to these.
        group: what must not be split between training and test (a patient, usually).
        tissue: what the image is of, in sets of several tissues, which are then also scored apart; "" where not told.
        derived_boxes: whether ``boxes`` were found in the image around annotated points, rather than annotated.
    """

    name: str
    image: NDArray[np.uint8]
    mpp: float
    boxes: NDArray[np.float32]
    types: NDArray[np.int64]
    type_names: tuple[str, ...]
    points: NDArray[np.float32]
    group: str = field(default="")
    tissue: str = field(default="")
    derived_boxes: bool = field(default=False)

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"{self.name}: image must be (H, W, 3) uint8, got {self.image.shape} {self.image.dtype}")
        if self.boxes.shape != (n, 4) or self.types.shape != (n,) or self.points.shape != (n, 2):
            shapes = f"boxes {self.boxes.shape}, types {self.types.shape} and points {self.points.shape}"
            raise ValueError(f"{self.name}: {shapes} disagree")

    def __len__(self) -> int:
        return len(self.boxes)
