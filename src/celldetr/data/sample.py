"""A labelled image (``Sample``), and sequences of samples that do not fit into memory (``LazySamples``)."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, Self, overload

import numpy as np
from numpy.typing import NDArray

from celldetr.data.masks import Masks
from celldetr.data.spots import Spots

UNKNOWN = -1  # type of a nucleus that trains detection and not typing


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
        points: (N, 2) float32 (x, y), the annotated point of each nucleus, or the centre of its annotated box;
            evaluation measures distances to these.
        group: patient or slide, which must not be split between training and test.
        tissue: organ, in sets of several, which evaluation also scores apart; "" if unknown.
        derived_boxes: whether ``boxes`` were derived from annotated points (``data.pseudo_boxes``).
        confidence: (N,) float32 in [0, 1], weight of each cell in the type loss; None: 1.
        spots: compositions of groups of nuclei; None: there are none.
        identities: (N,) int64, number of each nucleus, the same in all crops of its image and different between
            nuclei of the training data; None: not numbered.
        outlines: (N, ``RADII``, 2) float32, points (x, y) on the border of each nucleus in pixels of ``image``
            (``celldetr.outlines``), NaN where a nucleus has none; None: there are none.
        masks: of the nuclei; None: there are none, or they were not asked for (``data.sources.load_samples``).
        digest: of the pixels as they were read, by which an image is recognised in other data; "": not computed.
    """

    name: str
    image: NDArray[np.uint8]
    mpp: float
    boxes: NDArray[np.float32]
    types: NDArray[np.int64]
    type_names: tuple[str, ...]
    points: NDArray[np.float32]
    group: str = ""
    tissue: str = ""
    derived_boxes: bool = False
    confidence: NDArray[np.float32] | None = None
    spots: Spots | None = None
    identities: NDArray[np.int64] | None = None
    outlines: NDArray[np.float32] | None = None
    masks: Masks | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"{self.name}: image must be (H, W, 3) uint8, got {self.image.shape} {self.image.dtype}")
        if self.boxes.shape != (n, 4) or self.types.shape != (n,) or self.points.shape != (n, 2):
            shapes = f"boxes {self.boxes.shape}, types {self.types.shape} and points {self.points.shape}"
            raise ValueError(f"{self.name}: {shapes} disagree")
        if self.confidence is not None and self.confidence.shape != (n,):
            raise ValueError(f"{self.name}: {n} nuclei and confidences {self.confidence.shape} disagree")
        spots = self.spots
        if spots is not None and (len(spots.of) != n or spots.compositions.shape[1] != len(self.type_names)):
            raise ValueError(
                f"{self.name}: {n} nuclei of {len(self.type_names)} types, spots of {len(spots.of)} nuclei and"
                f" {spots.compositions.shape[1]} types"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def keep(self, which: NDArray[np.bool_], **changes: Any) -> Self:
        """The sample with the nuclei of a mask (N,).

        Args:
            which: the mask.
            changes: other fields; ``boxes``, ``points``, ``outlines`` and ``masks`` are of all N nuclei.
        """
        boxes, points, outlines, masks = (
            changes.pop(name, getattr(self, name)) for name in ("boxes", "points", "outlines", "masks")
        )
        return replace(
            self,
            boxes=boxes[which],
            types=self.types[which],
            points=points[which],
            confidence=None if self.confidence is None else self.confidence[which],
            spots=None if self.spots is None else self.spots.keep(which),
            identities=None if self.identities is None else self.identities[which],
            outlines=None if outlines is None else outlines[which],
            masks=None if masks is None else masks.keep(which),
            **changes,
        )

    def moved(self, image: NDArray[np.uint8], scale: NDArray[np.floating], shift: NDArray[np.floating]) -> Self:
        """The cells in another image, whose pixels (x, y) are ``scale * (x, y) + shift``: those with their point in it.

        Boxes are clipped to the image, outlines are not.
        """
        points = (self.points * scale + shift).astype(np.float32)  # before it is compared: rounding may reach the edge
        boxes = self.boxes * np.tile(scale, 2) + np.tile(shift, 2)
        outlines = None if self.outlines is None else (self.outlines * scale + shift).astype(np.float32)
        masks = None if self.masks is None else self.masks.moved(scale, shift, image.shape)
        size = np.array(image.shape[1::-1])
        boxes = np.clip(boxes, 0, np.tile(size, 2))
        inside = np.asarray(((points >= 0) & (points < size)).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
        boxes = boxes.astype(np.float32)
        return self.keep(inside, image=image, boxes=boxes, points=points, outlines=outlines, masks=masks)


class LazySamples(Sequence[Sample]):
    """Samples that are decoded when they are asked for, and not held: a million patches do not fit into memory.

    Args:
        load: decodes the sample at an index.
        counts: (N, K + 1) cells of each type in each image; the last column counts those of unknown type.
        areas: (N,) square px of each image.
    """

    def __init__(self, load: Callable[[int], Sample], counts: NDArray[np.int64], areas: NDArray[np.float64]) -> None:
        self._load, self.counts, self.areas = load, counts, areas

    def __len__(self) -> int:
        return len(self.areas)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        places = range(len(self))[index]
        return self._load(places) if isinstance(places, int) else [self._load(place) for place in places]

    def map(
        self, convert: Callable[[Sample], Sample], counts: NDArray[np.int64] | None = None, zoom: float = 1.0
    ) -> LazySamples:
        """Convert each sample when it is asked for.

        Args:
            convert: a function that workers can unpickle; it keeps the number of cells.
            counts: (N, K + 1) of the converted samples, if their types differ.
            zoom: factor by which the sides of the images change.
        """
        load = partial(_load_converted, self._load, convert)
        return LazySamples(load, self.counts if counts is None else counts, self.areas * zoom**2)


def join(sources: Sequence[Sequence[Sample]]) -> Sequence[Sample]:
    """Join sequences of samples of the same types: a list if all of them are in memory, else ``LazySamples``."""
    if not any(isinstance(source, LazySamples) for source in sources):
        return [sample for source in sources for sample in source]
    filled = [source for source in sources if len(source)]
    ends = list(accumulate(map(len, filled)))
    counts, sizes = (np.concatenate(list(map(of, filled))) for of in (cell_counts, areas))
    return LazySamples(partial(_load_joined, filled, ends), counts, sizes)


def areas(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """(N,) square px of each image."""
    if isinstance(samples, LazySamples):
        return samples.areas
    return np.array([sample.image.shape[0] * sample.image.shape[1] for sample in samples], dtype=np.float64)


def cell_counts(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """(N, K + 1) cells of each type in each image; the last column counts those of unknown type."""
    if isinstance(samples, LazySamples):
        return samples.counts
    kinds = len(samples[0].type_names) + 1 if samples else 1
    rows = [count_types(sample.types, kinds) for sample in samples]
    return np.array(rows, dtype=np.int64).reshape(-1, kinds)


def image_digest(image: NDArray[np.uint8]) -> str:
    """64 bits of the SHA-256 of shape and pixels, in hexadecimal."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


class Grouped(Protocol):
    """A labelled image with a patient, ``group``."""

    @property
    def name(self) -> str:
        """Unique within its data set."""

    @property
    def group(self) -> str:
        """The patient."""


def patients(images: Sequence[Grouped]) -> set[str]:
    """Groups that are more than an image's own name, which two folders may use for two images."""
    return {image.group for image in images if image.group not in ("", image.name)}


def count_types(types: NDArray[np.integer], kinds: int) -> NDArray[np.int64]:
    """(kinds,) cells of each type; the last entry counts those of type ``UNKNOWN``."""
    return np.bincount(types % kinds, minlength=kinds)  # -1 % kinds is the last


def _load_converted(load: Callable[[int], Sample], convert: Callable[[Sample], Sample], index: int) -> Sample:
    return convert(load(index))


def _load_joined(parts: Sequence[Sequence[Sample]], ends: Sequence[int], index: int) -> Sample:
    part = bisect_right(ends, index)
    return parts[part][index - (ends[part - 1] if part else 0)]
