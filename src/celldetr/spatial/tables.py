"""Tables of the steps on disk: Parquet, written whole or not at all."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.parquet import parquet_errors

if TYPE_CHECKING:
    import pandas as pd


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A table as Parquet."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_columns(path: Path, columns: Collection[str], what: str, step: str) -> pa.Table:
    """A table of a step, as Arrow.

    Args:
        path: the file.
        columns: that it must have; it may have more.
        what: of its rows, and ``step``: that writes it, for the messages.

    Raises:
        InputError: no such file, damaged, or a column is missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the step {step!r} first")
    with parquet_errors(path):
        table = pq.read_table(path)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: not a table of {what}, it has no column {missing[0]!r}; run the step {step!r} again")
    return table


def read_table(path: Path) -> pd.DataFrame:
    """A table from Parquet, or from CSV where it is called so.

    Raises:
        InputError: it is not there, or something else.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file; run the step that writes it again (`overwrite=True`)")
    try:
        return pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowInvalid, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
