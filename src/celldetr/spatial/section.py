"""A section of spatial transcriptomics and the nuclei of its H&E image: what the steps of ``spatial`` work on.

Beside these two, the steps hand on pandas tables with the columns ``QUALITY``, ``TYPES`` and ``PAIRS``; ``cell_id`` is
text, the ``obs_names`` of the section.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import anndata

X, Y = "x_um", "y_um"  # columns of ``obs``
CELL_AREA, NUCLEUS_AREA = "cell_area_um2", "nucleus_area_um2"

# One row a cell of the section: transcripts, genes with a transcript, whether it passes the quality control, and all
# reasons why not, joined by "; ".
QUALITY = ("cell_id", "counts", "genes", "passed", "reason")
# One row a cell that passed: the most probable type ("" where nothing is known), its probability, the margin over the
# second most probable type, that type; and a float32 column "p: NAME" for each type.
TYPES = ("cell_id", "type", "probability", "margin", "second")
PROBABILITY = "p: "
# One row a pair: the nucleus (its position); how it was found, "polygon" (the centre of one in the outline of the
# other) or "distance" (within the radius); the distance of the centres and nucleus minus cell along x and y, in
# micrometres of the image after alignment.
PAIRS = ("nucleus", "cell_id", "how", "distance_um", "dx_um", "dy_um")

Polygons = NDArray[np.object_]  # shapely polygons, None where a cell has none


@dataclass(frozen=True)
class Section:
    """Cells of one section with their gene expression.

    ``cells`` is N cells by G genes: ``X`` CSR float32 of whole counts, ``obs_names`` cell ids, ``var_names`` gene
    symbols; ``obs`` has at least ``x_um`` and ``y_um`` (micrometres of the instrument: the centre of the nucleus where
    it is known, else of the cell), and ``cell_area_um2`` and ``nucleus_area_um2`` where known.
    """

    name: str
    cells: anndata.AnnData
    nuclei: Polygons | None = None  # (N,) in the same coordinates; None: the source has none
    outlines: Polygons | None = None  # (N,) of the cells, likewise
    to_image: NDArray[np.float64] | None = None  # (3, 3) affine to level-0 pixels of the image, where the source has it
    source: dict[str, Any] = field(default_factory=dict)  # for provenance, JSON-able

    @property
    def points(self) -> NDArray[np.float64]:
        """(N, 2) micrometres."""
        return self.cells.obs[[X, Y]].to_numpy(dtype=np.float64)

    @property
    def cell_ids(self) -> NDArray[np.object_]:
        """(N,) text."""
        return self.cells.obs_names.to_numpy(dtype=object)

    @property
    def polygons(self) -> dict[str, Polygons]:
        """Those that the source has, by ``nuclei`` and ``outlines``."""
        kinds = {"nuclei": self.nuclei, "outlines": self.outlines}
        return {kind: shapes for kind, shapes in kinds.items() if shapes is not None}

    def subset(self, mask: NDArray[np.bool_]) -> Section:
        """The cells of a (N,) mask, in order."""
        polygons: dict[str, Any] = {kind: shapes[mask] for kind, shapes in self.polygons.items()}
        return replace(self, cells=self.cells[mask].copy(), **polygons)

    def facts(self) -> dict[str, Any]:
        """Numbers of the section, JSON-able."""
        return {
            "name": self.name,
            "cells": self.cells.n_obs,
            "genes": self.cells.n_vars,
            "median_counts": float(np.median(np.asarray(self.cells.X.sum(axis=1)))),
            "polygons": list(self.polygons),
            "source": self.source,
        }


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of an H&E image, in level-0 pixels."""

    boxes: NDArray[np.float32]  # (M, 4) xyxy
    scores: NDArray[np.float32]  # (M,) in [0, 1]; 1 where drawn by others
    polygons: Polygons | None = None  # (M,) or None: the source has boxes only
    source: dict[str, Any] = field(default_factory=dict)  # for provenance, JSON-able

    @property
    def points(self) -> NDArray[np.float64]:
        """(M, 2) centres of the boxes, level-0 pixels."""
        boxes = self.boxes.astype(np.float64)
        return (boxes[:, :2] + boxes[:, 2:]) / 2

    def __len__(self) -> int:
        return len(self.boxes)
