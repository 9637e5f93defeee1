"""Tables of the steps on disk: Parquet, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from celldetr.errors import InputError
from celldetr.files import replacing

if TYPE_CHECKING:
    import pandas as pd


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A table as Parquet."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """A table from Parquet, or from CSV where it is called so.

    Raises:
        InputError: it is not there, or something else.
    """
    import pandas as pd
    import pyarrow

    if not path.is_file():
        raise InputError(f"{path}: no such file; run the step that writes it again (--overwrite)")
    try:
        return pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, pyarrow.ArrowInvalid, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
