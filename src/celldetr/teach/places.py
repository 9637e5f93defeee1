"""Labels find their cells: by slide and ``cell_id`` if the centre is the same, else by the centre.

Predicting a slide again renumbers its cells. A label whose number is another nucleus by now goes to the cell nearest to
where its cell was, within ``NEAR_UM``; where there is none, it is lost for this table, but stays in the journal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.reader import CellTable, numbers
from celldetr.errors import InputError

NEAR_UM = 2.5  # the radius within which two detections are of one nucleus (``model.nms``)
SAME_PX = 0.5
LOST = -1


class Places:
    """Numbers and centres of the cells of one slide."""

    def __init__(self, table: CellTable) -> None:
        self.name, self._mpp = table.name, table.mpp or 1.0
        cells = table.read(["cell_id", "x_px", "y_px"])
        self.ids = cells["cell_id"].to_numpy()
        self.centres = np.column_stack([numbers(cells, "x_px"), numbers(cells, "y_px")])
        self._order = np.argsort(self.ids, kind="stable")

    def named(self, rows: Sequence[int], slide: str) -> list[tuple[str, int, float, float]]:
        """Cells of rows as the journal names them. Raises InputError: there is no such row."""
        for row in rows:
            if not 0 <= row < len(self.ids):
                raise InputError(f"no row {row} of slide {slide!r}; it has {len(self.ids):,} cells")
        chosen = np.array(rows, np.int64)
        centres = np.round(self.centres[chosen], 2).tolist()
        return [(slide, number, x, y) for number, (x, y) in zip(self.ids[chosen].tolist(), centres, strict=True)]

    def rows(self, ids: Sequence[int], centres: Sequence[tuple[float, float]]) -> NDArray[np.int64]:
        """(n,) rows of n cells that had these numbers and centres (level-0 px); ``LOST`` where there is none."""
        if not len(ids) or not len(self.ids):
            return np.full(len(ids), LOST, np.int64)
        wanted, where = np.array(ids, np.int64), np.array(centres, np.float64)
        at = self._order[np.searchsorted(self.ids, wanted, sorter=self._order).clip(max=len(self.ids) - 1)]
        moved = (self.ids[at] != wanted) | (np.abs(self.centres[at] - where).max(axis=1) > SAME_PX)
        if moved.any():
            from scipy.spatial import KDTree

            distance, nearest = KDTree(self.centres).query(where[moved])
            at[moved] = np.where(distance * self._mpp <= NEAR_UM, nearest, LOST)
        return at.astype(np.int64)
