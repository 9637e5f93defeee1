"""Step 3 on disk: types of the cells that passed, fine and coarse, and expression by type as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.config import Config, Count, Probability
from celldetr.errors import InputError, near
from celldetr.spatial.annotate import ANNOTATORS
from celldetr.spatial.annotate.annotation import Annotation, Annotator, table
from celldetr.spatial.annotate.classifier import Classifier
from celldetr.spatial.annotate.hierarchy import coarsen, load_hierarchy
from celldetr.spatial.annotate.labels import Labels
from celldetr.spatial.annotate.transport import Transport, TransportOptions
from celldetr.spatial.label import TYPES_FILE, Told, passing, plain
from celldetr.spatial.record import Record, stamp
from celldetr.spatial.reference import read_reference, shared_genes
from celldetr.spatial.section import Section
from celldetr.spatial.tables import read_table, write_table
from celldetr.spatial.type_plots import correlations, mean_expression

if TYPE_CHECKING:
    import anndata

FINE_FILE = "types_fine.parquet"  # as the reference names them, before the hierarchy
FEWEST_CELLS = 10  # of a type in the section, to look at its mean expression
EXPRESSION_FILE = "expression.parquet"  # mean expression of genes by type, of the section and of the reference


class TypeOptions(Config):
    """How types are transferred."""

    counts: str = "auto"  # where the reference has whole counts: auto, X, raw, or a layer
    allow_normalised: bool = False  # take log-normalised values where it has none; see ``read_reference``
    min_cells: Count = 10  # types of the reference with fewer cells are rare
    keep_rare: bool = True
    sure: Probability = 0.5  # probability from which a cell is counted as sure here; step 6 has limits of its own
    transport: TransportOptions = TransportOptions()


def type_step(
    record: Record,
    reference: Path | None = None,
    column: str = "",
    *,
    method: str = "tacco",
    labels: Path | None = None,
    hierarchy: str | Path | None = None,
    level: str | None = None,
    options: TypeOptions | None = None,
    keep: bool = True,
    progress: Told | None = None,
) -> bool:
    """Step 3.

    Args:
        record: of the set.
        reference: single-cell data with whole counts; of the methods tacco and celltypist.
        column: of the types, in the reference's ``obs``; of method labels in the section's, or in ``labels``.
        method: tacco, celltypist or labels.
        labels: a file of types that exist already.
        hierarchy: what makes fine types coarse; None: types stay as they are.
        level: of the hierarchy; None: its last, the coarsest.
        options: of the transfer.
        keep, progress: as everywhere.

    Raises:
        InputError: inputs that do not go together, and what the method raises.
    """
    options = options or TypeOptions()
    method = "labels" if labels is not None and method == "tacco" and reference is None else method
    if method not in ANNOTATORS:
        raise InputError(f"method {method!r} is unknown; {near(method, ANNOTATORS)}")
    if method == "labels" and reference is not None:
        raise InputError(f"method 'labels' takes types that exist already; {reference} is not used: leave it out")
    if method != "labels" and reference is None:
        raise InputError(f"method {method!r} needs `reference` and `type_column`")
    if method != "labels" and not column:
        raise InputError(f"{reference}: name the column of its types with `type_column`")
    if level is not None and hierarchy is None:
        raise InputError(f"level {level!r} is one of a hierarchy; name that too (`hierarchy`)")
    tree = None if hierarchy is None else load_hierarchy(hierarchy)
    settings = {
        "reference": stamp(reference),
        "column": column,
        "method": method,
        "labels": stamp(labels),
        "hierarchy": None if tree is None else tree.model_dump(mode="json"),
        "level": level,
        "options": plain(options),
    }
    path = record.files / TYPES_FILE

    def work() -> dict[str, Any]:
        section = passing(record)
        known = None if reference is None else _reference(reference, column, options)
        found = _annotator(method, known, column, labels, options).annotate(section.cells, progress)
        write_table(table(found, section.cells.obs_names), record.files / FINE_FILE)
        coarse = found if tree is None else coarsen(found, tree, level or tree.level_names[-1])
        types = table(coarse, section.cells.obs_names)
        write_table(types, path)
        evidence = record.files / EXPRESSION_FILE
        evidence.unlink(missing_ok=True)
        if known is not None:
            _write_expression(section, found, known, column, evidence)
        sure = coarse.known & (coarse.probabilities.max(axis=1) >= options.sure)
        first = coarse.probabilities.argmax(axis=1)
        return {
            "method": method,
            "cells": len(coarse),
            "sure": int(sure.sum()),
            "unknown": int((~coarse.known).sum()),
            "types": {name: int((sure & (first == k)).sum()) for k, name in enumerate(coarse.types)},
            "agreement": _agreement(evidence) if known is not None else {},
            "transfer": found.facts,
            "warnings": _warnings(found, sure, options),
        }

    return record.run("type", settings, (path,), work, keep=keep)


def _reference(path: Path, column: str, options: TypeOptions) -> anndata.AnnData:
    return read_reference(
        path,
        column,
        options.counts,
        allow_normalised=options.allow_normalised,
        min_cells=options.min_cells,
        keep_rare=options.keep_rare,
    )


def _annotator(
    method: str, reference: anndata.AnnData | None, column: str, labels: Path | None, options: TypeOptions
) -> Annotator:
    if method == "labels" or reference is None:
        return Labels(column or None, labels)
    if method == "celltypist":
        return Classifier(reference, column)
    return Transport(reference, column, options.transport)


def _warnings(found: Annotation, sure: NDArray[np.bool_], options: TypeOptions) -> list[str]:
    said = []
    if sure.mean() < 0.5:
        said.append(f"only {sure.mean():.0%} of the cells have a type with probability {options.sure:g} or more")
    rare = found.facts.get("reference", {}).get("rare") or []
    if rare and options.keep_rare:
        said.append(f"types of the reference with fewer than {options.min_cells} cells: {', '.join(map(str, rare))}")
    return said


def _write_expression(section: Section, found: Annotation, reference: anndata.AnnData, column: str, path: Path) -> None:
    """Mean expression of shared genes by fine type; one row a type and side."""
    import pandas as pd

    shared = shared_genes(section.cells, reference)
    kinds = np.array(found.types, dtype=object)[found.probabilities.argmax(axis=1)]
    kinds[~found.known] = ""
    few = [name for name in found.types if (kinds == name).sum() < FEWEST_CELLS]
    kinds[np.isin(kinds, few)] = ""  # a mean of a few cells looks like no type
    sides = {
        "section": mean_expression(section.cells.X[:, shared.section], kinds, found.types),
        "reference": mean_expression(
            reference.X[:, shared.reference], reference.obs[column].astype(str).to_numpy(dtype=object), found.types
        ),
    }
    parts = [
        pd.DataFrame(values, columns=[f"g: {name}" for name in shared.names]).assign(side=side, type=list(found.types))
        for side, values in sides.items()
    ]
    write_table(pd.concat(parts, ignore_index=True), path)


def _agreement(path: Path) -> dict[str, float]:
    """Correlation over genes between a type's cells in the section and in the reference, as in the report's matrix.

    Low where the reference lacks what the section has: cells get some type of it all the same.
    """
    section, reference, _, names = read_expression(path)
    there = np.flatnonzero(~np.isnan(section).all(axis=1))
    found = np.diag(correlations(section[there], reference[there]))
    return {names[k]: round(float(r), 3) for k, r in zip(there.tolist(), found, strict=True)}


def read_expression(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], list[str]]:
    """What ``expression_figure`` takes: of the section (K, G), of the reference, genes, types."""
    values = read_table(path)
    genes = [name for name in values.columns if name.startswith("g: ")]
    sides = [values[values["side"] == side] for side in ("section", "reference")]
    tables = [side[genes].to_numpy(dtype=np.float64) for side in sides]
    return tables[0], tables[1], [name.removeprefix("g: ") for name in genes], sides[0]["type"].tolist()
