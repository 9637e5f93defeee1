"""The cell table of a slide, opened for those who only read it: exports, pictures, the summary.

A slide can have millions of cells, so nothing here loads a whole table: columns are streamed by record batches, and
only the columns asked for. Type names and their order come from the ``p_<type>`` columns, because a table in which a
type never occurs must still know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER, cluster_name, clusters_about, read_clusters
from celldetr.cells.schema import embedding_matrix, provenance_of, types_of
from celldetr.cells.store import RUN, cells_path, check_table, table_errors
from celldetr.errors import InputError
from celldetr.io.files import read_json

BOX = ("x_px", "y_px", "w_px", "h_px")
REQUIRED = ("cell_id", *BOX, "x_um", "y_um", "score", "type", "type_score", "embedding")
NEVER_EMPTY = ("cell_id", "embedding")
BATCH_ROWS = 32_768
LARGEST_MPP = 1e6  # beyond it is no resolution


@dataclass(frozen=True)
class CellTable:
    """A table of cells on disk and what is known about its run.

    Attributes:
        path: the Parquet file.
        run: provenance, the content of ``run.json``; less of it if there is none beside the table.
        slide: name of the slide without its folders; identifies a cell together with ``cell_id``.
        mpp: micrometres per pixel of level 0 (its square is the area of a pixel), or None where the run does not say.
        types: names of the K types in the order of the model.
        columns: all names in the table, and ``cluster`` if ``celldetr cluster`` has been over it.
        embedding_dim: d, the length of an embedding.
        count: number of cells.
        clusters: number of clusters; 0 without.
    """

    path: Path
    run: dict[str, Any]
    slide: str
    mpp: float | None
    types: tuple[str, ...]
    columns: tuple[str, ...]
    embedding_dim: int
    count: int
    clusters: int = 0

    @property
    def mpp_xy(self) -> tuple[float, float] | None:
        """Micrometres per pixel of level 0 along x and y, or None where the run does not say."""
        x, y = self.run.get("mpp_x"), self.run.get("mpp_y")
        if isinstance(x, int | float) and isinstance(y, int | float) and 0 < min(x, y) <= max(x, y) < LARGEST_MPP:
            return float(x), float(y)
        return None if self.mpp is None else (self.mpp, self.mpp)

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Stream ``columns`` in the order of the table, at most ``rows`` cells at a time."""
        joined = read_clusters(self.path, self.count) if CLUSTER in columns and self.clusters else None
        stored = [name for name in columns if joined is None or name != CLUSTER] or ["cell_id"]
        read = 0
        with table_errors(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=stored):
                empty = [name for name in NEVER_EMPTY if name in stored and batch.column(name).null_count]
                if empty:
                    raise InputError(
                        f"{self.path}: a cell has no {empty[0]}; write the table again with celldetr predict"
                    )
                read += len(batch)
                if read > self.count:
                    break
                if joined is not None:
                    batch = batch.append_column(CLUSTER, pa.array(joined[read - len(batch) : read]))
                yield batch.select(list(columns))
            if read != self.count:
                raise InputError(f"{self.path}: claims {self.count:,} cells and holds others; the file is damaged")

    def type_codes(self, batch: pa.RecordBatch) -> NDArray[np.intp]:
        """(N,) index into ``types`` of each cell of a batch.

        Raises:
            InputError: the table has a type without a ``p_<type>`` column.
        """
        column = batch.column("type")
        # Each row group has its own dictionary: its codes mean nothing outside it.
        encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        names = encoded.dictionary.to_pylist()
        unknown = [name for name in names if name not in self.types]
        if encoded.null_count or unknown:
            what = "a cell without a type" if encoded.null_count else f"type {unknown[0]!r}, which has no p_ column"
            raise InputError(f"{self.path}: holds {what}; write the table again with celldetr predict")
        lookup = np.array([self.types.index(name) for name in names], dtype=np.intp)
        if not len(names):
            return np.zeros(len(batch), dtype=np.intp)
        return lookup[np.asarray(encoded.indices)]


class ClusteredTable(CellTable):
    """A cell table in which clusters stand in for types, for what draws, counts and classifies by type."""

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """As of ``CellTable``; ``type`` holds the number of the cluster."""
        read = list(dict.fromkeys(CLUSTER if name == "type" else name for name in columns))
        for batch in super().batches(read, rows):
            yield pa.RecordBatch.from_arrays(
                [batch.column(CLUSTER if name == "type" else name) for name in columns], names=list(columns)
            )

    def type_codes(self, batch: pa.RecordBatch) -> NDArray[np.intp]:
        """(N,) cluster of each cell of a batch."""
        return np.asarray(batch.column("type"), dtype=np.intp)


def by_cluster(table: CellTable) -> ClusteredTable:
    """The same cells with their clusters in place of their types.

    Raises:
        InputError: there are no clusters.
    """
    if not table.clusters:
        raise InputError(f"{table.path}: has no clusters; make them with celldetr cluster")
    values = {field.name: getattr(table, field.name) for field in fields(CellTable)}
    return ClusteredTable(**values | {"types": tuple(cluster_name(i) for i in range(table.clusters))})


def numbers(batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """(N,) float64 values of a numeric column; null becomes NaN."""
    return np.asarray(batch.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def batch_embeddings(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """(N, d) float32 of the embedding column."""
    return embedding_matrix(pa.chunked_array([batch.column("embedding")])).astype(np.float32)


def _provenance(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """What the table says about its run, and ``run.json`` more of if it is still beside it."""
    return {**provenance_of(schema), **(read_json(path.parent / RUN) or {})}


def open_table(source: Path, *, clusters: bool = True) -> CellTable:
    """Open the cell table of a finished run.

    Args:
        source: the run directory of a slide (``OUT/<slide>``) or its ``cells.parquet``.
        clusters: join the clusters beside it.

    Raises:
        InputError: there is no table, it is not Parquet, it lacks a column, or its
            clusters are of another version of it.
    """
    path = cells_path(source)
    with table_errors(path):
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        check_table(path, metadata, schema)
    missing = [name for name in REQUIRED if name not in schema.names]
    if missing:
        raise InputError(f"{path}: not a cell table, it has no column {missing[0]!r}")
    kind = schema.field("embedding").type
    about = clusters_about(path) if clusters and CLUSTER not in schema.names else None
    run = _provenance(path, schema)
    mpp = run.get("mpp")
    return CellTable(
        path=path,
        run=run,
        slide=PurePosixPath(str(run.get("slide") or path.resolve().parent.name)).name.encode(errors="replace").decode(),
        mpp=float(mpp) if isinstance(mpp, int | float) and 0 < mpp < LARGEST_MPP else None,
        types=types_of(schema),
        columns=(*schema.names, *((CLUSTER,) if about and about["count"] else ())),
        embedding_dim=int(kind.list_size),
        count=metadata.num_rows,
        clusters=about["count"] if about else 0,
    )
