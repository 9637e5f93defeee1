"""Types of the cells of a section (step 3): by transfer from a reference or from labels that exist, fine and coarse.

A method of typing cells is a function to an ``Annotation``, and a branch of ``annotate_cells``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Probability
from celldetr.errors import InputError, near
from celldetr.spatial.annotate.annotation import Annotation, Progress
from celldetr.spatial.annotate.classifier import classify
from celldetr.spatial.annotate.expression import agreement, expression_table
from celldetr.spatial.annotate.hierarchy import Hierarchy, coarsen
from celldetr.spatial.annotate.labels import existing_labels
from celldetr.spatial.annotate.reference import FEW, read_reference
from celldetr.spatial.annotate.transport import TransportOptions, transport

if TYPE_CHECKING:
    import anndata
    import pandas as pd

METHODS: Final = ("tacco", "celltypist", "labels")


class TypeOptions(Config):
    """How types are transferred."""

    counts: str = Field("auto", description="Where the reference has whole counts: auto, X, raw, or a layer.")
    allow_normalised: bool = Field(False, description="Where it has none, approximate them from log-normalised values.")
    min_cells: Count = Field(FEW, description="Types of the reference with fewer cells are rare.")
    keep_rare: bool = Field(True, description="Whether rare types are transferred, too.")
    sure: Probability = Field(
        0.5, description="Probability from which a cell is counted as sure; step 6 has limits of its own."
    )
    transport: TransportOptions = TransportOptions()


def annotate_cells(
    section: anndata.AnnData,
    reference: Path | None = None,
    type_column: str = "",
    *,
    method: str = "tacco",
    labels: Path | None = None,
    hierarchy: Hierarchy | None = None,
    level: str | None = None,
    options: TypeOptions | None = None,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None, dict[str, Any]]:
    """Type the cells of a section.

    Args:
        section: the cells.
        reference: single-cell data with whole counts; for the methods tacco and celltypist.
        type_column: of the types, in the reference's ``obs``; of method labels in the section's, or in ``labels``.
        method: tacco, celltypist or labels, which need not be named where ``labels`` alone are given.
        labels: a file of types that exist already.
        hierarchy: what makes fine types coarse; None: types stay as they are.
        level: of the hierarchy; None: its last, the coarsest.
        options: of the transfer.
        progress: called with the share that is done.

    Returns:
        Table ``TYPES`` after the hierarchy; the same by the names of the reference; ``expression_table`` or, without a
        reference, None; and numbers for the report, JSON-able.
    """
    options = options or TypeOptions()
    start = time.perf_counter()
    if method == "tacco" and labels is not None and reference is None:
        method = "labels"
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; {near(method, METHODS)}")
    if level is not None and hierarchy is None:
        raise InputError(f"level {level!r} is one of a hierarchy; name that too (`hierarchy`)")
    known = None
    if method == "labels":
        if reference is not None:
            raise InputError(f"method 'labels' takes types that exist already; {reference} is not used: leave it out")
        fine = existing_labels(section, type_column or None, labels)
    else:
        if reference is None or not type_column:
            raise InputError(f"method {method!r} needs `reference` and `type_column`")
        known = read_reference(
            reference,
            type_column,
            options.counts,
            allow_normalised=options.allow_normalised,
            min_cells=options.min_cells,
            keep_rare=options.keep_rare,
        )
        if method == "tacco":
            fine = transport(section, known, type_column, options.transport, progress)
        else:
            fine = classify(section, known, type_column)
    coarse = fine if hierarchy is None else coarsen(fine, hierarchy, level or hierarchy.level_names[-1])
    expression = None if known is None else expression_table(section, fine, known, type_column)
    sure = coarse.known & (coarse.probabilities.max(axis=1) >= options.sure)
    first = coarse.probabilities.argmax(axis=1)
    facts = {
        "method": method,
        "cells": len(sure),
        "sure": int(sure.sum()),
        "unknown": int((~coarse.known).sum()),
        "types": {name: int((sure & (first == k)).sum()) for k, name in enumerate(coarse.types)},
        "agreement": {} if expression is None else agreement(expression),
        "transfer": fine.facts | {"seconds": round(time.perf_counter() - start, 1)},
        "warnings": _warnings(fine, sure, options),
    }
    ids = section.obs_names.to_numpy(dtype=object)
    return coarse.table(ids), fine.table(ids), expression, facts


def _warnings(annotation: Annotation, sure: NDArray[np.bool_], options: TypeOptions) -> list[str]:
    texts = []
    if sure.mean() < 0.5:
        texts.append(f"only {sure.mean():.0%} of the cells have a type with probability {options.sure:g} or more")
    rare = annotation.facts.get("reference", {}).get("rare") or []
    if rare and options.keep_rare:
        texts.append(f"types of the reference with fewer than {options.min_cells} cells: {', '.join(map(str, rare))}")
    return texts
