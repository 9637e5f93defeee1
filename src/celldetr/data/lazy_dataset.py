"""Sequences of samples on disk: converted, joined or cut into squares when a sample is asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import LazySamples, Sample, areas, has_cells, type_counts, typed_cells
from celldetr.data.tiling import pieces


class Converted(LazySamples):
    """Samples that are converted when they are asked for.

    Args:
        source: the samples.
        convert: the conversion of a sample; it must leave the number of cells as it is.
        zoom: by which it changes the sides of an image.
        keeps_labels: whether a cell can have a type afterwards.
        relabel: the same conversion of the types of an image alone; None: the image is decoded.
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

    def typed_cells(self) -> NDArray[np.int64]:
        """See ``LazySamples``."""
        return np.concatenate([typed_cells(part) for part in self._parts])

    def type_counts(self, types: int) -> NDArray[np.int64]:
        """See ``LazySamples``."""
        return np.sum([type_counts(part, types) for part in self._parts], axis=0, dtype=np.int64)

    @property
    def parts(self) -> list[Sequence[Sample]]:
        """The sequences."""
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
        return Joined([in_pieces(part, size) for part in samples.parts])
    if isinstance(samples, LazySamples):
        return Pieces(samples, size)
    return [piece for sample in samples for piece in pieces(sample, size)]
