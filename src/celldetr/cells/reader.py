"""Read the cell table of a slide: ``open_table`` checks it, its columns are then streamed, picked by row or read whole.

Opening reads the schema only. Clusters that ``celldetr cluster`` has written beside it are joined as a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER, cluster_name, cluster_summary, read_clusters
from celldetr.cells.palette import RGB, parse_colour, type_colours
from celldetr.cells.schema import (
    CELLS,
    NULLABLE,
    RUN,
    TAUGHT_P,
    TAUGHT_SCORE,
    TAUGHT_TYPE,
    VERSION,
    check_columns,
    embedding_matrix,
    provenance_of,
    table_to_frame,
    taught_types_of,
    type_codes,
    types_of,
    version_of,
)
from celldetr.errors import InputError, near
from celldetr.io.files import read_json
from celldetr.io.parquet import parquet_errors
from celldetr.io.run_folder import FINISHED
from celldetr.io.safe_io import is_dir, is_file, slide_name

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS = 32_768


@dataclass(frozen=True)
class CellTable:
    """The cells of a slide on disk, see ``open_table``."""

    path: Path  # the Parquet file
    # content of ``run.json``; less of it, from the table's metadata, if there is none beside the table
    run: dict[str, Any]
    slide: str  # name of the slide without its folders
    name: str  # of the folder of its results; with ``cell_id`` it names a cell (``cell_names``)
    # micrometres per pixel of level 0 (its square is the area of a pixel), or None where the run does not say
    mpp: float | None
    types: tuple[str, ...]  # names of the K types in the order of the model, also of those that do not occur
    columns: tuple[str, ...]  # all names in the table, and ``cluster`` if ``celldetr cluster`` has been over it
    embedding_dim: int  # d, the length of an embedding
    count: int  # number of cells, N
    clusters: int = 0  # number of clusters; 0 without
    version: int = VERSION  # of the table (``celldetr.cells.schema``)

    @property
    def taught_types(self) -> tuple[str, ...]:
        """Names of the types that a head has given the cells (``celldetr retype``); empty without."""
        return taught_types_of(self.columns)

    @property
    def colours(self) -> dict[str, RGB]:
        """Colour of each of ``types``."""
        return type_colours(self.types)

    def cell_names(self, ids: Iterable[int]) -> list[str]:
        """Names of cells by their ``cell_id``, ``slide:cell_id``, which no cell of another slide of a cohort has."""
        return [f"{self.name}:{number}" for number in ids]

    def rows_of(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Positions in the table of the cells with these ``cell_id``. Raises InputError: there is no such cell."""
        known, wanted = self.read(["cell_id"])["cell_id"].to_numpy(), np.array(ids, dtype=np.int64)
        order = np.argsort(known, kind="stable")
        at = np.searchsorted(known, wanted, sorter=order)
        for number in wanted[known[order[np.minimum(at, len(known) - 1)]] != wanted] if len(known) else wanted:
            have = f"cell_id goes from {known.min()} to {known.max()}" if len(known) else "it has no cells"
            raise InputError(f"`cell={number}`: there is no such cell on slide {self.name!r}; {have}")
        return order[at]

    @property
    def mpp_xy(self) -> tuple[float, float] | None:
        """Micrometres per pixel of level 0 along x and y, or None where the run does not say."""
        if "mpp_x" in self.run:
            return float(self.run["mpp_x"]), float(self.run["mpp_y"])
        return None if self.mpp is None else (self.mpp, self.mpp)

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Stream ``columns`` in the order of the table, at most ``rows`` cells at a time."""
        stored = self._stored(columns)
        clusters = None if len(stored) == len(columns) else read_clusters(self.path)
        start = 0
        with parquet_errors(self.path):
            metadata = pq.read_metadata(self.path)
            for group in range(metadata.num_row_groups):
                # Opened anew: what was read of a mapped file counts as memory of the process until it is closed.
                with pq.ParquetFile(self.path, metadata=metadata, memory_map=True) as file:
                    for batch in file.iter_batches(rows, row_groups=[group], columns=stored or ["cell_id"]):
                        if clusters is not None:
                            batch = batch.append_column(CLUSTER, pa.array(clusters[start : start + len(batch)]))
                        start += len(batch)
                        yield batch.select(list(columns))

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """``columns`` of (n,) positions in the table, in this order; only the row groups that hold them are read."""
        stored = self._stored(columns)
        order = np.argsort(rows, kind="stable")
        parts = []
        with parquet_errors(self.path), pq.ParquetFile(self.path, memory_map=True) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            ends = np.searchsorted(rows, np.cumsum(sizes), sorter=order)
            for group, mine in enumerate(np.split(rows[order], ends[:-1])):
                if len(mine):
                    first = sum(sizes[:group])
                    parts.append(file.read_row_group(group, columns=stored).take(pa.array(mine - first)))
            empty = file.schema_arrow.empty_table().select(stored)
        table = pa.concat_tables([empty, *parts], promote_options="default").take(pa.array(np.argsort(order)))
        if len(stored) < len(columns):
            table = table.append_column(CLUSTER, pa.array(read_clusters(self.path)[rows]))
        return table.select(list(columns))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Whole columns, all by default."""
        columns = self.columns if columns is None else columns
        stored = self._stored(columns)
        with parquet_errors(self.path):
            table = pq.read_table(self.path, columns=stored, memory_map=True)
        if len(stored) < len(columns):
            table = table.append_column(CLUSTER, pa.array(read_clusters(self.path)))
        return table.select(list(columns))

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Whole columns as pandas, see ``read_cells``."""
        return table_to_frame(self.read(columns), self.types, self.taught_types)

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """Those of ``columns`` that are in the file: all but clusters that are joined to it."""
        for name in columns:
            if name in self.columns:
                continue
            if name == CLUSTER:
                raise InputError(f"{self.path}: has no clusters; make them with celldetr cluster")
            if name in NULLABLE and self.version < VERSION:
                raise InputError(f"{self.path}: has no column {name!r}, it is of an older version; run predict again")
            raise InputError(f"{self.path}: has no column {name!r}; {near(name, self.columns)}")
        return [name for name in columns if name != CLUSTER or not self.clusters]

    @property
    def type_column(self) -> str:
        """Name of the column that is read as ``type``."""
        return "type"

    def type_codes(self, cells: pa.RecordBatch | pa.Table, column: str = "type") -> NDArray[np.intp]:
        """(N,) index into ``types`` of each cell of a batch, by a ``column`` that holds their names."""
        codes = type_codes(cells.column(column), self.types)
        if codes.null_count:
            unknown = cells.column(column).filter(codes.is_null())[0].as_py()
            raise InputError(
                f"{self.path}: holds type {unknown!r}, which has no p_ column; write it again with celldetr predict"
            )
        return np.asarray(codes, dtype=np.intp)


@dataclass(frozen=True)
class OtherTypes(CellTable):
    """A cell table in which clusters, or taught types, stand in for the model's types: ``types`` are their names."""

    instead: Mapping[str, str] = field(default_factory=dict)  # column -> the one that is read in its place
    shades: tuple[RGB, ...] = ()  # of ``types``; none: those of ``type_colours``

    @property
    def colours(self) -> dict[str, RGB]:
        """As of ``CellTable``."""
        return dict(zip(self.types, self.shades, strict=True)) if self.shades else super().colours

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """As of ``CellTable``, with the other columns under the names of those that they stand for."""
        read = [self.instead.get(name, name) for name in columns]
        for batch in super().batches(list(dict.fromkeys(read)), rows):
            yield pa.RecordBatch.from_arrays([batch.column(name) for name in read], names=list(columns))

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """As ``batches``."""
        read = [self.instead.get(name, name) for name in columns]
        return super().take(rows, list(dict.fromkeys(read))).select(read).rename_columns(list(columns))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """As ``batches``."""
        columns = self.columns if columns is None else columns
        read = [self.instead.get(name, name) for name in columns]
        return super().read(list(dict.fromkeys(read))).select(read).rename_columns(list(columns))

    @property
    def type_column(self) -> str:
        """As of ``CellTable``."""
        return self.instead["type"]

    def type_codes(self, cells: pa.RecordBatch | pa.Table, column: str = "type") -> NDArray[np.intp]:
        """As of ``CellTable``; clusters are numbers already."""
        if self.type_column == CLUSTER:
            return np.asarray(cells.column(column), dtype=np.intp)
        return super().type_codes(cells, column)


