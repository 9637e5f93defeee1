"""Many images as if they were a list: decoded when asked for, and what can be told of them without that.

A list of ``Sample`` holds every image; a million patches do not fit. What training has to know beforehand (areas, which
cells have a type) is therefore asked of the sequence, not of its images.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import overload

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import Sample
from celldetr.data.tiling import pieces


class LazySamples(Sequence[Sample]):
    """Samples that are made one by one. What is asked for is not kept."""

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


class Converted(LazySamples):
    """Samples to each of which something is done when it is asked for.

    Args:
        source: the samples.
        convert: what is done; it must leave the number of cells as it is.
        zoom: what becomes of the sides of an image.
        keeps_labels: whether a cell can have a type afterwards.
        relabel: what ``convert`` makes of the types of an image; None: it is asked, which decodes the image.
    """

    def __init__(
        self,
        source: LazySamples,
        convert: Callable[[Sample], Sample],
        zoom: float = 1.0,
        *,
        keeps_labels: bool = True,
        relabel: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
    ) -> None:
        self._source, self._convert, self._zoom, self._keeps = source, convert, zoom, keeps_labels
        self._relabel = relabel

    def __len__(self) -> int:
        return len(self._source)

    def sample(self, index: int) -> Sample:
        """See ``LazySamples``."""
        return self._convert(self._source.sample(index))

    def areas(self) -> NDArray[np.float64]:
        """See ``LazySamples``; of the zoomed images, whatever rounding makes of their sides."""
        return self._source.areas() * self._zoom**2

    def labels(self, index: int) -> NDArray[np.int64]:
        """See ``LazySamples``."""
        return self.sample(index).types if self._relabel is None else self._relabel(self._source.labels(index))

    @property
    def may_have_labels(self) -> bool:
        """See ``LazySamples``."""
        return self._keeps and self._source.may_have_labels

    @property
    def has_cells(self) -> bool:
        """See ``LazySamples``."""
        return self._source.has_cells


class Joined(LazySamples):
    """Sequences of samples, lazy or not, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _find(self, index: int) -> tuple[Sequence[Sample], int]:
        part = bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)

    def sample(self, index: int) -> Sample:
        """See ``LazySamples``."""
        part, place = self._find(index)
        return part[place]

    def areas(self) -> NDArray[np.float64]:
        """See ``LazySamples``."""
        return np.concatenate([areas(part) for part in self._parts])

    def labels(self, index: int) -> NDArray[np.int64]:
        """See ``LazySamples``."""
        part, place = self._find(index)
        return part.labels(place) if isinstance(part, LazySamples) else part[place].types

    @property
    def may_have_labels(self) -> bool:
        """See ``LazySamples``."""
        return any(not isinstance(part, LazySamples) or part.may_have_labels for part in self._parts)

    @property
    def has_cells(self) -> bool:
        """See ``LazySamples``."""
        return any(map(has_cells, self._parts))

    @property
    def parts(self) -> list[Sequence[Sample]]:
        """What is joined."""
        return self._parts


class Pieces(LazySamples):
    """Squares cut from images that are all of one size, such as the patches of a set; see ``celldetr.data.tiling``.

    Args:
        source: the images, at least one.
        size: side of a piece, px.
    """

    def __init__(self, source: LazySamples, size: int) -> None:
        self._source, self._size = source, size
        height, width = source[0].image.shape[:2]
        self._each = -(-height // size) * -(-width // size)
        self._last: tuple[int, list[Sample]] = (-1, [])  # pieces are asked for in their order: an image is decoded once

    def __len__(self) -> int:
        return len(self._source) * self._each

    def sample(self, index: int) -> Sample:
        """See ``LazySamples``."""
        image, place = divmod(index, self._each)
        if self._last[0] != image:
            self._last = image, list(pieces(self._source[image], self._size))
        return self._last[1][place]

    def areas(self) -> NDArray[np.float64]:
        """See ``LazySamples``."""
        return np.full(len(self), float(self._size**2))

    def labels(self, index: int) -> NDArray[np.int64]:
        """See ``LazySamples``."""
        return self.sample(index).types

    @property
    def may_have_labels(self) -> bool:
        """See ``LazySamples``."""
        return self._source.may_have_labels

    @property
    def has_cells(self) -> bool:
        """See ``LazySamples``."""
        return self._source.has_cells


def in_pieces(samples: Sequence[Sample], size: int) -> Sequence[Sample]:
    """Images cut into squares of ``size`` px: at once where they are in memory, else when a piece is asked for."""
    if isinstance(samples, Joined):
        return join([in_pieces(part, size) for part in samples.parts])
    if isinstance(samples, LazySamples):
        return Pieces(samples, size)
    return [piece for sample in samples for piece in pieces(sample, size)]


def join(parts: Sequence[Sequence[Sample]]) -> Sequence[Sample]:
    """Sequences of samples as one: a list where all are lists."""
    if any(isinstance(part, LazySamples) for part in parts):
        return Joined(parts)
    return [sample for part in parts for sample in part]


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
    if isinstance(samples, Joined):
        return np.concatenate([typed_cells(part) for part in samples.parts])
    if isinstance(samples, LazySamples):
        if not samples.may_have_labels:
            return np.zeros(len(samples), dtype=np.int64)
        return np.array([(samples.labels(i) >= 0).sum() for i in range(len(samples))], dtype=np.int64)
    return np.array([(sample.types >= 0).sum() for sample in samples], dtype=np.int64)


def type_counts(samples: Sequence[Sample], types: int) -> NDArray[np.int64]:
    """(types,) cells of each type."""
    if isinstance(samples, Joined):
        return np.sum([type_counts(part, types) for part in samples.parts], axis=0, dtype=np.int64)
    counts = np.zeros(types, dtype=np.int64)
    if isinstance(samples, LazySamples):
        if samples.may_have_labels:
            for index in range(len(samples)):
                labels = samples.labels(index)
                counts += np.bincount(labels[labels >= 0], minlength=types)
    else:
        for sample in samples:
            counts += np.bincount(sample.types[sample.types >= 0], minlength=types)
    return counts
