"""``clusters.parquet``: which group each cell of a slide belongs to, beside the ``cells.parquet`` that it is of.

A file of its own, because ``cells.parquet`` is what a run found and stays, byte for byte, what the run would find
again; groups are an opinion about it, made and made anew. Readers join the two, so to them ``cluster`` is a column.

| column | type | meaning |
|---|---|---|
| cell_id | int64 | as in ``cells.parquet``, in its order |
| cluster | int32 | 0 is the largest group of all slides that were grouped together |
| sampled | bool | it was grouped itself; the others have the group of the sampled cells nearest to them |
| agreement | float32 | share of these that are in the group; 1 for a sampled cell |

The file's metadata has, as JSON under ``celldetr.clusters``: ``table``, the stamp of the ``cells.parquet`` it belongs
to, ``count``, how many clusters there are, and how they were made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.safe_io import is_file, parse_json

CLUSTERS = "clusters.parquet"
CLUSTER = "cluster"
MOST = 10_000  # clusters; each is a colour and a line of a legend
_KEY = b"celldetr.clusters"
_SCHEMA = pa.schema(
    [
        pa.field("cell_id", pa.int64(), nullable=False),
        pa.field(CLUSTER, pa.int32(), nullable=False),
        pa.field("sampled", pa.bool_(), nullable=False),
        pa.field("agreement", pa.float32(), nullable=False),
    ]
)
_TAIL = 8  # bytes of a Parquet file after its footer: the footer's length, "PAR1"
_REMEDY = "run celldetr cluster again with `overwrite=True`, or delete it"


def table_stamp(path: Path) -> str:
    """What tells one version of a cell table from another: its size, and the SHA-256 of its Parquet footer.

    The footer holds the size and statistics of every column of every row group, and provenance: it differs wherever
    tables do that were not made to deceive, costs kilobytes to read, and is the same in a copy on another machine,
    which times of files are not.

    Raises:
        InputError: the file is no Parquet file, or cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(size - _TAIL, 0))
            tail = file.read(_TAIL)
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != b"PAR1" or not 0 < length <= size - _TAIL:
                raise InputError(f"{path}: not a readable Parquet file (it does not end like one)")
            file.seek(size - _TAIL - length)
            footer = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return f"{size}-{hashlib.sha256(footer).hexdigest()}"


def cluster_name(number: int) -> str:
    """What a cluster is called in pictures and in QuPath."""
    return f"Cluster {number}"


def write_clusters(
    table: Path,
    cell_id: NDArray[np.int64],
    cluster: NDArray[np.int32],
    sampled: NDArray[np.bool_],
    agreement: NDArray[np.float32],
    about: Mapping[str, Any],
) -> Path:
    """Write ``clusters.parquet`` beside ``table``; arrays are (N,), in the table's order.

    Args:
        table: ``cells.parquet``.
        cell_id, cluster, sampled, agreement: see the module.
        about: JSON-able: ``count``, and how the clusters were made.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    metadata = {_KEY: json.dumps({"table": table_stamp(table), **about}).encode()}
    columns = [pa.array(values) for values in (cell_id, cluster, sampled, agreement)]
    path = table.with_name(CLUSTERS)
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata)), temporary)
    return path


def clusters_about(table: Path) -> dict[str, Any] | None:
    """What ``clusters.parquet`` beside ``table`` says of itself; None if there is none.

    Raises:
        InputError: it is damaged, or belongs to another version of the table.
    """
    path = table.with_name(CLUSTERS)
    if not is_file(path):
        return None
    try:
        schema = pq.read_schema(path)
        about = parse_json((schema.metadata or {})[_KEY])
        fits = schema.remove_metadata().equals(_SCHEMA) and isinstance(about, dict)
        count = about["count"] if fits else 0
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        fits, count = False, 0
    if not fits or not isinstance(count, int) or not 0 <= count <= MOST:
        raise InputError(f"{path}: not written by celldetr cluster, or damaged; {_REMEDY}")
    if about.get("table") != table_stamp(table):
        raise InputError(f"{path}: is of another version of {table.name}; {_REMEDY}")
    return dict(about)


def read_clusters(table: Path, rows: int) -> NDArray[np.int32]:
    """(rows,) the cluster of each cell of ``table``, in its order.

    Raises:
        InputError: there is no ``clusters.parquet``, it is damaged, or it belongs to another version of the table.
    """
    path, about = table.with_name(CLUSTERS), clusters_about(table)
    if about is None:
        raise InputError(f"{table}: has no column {CLUSTER!r}; make it with celldetr cluster")
    try:
        if pq.read_metadata(path).num_rows != rows:
            raise InputError(f"{path}: has other cells than {table.name}; {_REMEDY}")
        found = np.asarray(pq.read_table(path, columns=[CLUSTER])[CLUSTER].to_numpy(), dtype=np.int32)
    except InputError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, MemoryError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {_REMEDY}") from None
    if len(found) != rows or (rows and not 0 <= found.min() <= found.max() < about["count"]):
        raise InputError(f"{path}: names clusters that it does not have; {_REMEDY}")
    return found