def by_cluster(table: CellTable) -> OtherTypes:
    """The same cells with their clusters in place of their types. Raises InputError: there are no clusters."""
    if not table.clusters:
        raise InputError(f"{table.path}: has no clusters; make them with celldetr cluster")
    return _with_types(table, [cluster_name(i) for i in range(table.clusters)], {"type": CLUSTER})


def by_taught(table: CellTable) -> CellTable:
    """The same cells with the types of the user's own head in place of the model's, where there are any."""
    names = table.taught_types
    if not names:
        return table
    instead = {"type": TAUGHT_TYPE, "type_score": TAUGHT_SCORE} | {f"p_{name}": f"{TAUGHT_P}{name}" for name in names}
    colours = table.run.get("head", {}).get("colours", ())
    return _with_types(table, names, instead, tuple(parse_colour(colour) for colour in colours))


def _with_types(
    table: CellTable, names: Sequence[str], instead: Mapping[str, str], shades: tuple[RGB, ...] = ()
) -> OtherTypes:
    values = {each.name: getattr(table, each.name) for each in fields(CellTable)}
    return OtherTypes(**values | {"types": tuple(names), "instead": instead, "shades": shades})


def numbers(batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """(N,) float64 values of a numeric column; null becomes NaN."""
    return np.asarray(batch.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def batch_embeddings(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """(N, d) float32 of the embedding column."""
    return embedding_matrix(pa.chunked_array([batch.column("embedding")])).astype(np.float32)


def open_table(path: Path | str, *, clusters: bool = True) -> CellTable:
    """Open the cell table of a finished run.

    Args:
        path: ``cells.parquet``, or the directory that holds it.
        clusters: join the clusters beside it.

    Raises:
        InputError: there is no table, the run is not finished, the file is truncated or no cell table, or its clusters
            are of another version of it.
    """
    path = _table_file(Path(path))
    with parquet_errors(path):
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    try:
        check_columns(schema)
    except ValueError as error:
        raise InputError(f"{path}: not a cell table, {error}") from None
    summary = cluster_summary(path) if clusters and CLUSTER not in schema.names else None
    run = provenance_of(schema) | (read_json(path.parent / RUN) or {})
    folder = path.resolve().parent.name
    return CellTable(
        path=path,
        run=run,
        slide=PurePosixPath(run.get("slide") or folder).name,
        name=slide_name(PurePosixPath(run["slide"])) if run.get("slide") else folder,
        mpp=run.get("mpp"),
        types=types_of(schema),
        columns=(*schema.names, *((CLUSTER,) if summary else ())),
        embedding_dim=schema.field("embedding").type.list_size,
        count=metadata.num_rows,
        clusters=summary["count"] if summary else 0,
        version=version_of(schema),
    )


def _table_file(path: Path) -> Path:
    """``path`` itself, or ``cells.parquet`` in it."""
    table = path / CELLS if is_dir(path) else path
    if is_file(table):
        return table
    run = read_json(path / RUN) if is_dir(path) else None
    if run is not None and run.get("status") not in FINISHED:
        raise InputError(
            f"{path}: the run is not finished (it is {run.get('status')}); run predict again with `resume=True`"
        )
    raise InputError(f"{path}: no such cell table; give cells.parquet or the directory that predict wrote for a slide")


def read_cells(path: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the cells of a slide as a pandas DataFrame.

    Args:
        path: ``cells.parquet``, or the directory of a finished run.
        columns: the ones to read, all by default. Without ``embedding`` and ``geometry`` a million cells take 100 MB.

    Returns:
        See ``celldetr.cells.schema``; ``embedding`` holds (d,) float16 arrays, ``geometry`` WKB. After ``celldetr
        cluster``, ``cluster`` too (``celldetr.cells.clusters``).

    Raises:
        InputError: no such table, an unfinished run, or an unknown column (near ones are named).

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 200, 200))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", model="small-20x", options=options).directory
        >>> celldetr.read_cells(run, columns=["x_um", "y_um", "type"]).dtypes
        x_um     float64
        y_um     float64
        type    category
        dtype: object
    """
    return open_table(path, clusters=columns is None or CLUSTER in columns).frame(columns)


def read_embeddings(path: Path | str) -> NDArray[np.float16]:
    """The embeddings of a slide's cells -> (N, d) float16, in the order of ``cell_id``.

    Raises:
        InputError: see ``read_cells``.

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 200, 200))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", model="small-20x", options=options).directory
        >>> celldetr.read_embeddings(run).shape == (len(celldetr.read_cells(run)), 128)
        True
    """
    return embedding_matrix(open_table(path, clusters=False).read(["embedding"])["embedding"])
