"""Inverted lists of faiss: the part of an index that is made and read by the library.

Vectors lie in lists by the nearest of some centroids, as float16; a search looks through the lists whose centroids are
nearest. Lists of one slide are one memory-mapped file (a segment). Segments share their centroids and do not hold them,
so a slide is added without touching the others. ``benchmarks/neighbour_index.py`` compares this with other libraries.

A segment is read by C++ code from a file that may be from anywhere. Its size must be what its rows, lists and vectors
need, and what faiss has read is compared with the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, install

EXTRA = "search"
MOST_LISTS = 8192
POINTS_A_LIST = 64  # of the sample that centroids are made from
ITERATIONS = 10
LEAST_PROBES = 16
PROBED = 32  # one of so many lists is looked through
HEADER = 65_536  # bytes of a segment besides vectors, rows and lists, at most
FLOAT16, ROW = 2, 8  # bytes
NONE = -1  # row of a neighbour that there is not
REMEDY = "make it anew with celldetr index (`overwrite=True`)"


def faiss_module() -> Any:
    """faiss.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(
            f"this needs faiss, which is not installed: {install(EXTRA)}; `exact=True` works without"
        ) from None
    return faiss


def lists_for(count: int) -> int:
    """Number of lists for ``count`` vectors."""
    return max(1, min(MOST_LISTS, count // 39, round(2 * math.sqrt(count))))


def probes_for(lists: int) -> int:
    """How many of ``lists`` are looked through, where these hold enough."""
    return min(lists, max(LEAST_PROBES, -(-lists // PROBED)))


def train(sample: NDArray[np.float32], lists: int, seed: int) -> NDArray[np.float32]:
    """(lists, d) unit centroids of (n, d) unit vectors, by spherical k-means."""
    kmeans = faiss_module().Kmeans(
        sample.shape[1],
        lists,
        niter=ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_A_LIST,
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids, dtype=np.float32)


def quantizer_of(centroids: NDArray[np.float32]) -> Any:
    """The faiss index of (lists, d) centroids."""
    quantizer = faiss_module().IndexFlatIP(centroids.shape[1])
    quantizer.add(np.ascontiguousarray(centroids))
    return quantizer


def make_lists(quantizer: Any, blocks: Iterable[tuple[int, NDArray[np.float32]]]) -> Any:
    """The faiss index of vectors, given block by block with the number of the first, in the lists of a quantizer."""
    faiss = faiss_module()
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, quantizer.d, quantizer.ntotal, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.train(quantizer.reconstruct_n(0, 1))  # only marks it as trained
    for start, vectors in blocks:
        index.add_with_ids(np.ascontiguousarray(vectors), np.arange(start, start + len(vectors)))
    return index


def write_lists(quantizer: Any, blocks: Iterable[tuple[int, NDArray[np.float32]]], path: Path) -> None:
    """Write a segment, without the centroids."""
    faiss = faiss_module()
    index = make_lists(quantizer, blocks)
    index.quantizer = faiss.IndexFlatIP(index.d)
    faiss.write_index(index, str(path))


def read_lists(path: Path, rows: int, dim: int, lists: int) -> Any:
    """Open a segment, memory-mapped where the system can; it must hold ``rows`` vectors of length ``dim`` in ``lists``.

    Raises:
        InputError: it is missing, damaged, or of something else.
    """
    faiss = faiss_module()
    if not path.is_file():
        raise damaged(path, "missing")
    least, size = rows * (FLOAT16 * dim + ROW), path.stat().st_size
    if not least <= size <= least + 2 * ROW * lists + HEADER:
        raise damaged(path, f"of {size:,} bytes, {rows:,} cells need {least:,}")
    if hasattr(faiss, "set_deserialization_vector_byte_limit"):
        faiss.set_deserialization_vector_byte_limit(size)
    try:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError:  # where faiss has no memory mapping (Windows), or the file is damaged
            index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise damaged(path, str(error).splitlines()[0][-80:]) from None
    if not isinstance(index, faiss.IndexIVFScalarQuantizer) or not _fits(faiss, index, rows, dim, lists):
        raise damaged(path, "of other vectors")
    return index


def _fits(faiss: Any, index: Any, rows: int, dim: int, lists: int) -> bool:
    quantizer = faiss.downcast_index(index.quantizer)
    return bool(
        (index.ntotal, index.d, index.nlist, index.code_size) == (rows, dim, lists, FLOAT16 * dim)
        and index.metric_type == faiss.METRIC_INNER_PRODUCT
        and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        and (index.sq.d, index.sq.code_size) == (dim, FLOAT16 * dim)
        and not index.by_residual
        and isinstance(quantizer, faiss.IndexFlat)
        and (quantizer.ntotal, quantizer.d) == (0, dim)
        and (index.invlists.nlist, index.invlists.code_size) == (lists, FLOAT16 * dim)
        and index.invlists.compute_ntotal() == rows
    )


def damaged(path: Path, what: str) -> InputError:
    """The error of a file that does not fit."""
    return InputError(f"{path}: is damaged or not of this index ({what}); {REMEDY}")


def nearest_lists(quantizer: Any, queries: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
    """(Q, probes) the lists nearest to each of (Q, d) queries."""
    return np.asarray(quantizer.search(np.ascontiguousarray(queries), probes)[1])


def search_lists(
    index: Any, queries: NDArray[np.float32], k: int, lists: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Q, k) similarities, falling, and rows among those in each query's ``lists`` (Q, probes); ``NONE`` where there
    are no more."""
    index.nprobe = lists.shape[1]
    # Similarities to centroids are used for residual codes only, which these are not.
    zeros = np.zeros(lists.shape, np.float32)
    similarity, rows = index.search_preassigned(
        np.ascontiguousarray(queries), min(k, index.ntotal), np.ascontiguousarray(lists), zeros
    )
    return similarity, rows
