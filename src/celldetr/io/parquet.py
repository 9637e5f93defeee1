"""Parquet files of users: what cannot be read is an error of theirs, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from celldetr.errors import InputError


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a file that is missing, truncated or no Parquet into ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except (OSError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable Parquet file ({reason})") from None
