"""Pairs of cells of the section and nuclei of the image, one to one (step 5, after the alignment).

First by polygons: the cell's centre lies in the nucleus, or the nucleus' centre in that of the cell; as many pairs as
possible, and the nearest. Then what is left by the distance of the centres, within a radius: the assignment of least
total distance, where a cell without a nucleus counts as much as the radius.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field

from celldetr.assignment import Index, assign, candidate_pairs
from celldetr.config import Config, Positive
from celldetr.spatial.affine import Floats, Mpp, apply, in_image_um, pixel_scale
from celldetr.spatial.section import Nuclei, Polygons

if TYPE_CHECKING:
    import pandas as pd

POLYGON, DISTANCE = "polygon", "distance"


class PairOptions(Config):
    """Settings of the pairing, um of the image."""

    # Half of what nuclei are apart in packed tissue: beyond it, the nearest nucleus that is left is more often another
    # cell's.
    radius_um: Positive = Field(5.0, description="Largest distance of a pair by distance.")
    polygons: bool = Field(True, description="Pair by polygons first; else by distance only.")
    polygon_radius_um: Positive = Field(
        15.0, description="Largest distance of a pair by polygons: regions do not pair."
    )


def pair(
    cell_ids: NDArray[np.object_],
    cells_um: Floats,
    cell_nuclei: Polygons | None,
    nuclei: Nuclei,
    to_image: Floats,
    mpp: Mpp,
    options: PairOptions | None = None,
) -> pd.DataFrame:
    """Pair cells and nuclei -> table ``PAIRS``, by nucleus.

    Args:
        cell_ids: (N,) of the cells.
        cells_um: (N, 2) their centres, micrometres of the section.
        cell_nuclei: (N,) polygons of their nuclei, in the same coordinates, None where there is none; or None.
        nuclei: of the image. Those with boxes only count as the ellipse in their box.
        to_image: (3, 3) from micrometres of the section to level-0 pixels.
        mpp: micrometres per level-0 pixel, or along x and y.
        options: radii.
    """
    import pandas as pd

    options = options or PairOptions()
    to_um, scale = in_image_um(to_image, mpp), pixel_scale(mpp)
    cells, centres = apply(to_um, cells_um), nuclei.points * scale
    by_cell = by_nucleus = np.zeros(0, np.intp)
    if options.polygons and len(cells) and len(centres):
        candidates = [_cells_in_nuclei(cells, nuclei, centres, scale), _nuclei_in_cells(centres, cell_nuclei, to_um)]
        # Each candidate once, as one number.
        keys = np.unique(np.concatenate([i.astype(np.int64) * len(centres) + j for i, j in candidates]))
        i, j = np.divmod(keys, len(centres))
        distance = np.linalg.norm(centres[j] - cells[i], axis=1)
        near = distance <= options.polygon_radius_um
        i, j, distance = i[near], j[near], distance[near]
        chosen = assign(i, j, distance)
        by_cell, by_nucleus = i[chosen], j[chosen]
    by_polygon = len(by_cell)
    if len(cells) and len(centres):
        free_cells = np.setdiff1d(np.arange(len(cells)), by_cell)
        free_nuclei = np.setdiff1d(np.arange(len(centres)), by_nucleus)
        i, j, distance = candidate_pairs(cells[free_cells], centres[free_nuclei], options.radius_um)
        chosen = assign(i, j, distance, unmatched=options.radius_um)
        by_cell = np.concatenate([by_cell, free_cells[i[chosen]]])
        by_nucleus = np.concatenate([by_nucleus, free_nuclei[j[chosen]]])
    dx, dy = (centres[by_nucleus] - cells[by_cell]).T
    table = pd.DataFrame(
        {
            "nucleus": by_nucleus.astype(np.int64),
            "cell_id": cell_ids[by_cell],
            "how": np.where(np.arange(len(by_cell)) < by_polygon, POLYGON, DISTANCE).astype(object),
            "distance_um": np.hypot(dx, dy),
            "dx_um": dx,
            "dy_um": dy,
        }
    )
    return table.sort_values("nucleus", ignore_index=True)


def _cells_in_nuclei(cells: Floats, nuclei: Nuclei, centres: Floats, scale: Floats) -> tuple[Index, Index]:
    """Candidates (cell, nucleus) where the cell's centre is in the nucleus; both in um of the image."""
    if nuclei.polygons is not None:
        outlines = shapely.transform(nuclei.polygons, lambda points: points * scale)
        # The tree is of the points: polygons are prepared for many of them. Missing polygons meet nothing.
        nucleus, cell = shapely.STRtree(shapely.points(cells)).query(outlines, predicate="intersects")
        return cell, nucleus
    boxes = nuclei.boxes.astype(np.float64)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    rectangles = shapely.box(*(centres - half).T, *(centres + half).T)
    cell, nucleus = shapely.STRtree(rectangles).query(shapely.points(cells))
    offset = (cells[cell] - centres[nucleus]) / np.maximum(half[nucleus], 1e-9)
    inside = np.square(offset).sum(1) <= 1
    return cell[inside], nucleus[inside]


def _nuclei_in_cells(centres: Floats, cell_nuclei: Polygons | None, to_um: Floats) -> tuple[Index, Index]:
    """Candidates where the centre of the image's nucleus is in the polygon of the cell's nucleus."""
    if cell_nuclei is None:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    moved = shapely.transform(cell_nuclei, lambda points: apply(to_um, points))
    cell, nucleus = shapely.STRtree(shapely.points(centres)).query(moved, predicate="intersects")
    return cell, nucleus


def pairs_summary(pairs: pd.DataFrame, cells: int, nuclei: int) -> dict[str, Any]:
    """Numbers of a pairing of some ``cells`` and ``nuclei``, JSON-able; None where there are no pairs."""
    numbers: dict[str, Any] = {
        "pairs": len(pairs),
        "cells": cells,
        "nuclei": nuclei,
        "cells_paired": len(pairs) / cells if cells else None,
        "nuclei_paired": len(pairs) / nuclei if nuclei else None,
    }
    measured = dict.fromkeys(("by_polygon", "median_um", "p90_um", "dx_um", "dy_um"))
    if len(pairs):
        measured = {
            "by_polygon": float((pairs["how"] == POLYGON).mean()),
            "median_um": float(pairs["distance_um"].median()),
            "p90_um": float(pairs["distance_um"].quantile(0.9)),
            "dx_um": float(pairs["dx_um"].median()),
            "dy_um": float(pairs["dy_um"].median()),
        }
    return numbers | measured
