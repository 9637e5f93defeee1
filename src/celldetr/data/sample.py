"""The one sample type, an image and its labelled nuclei, whatever format they came from; and sequences of samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from celldetr.data.spots import Spots

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
        tissue: what the image is of, in sets of several tissues, which are then also scored apart; "" if unknown.
        derived_boxes: whether ``boxes`` were found in the image around annotated points, rather than annotated.
        confidence: (N,) float32 in [0, 1], how sure each type is, which is what the cell weighs when types are
            learned; None: all alike.
        spots: compositions of groups of nuclei; None: there are none.
        identities: (N,) int64, a number of each nucleus that no other nucleus of the training data has, by which it is
            recognised in several crops of its image; None: not numbered.
        digest: of the pixels as they were read, by which an image is recognised in other data; "": not computed.
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
    confidence: NDArray[np.float32] | None = field(default=None)
    spots: Spots | None = field(default=None)
    identities: NDArray[np.int64] | None = field(default=None)
    digest: str = field(default="")

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
        """The sample with some of its nuclei.

        Args:
            which: (N,) mask.
            changes: other fields; ``boxes`` and ``points`` are of all N nuclei still.
        """
        boxes, points = (changes.pop(name, getattr(self, name)) for name in ("boxes", "points"))
        return replace(
            self,
            boxes=boxes[which],
            types=self.types[which],
            points=points[which],
            confidence=None if self.confidence is None else self.confidence[which],
            spots=None if self.spots is None else self.spots.keep(which),
            identities=None if self.identities is None else self.identities[which],
            **changes,
        )


class LazySamples(Sequence[Sample]):
    """Samples that are decoded when they are asked for, and not kept: a million patches do not fit into memory.

    What training has to know of all images beforehand it asks of the sequence.
    """

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """The sample at ``index``, 0 <= index < len(self)."""

    @abstractmethod
    def areas(self) -> NDArray[np.float64]:
        """(N,) square px of each image."""

    @abstractmethod
    def labels(self, index: int) -> NDArray[np.int64]:
        """(n,) types of the cells of one image, without decoding it."""

    @property
    @abstractmethod
    def may_have_labels(self) -> bool:
        """Whether any cell can have a type; False spares asking each image."""

    @property
    @abstractmethod
    def has_cells(self) -> bool:
        """Whether there is a cell at all."""

    def typed_cells(self) -> NDArray[np.int64]:
        """(N,) cells of known type of each image."""
        if not self.may_have_labels:
            return np.zeros(len(self), dtype=np.int64)
        return np.array([(self.labels(i) >= 0).sum() for i in range(len(self))], dtype=np.int64)

    def type_counts(self, types: int) -> NDArray[np.int64]:
        """(types,) cells of each type."""
        if not self.may_have_labels:
            return np.zeros(types, dtype=np.int64)
        return np.sum([_count(self.labels(i), types) for i in range(len(self))], axis=0, dtype=np.int64)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.sample(i) for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.sample(place)


def areas(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """(N,) square px of each image."""
    if isinstance(samples, LazySamples):
        return samples.areas()
    return np.array([sample.image.shape[0] * sample.image.shape[1] for sample in samples], dtype=np.float64)


def has_cells(samples: Sequence[Sample]) -> bool:
    """Whether there is a cell at all."""
    return samples.has_cells if isinstance(samples, LazySamples) else any(len(sample) for sample in samples)


def typed_cells(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """(N,) cells of known type of each image."""
    if isinstance(samples, LazySamples):
        return samples.typed_cells()
    return np.array([(sample.types >= 0).sum() for sample in samples], dtype=np.int64)


def type_counts(samples: Sequence[Sample], types: int) -> NDArray[np.int64]:
    """(types,) cells of each type."""
    if isinstance(samples, LazySamples):
        return samples.type_counts(types)
    counts = np.zeros(types, dtype=np.int64)
    for sample in samples:
        counts += _count(sample.types, types)
    return counts


def _count(labels: NDArray[np.int64], types: int) -> NDArray[np.int64]:
    return np.bincount(labels[labels >= 0], minlength=types)
