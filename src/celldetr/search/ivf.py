"""Inverted lists of faiss: the part of an index that is made and read by the library.

Vectors lie in lists by the nearest of some centroids, as float16; a search looks through the lists whose centroids are
nearest. Lists of one slide are one file (a segment), which is memory-mapped. Segments share their centroids, so a slide
is added without touching the others; a segment does not hold them, and which lists are nearest is asked once for all.
``benchmarks/neighbour_index.py`` compares this with graphs and other libraries.

A segment is read by C++ code from a file that may be from anywhere. Its size must be what its rows, lists and vectors
need, faiss is given that as the most it may read at once, what it has read is compared with the manifest, and rows that
it names are checked before they are used.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, install

if TYPE_CHECKING:
    from collections.abc import Iterable

EXTRA = "search"
MOST_LISTS = 8192
POINTS_A_LIST = 64  # of the sample that centroids are made from
ITERATIONS = 10
LEAST_PROBES = 16
PROBED = 32  # one of so many lists is looked through
HEADER = 65_536  # bytes of a segment besides vectors, rows and lists, at most
FLOAT16, ROW = 2, 8  # bytes


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
    """How many lists ``count`` vectors are shared out among."""
    return max(1, min(MOST_LISTS, count // 39, round(2 * math.sqrt(count))))


def probes_for(lists: int) -> int:
    """How many of ``lists`` are looked through, where these hold enough."""
    return min(lists, max(LEAST_PROBES, -(-lists // PROBED)))


def train(sample: NDArray[np.float32], lists: int, seed: int) -> NDArray[np.float32]:
    """(lists, d) unit centroids of (n, d) unit vectors, by spherical k-means."""
    faiss = faiss_module()
    kmeans = faiss.Kmeans(
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
    """What says which of (lists, d) centroids are nearest to a vector."""
    quantizer = faiss_module().IndexFlatIP(centroids.shape[1])
    quantizer.add(np.ascontiguousarray(centroids))
    return quantizer


def make_lists(quantizer: Any, blocks: Iterable[tuple[int, NDArray[np.float32]]]) -> Any:
    """An index of vectors that come in blocks, under their row numbers, in the lists of ``quantizer_of``."""
    faiss = faiss_module()
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, quantizer.d, quantizer.ntotal, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.train(quantizer.reconstruct_n(0, 1))  # only says that nothing is left to learn
    for start, vectors in blocks:
        index.add_with_ids(np.ascontiguousarray(vectors), np.arange(start, start + len(vectors)))
    return index


def write_lists(index: Any, path: Path) -> None:
    """Write a segment. The index forgets its centroids by that."""
    faiss = faiss_module()
    index.quantizer = faiss.IndexFlatIP(index.d)
    faiss.write_index(index, str(path))


def read_lists(path: Path, rows: int, dim: int, lists: int) -> Any:
    """Open a segment, memory-mapped where the system can.

    Args:
        path: the file.
        rows: that it must hold.
        dim: length of its vectors.
        lists: that these must be in.

    Raises:
        InputError: it is missing, damaged, or of something else.
    """
    faiss = faiss_module()
    least = rows * (FLOAT16 * dim + ROW)
    size = path.stat().st_size if path.is_file() else -1
    if not least <= size <= least + 2 * ROW * lists + HEADER:
        raise InputError(
            _damaged(path, f"of {size:,} bytes, {rows:,} cells need {least:,}" if size >= 0 else "missing")
        )
    if hasattr(faiss, "set_deserialization_vector_byte_limit"):
        faiss.set_deserialization_vector_byte_limit(size)
    try:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError:  # where faiss has no memory mapping (Windows), or the file is damaged
            index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise InputError(_damaged(path, str(error).splitlines()[0][-80:])) from None
    if not isinstance(index, faiss.IndexIVFScalarQuantizer) or not _fits(faiss, index, rows, dim, lists):
        raise InputError(_damaged(path, "of other vectors"))
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


def _damaged(path: Path, what: str) -> str:
    return f"{path}: is damaged or not of this index ({what}); make it anew (celldetr index, `overwrite=True`)"


def nearest_lists(quantizer: Any, queries: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
    """(Q, probes) the lists nearest to each of (Q, d) queries."""
    return np.asarray(quantizer.search(np.ascontiguousarray(queries), probes)[1])


def search_lists(
    index: Any, path: Path, rows: int, queries: NDArray[np.float32], k: int, lists: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Q, k) similarities, falling, and rows among those in each query's ``lists`` (Q, probes); -1 where there are no
    more.

    Raises:
        InputError: the segment names rows that its table does not have.
    """
    index.nprobe = lists.shape[1]
    queries, lists = np.ascontiguousarray(queries), np.ascontiguousarray(lists)
    # Similarities to centroids are used where vectors are stored as what differs from them, which they are not.
    similarity, found = index.search_preassigned(queries, min(k, rows), lists, np.zeros(lists.shape, np.float32))
    if found.size and not -1 <= found.min() <= found.max() < rows:
        raise InputError(_damaged(path, "it names cells that the table does not have"))
    return similarity, found
