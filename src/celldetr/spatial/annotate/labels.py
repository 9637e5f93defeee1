"""Types that exist already: a column of the section's table, or a file with a row a cell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.errors import InputError, near
from celldetr.spatial.annotate.annotation import Annotation, Progress, uniform
from celldetr.spatial.files import read_table

if TYPE_CHECKING:
    import anndata
    import pandas as pd

ID_COLUMNS = ("cell_id", "Barcode", "barcode", "cell", "id", "CellID")
TYPE_COLUMNS = ("type", "cell_type", "celltype", "Cluster", "cluster", "label", "annotation", "group")
PROBABILITY_COLUMNS = ("probability", "confidence", "conf_score", "score")


class Labels:
    """Take types from a column of ``obs``, or from a csv or Parquet file such as Xenium's ``clusters.csv``.

    Attributes:
        column: of the types; None: the first of ``TYPE_COLUMNS`` that is there.
        file: csv (also .csv.gz) or Parquet with a column of cell ids (``ID_COLUMNS``) and one of types; None: ``obs``.
        probability: column of the probability of the type, 0 to 1; None: one of ``PROBABILITY_COLUMNS`` where it is
            there, else 1 for every cell. What it leaves is spread evenly over the other types.
    """

    def __init__(self, column: str | None = None, file: Path | None = None, probability: str | None = None) -> None:
        self.column, self.file, self.probability = column, file, probability

    def annotate(self, section: anndata.AnnData, progress: Progress | None = None) -> Annotation:
        """Types of the section's cells; those without a label are unknown.

        Raises:
            InputError: no such file or column, two rows for one cell, probabilities outside 0 to 1, or no cell has a
                label.
        """
        start = time.perf_counter()
        values, where = self._values(section)
        column = _choose(self.column, TYPE_COLUMNS, values, where, "types")
        chance = self.probability or next((name for name in PROBABILITY_COLUMNS if name in values), None)
        if chance is not None and chance not in values:
            raise InputError(f"{where}: no column {chance!r}; {near(chance, map(str, values.columns))}")
        labels = values[column]
        known = labels.notna().to_numpy() & (labels.astype(str).str.strip() != "").to_numpy()
        if not known.any():
            examples = ", ".join(map(str, section.obs_names[:2]))
            raise InputError(f"{where}: has a type in {column!r} for none of the section's cells (such as {examples})")
        kinds = labels[known].map(_text).astype("category")
        names = tuple(str(name) for name in sorted(kinds.cat.categories, key=_natural))
        codes = np.array([names.index(str(name)) for name in kinds.cat.categories])[kinds.cat.codes.to_numpy()]
        p = uniform(section.n_obs, len(names))
        sure = np.ones(int(known.sum()), dtype=np.float32)
        if chance is not None:
            sure = values[chance].to_numpy(dtype=np.float32)[known]
            if not bool(((sure >= 0) & (sure <= 1)).all()):
                raise InputError(f"{where}: column {chance!r} has values outside 0 to 1; name another, or none")
        if len(names) > 1:
            p[known] = ((1 - sure) / (len(names) - 1))[:, None]
        p[np.flatnonzero(known), codes] = sure
        if progress:
            progress(1.0)
        facts: dict[str, Any] = {
            "method": "labels",
            "source": where,
            "column": column,
            "probability": chance,
            "cells_without_label": int((~known).sum()),
            "seconds": round(time.perf_counter() - start, 3),
        }
        return Annotation(p, names, known, facts)

    def _values(self, section: anndata.AnnData) -> tuple[pd.DataFrame, str]:
        if self.file is None:
            return section.obs, "the section's table"
        values = read_table(self.file)
        key = _choose(None, ID_COLUMNS, values, str(self.file), "cell ids")
        index = values[key].map(_text)
        twice = index[index.duplicated()]
        if len(twice):
            raise InputError(
                f"{self.file}: cell {twice.iloc[0]!r} is in two rows of {key!r}; one row a cell is expected"
            )
        return values.set_axis(index, axis=0).reindex(section.obs_names.astype(str)), self.file.name


def _choose(given: str | None, usual: tuple[str, ...], values: pd.DataFrame, where: str, what: str) -> str:
    columns = [str(name) for name in values.columns]
    if given is not None:
        if given not in columns:
            raise InputError(f"{where}: no column {given!r}; {near(given, columns)}")
        return given
    found = next((name for name in usual if name in columns), None)
    if found is None:
        raise InputError(f"{where}: no column of {what} ({', '.join(usual)}); it has {', '.join(columns[:20])}")
    return found


def _text(value: Any) -> str:
    """A label or id as text: b'x' and 'x' are one, and so are 3 and 3.0 (a column with gaps is read as floats)."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(name: str) -> tuple[int, int, str]:
    """Clusters 1, 2, 10 in this order."""
    return (0, int(name), "") if name.isdecimal() and len(name) < 10 else (1, 0, name)
