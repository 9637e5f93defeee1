"""Types that exist already: a column of the section's table, or a file with a row a cell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.data.autocard import join_spellings
from celldetr.errors import InputError, near
from celldetr.io.tables import is_missing
from celldetr.spatial.annotate.annotation import Annotation, uniform
from celldetr.spatial.files import read_table

if TYPE_CHECKING:
    import anndata
    import pandas as pd

ID_COLUMNS = ("cell_id", "Barcode", "barcode", "cell", "id", "CellID")
TYPE_COLUMNS = ("type", "cell_type", "celltype", "Cluster", "cluster", "label", "annotation", "group")
PROBABILITY_COLUMNS = ("probability", "confidence", "conf_score", "score")


def existing_labels(section: anndata.AnnData, column: str | None = None, file: Path | None = None) -> Annotation:
    """Take types from a column of ``obs``, or from a csv or Parquet file such as Xenium's ``clusters.csv``.

    Cells without a label are unknown. One of ``PROBABILITY_COLUMNS`` is the probability of the type, where it is there;
    what that leaves is spread evenly over the other types. Without a ``column`` the types are the first of
    ``TYPE_COLUMNS`` that is there; a file has cell ids in one of ``ID_COLUMNS``.
    """
    values, where = (section.obs, "the section's table") if file is None else (_rows(file, section), file.name)
    if column is None:
        column = _first_of(TYPE_COLUMNS, values, where, "types")
    elif column not in values:
        raise InputError(f"{where}: no column {column!r}; {near(column, map(str, values.columns))}")
    labels = values[column]
    texts = labels.astype(object).map(_text, na_action="ignore").fillna("").to_numpy(dtype=object)
    known = np.array([not is_missing(text) for text in texts])
    if not known.any():
        examples = ", ".join(map(str, section.obs_names[:2]))
        raise InputError(f"{where}: has a type in {column!r} for none of the section's cells (such as {examples})")
    joined = join_spellings(Counter(texts[known]), where)
    names = sorted(joined, key=_natural)
    place = {text: k for k, name in enumerate(names) for text in joined[name]}
    codes = np.array([place[text] for text in texts[known]])
    sure = np.ones(len(codes), dtype=np.float32)
    chance = next((name for name in PROBABILITY_COLUMNS if name in values), None)
    if chance is not None:
        sure = values[chance].to_numpy(dtype=np.float32)[known]
        if not bool(((sure >= 0) & (sure <= 1)).all()):
            raise InputError(f"{where}: column {chance!r} has values outside 0 to 1; rename it if it is no probability")
    p = uniform(section.n_obs, len(names))
    p[known] = ((1 - sure) / max(len(names) - 1, 1))[:, None]
    p[np.flatnonzero(known), codes] = sure
    facts: dict[str, Any] = {
        "method": "labels",
        "source": where,
        "column": column,
        "probability": chance,
        "cells_without_label": int((~known).sum()),
    }
    return Annotation(p, tuple(names), known, facts)


def _rows(file: Path, section: anndata.AnnData) -> pd.DataFrame:
    """The rows of a table that are the section's cells, in their order."""
    table = read_table(file)
    key = _first_of(ID_COLUMNS, table, str(file), "cell ids")
    index = table[key].map(_text)
    twice = index[index.duplicated()]
    if len(twice):
        raise InputError(f"{file}: cell {twice.iloc[0]!r} is in two rows of {key!r}; one row a cell is expected")
    return table.set_axis(index, axis=0).reindex(section.obs_names.astype(str))


def _first_of(usual: tuple[str, ...], values: pd.DataFrame, where: str, what: str) -> str:
    name = next((name for name in usual if name in values), None)
    if name is None:
        columns = ", ".join(map(str, values.columns[:20]))
        raise InputError(f"{where}: no column of {what} ({', '.join(usual)}); it has {columns}")
    return name


def _text(value: Any) -> str:
    """A label or id as text: b'x' and 'x' are one, and so are 3 and 3.0 (a column with gaps is read as floats)."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _natural(name: str) -> tuple[int, int, str]:
    """Clusters 1, 2, 10 in this order."""
    return (0, int(name), "") if name.isdecimal() and len(name) < 10 else (1, 0, name)
