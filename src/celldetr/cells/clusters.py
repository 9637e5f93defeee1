"""``clusters.parquet``: the cluster of each cell of a slide, beside the ``cells.parquet`` whose cells they are.

``cells.parquet`` is the result of a run and stays as it is; ``celldetr.cells.reader`` joins ``cluster`` to its columns.

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
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.parquet import parquet_errors

CLUSTERS = "clusters.parquet"
CLUSTER = "cluster"
MOST = 10_000  # clusters; each is a colour and a line of a legend
STAMP = b"celldetr.stamp"  # in the metadata of a table that was written again: what stays that of its cells
_KEY = b"celldetr.clusters"
_COLUMNS = {"cell_id": pa.int64(), CLUSTER: pa.int32(), "sampled": pa.bool_(), "agreement": pa.float32()}
_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()])
_TAIL = 8  # bytes of a Parquet file after its footer: the footer's length, "PAR1"
_REMEDY = "run celldetr cluster again with `overwrite=True`, or delete it"


def table_stamp(path: Path) -> str:
    """Fingerprint of a version of a cell table: its size, and the SHA-256 of its Parquet footer.

    The footer holds sizes and statistics of all columns, and provenance: kilobytes, and the same in a copy elsewhere. A
    table that ``celldetr retype`` wrote again keeps the stamp that it had.
    """
    with parquet_errors(path), path.open("rb") as file:
        kept = (pq.read_metadata(file).metadata or {}).get(STAMP)
        if kept is not None:
            return str(kept.decode())
        size = file.seek(0, os.SEEK_END)
        file.seek(size - _TAIL)
        length = int.from_bytes(file.read(4), "little")
        file.seek(size - _TAIL - length)
        return f"{size}-{hashlib.sha256(file.read(length)).hexdigest()}"


def cluster_name(number: int) -> str:
    """Name of a cluster in pictures and in QuPath."""
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

    ``about`` goes into the metadata: ``count``, and how the clusters were made.
    """
    metadata = {_KEY: json.dumps({"table": table_stamp(table), **about}).encode()}
    columns = [pa.array(values) for values in (cell_id, cluster, sampled, agreement)]
    path = table.with_name(CLUSTERS)
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata)), temporary)
    return path


def cluster_summary(table: Path) -> dict[str, Any] | None:
    """``count`` and how the clusters beside ``table`` were made; None if there are none.

    Raises:
        InputError: ``clusters.parquet`` is damaged, or belongs to another version of the table.
    """
    path = table.with_name(CLUSTERS)
    if not path.is_file():
        return None
    with parquet_errors(path):
        schema = pq.read_schema(path)
    if not schema.equals(_SCHEMA) or _KEY not in (schema.metadata or {}):
        raise InputError(f"{path}: not written by celldetr cluster; {_REMEDY}")
    summary: dict[str, Any] = json.loads(schema.metadata[_KEY])
    if summary["table"] != table_stamp(table):
        raise InputError(f"{path}: is of another version of {table.name}; {_REMEDY}")
    return summary


def read_clusters(table: Path) -> NDArray[np.int32]:
    """(N,) the cluster of each cell of ``table``, in its order; ``clusters.parquet`` is there and fits."""
    path = table.with_name(CLUSTERS)
    with parquet_errors(path):
        return np.asarray(pq.read_table(path, columns=[CLUSTER])[CLUSTER].to_numpy())
