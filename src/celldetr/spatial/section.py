"""What a spatial transcriptomics instrument says of one tissue section, and the nuclei of its H&E image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import anndata

X, Y = "x_um", "y_um"  # columns of ``obs``
CELL_AREA, NUCLEUS_AREA = "cell_area_um2", "nucleus_area_um2"

Polygons = NDArray[np.object_]  # shapely polygons, None where a cell has none


@dataclass(frozen=True)
class Section:
    """Cells of one section with their gene expression.

    Attributes:
        name: of the section.
        cells: (N cells, G genes); ``X`` CSR float32 of whole counts, ``obs_names`` cell ids, ``var_names`` gene
            symbols, ``obs`` has at least ``x_um`` and ``y_um`` (float64, micrometres in the frame of the instrument:
            the centre of the nucleus where it is known, else of the cell), and ``cell_area_um2`` and
            ``nucleus_area_um2`` where known.
        nuclei, outlines: (N,) polygons of the nucleus and of the cell in the same frame; None: the source has none.
        to_image: (3, 3) affine from that frame to level-0 pixels of the H&E image, where the source says it.
        source: for provenance: paths' names, format, versions. JSON-able.
    """

    name: str
    cells: anndata.AnnData
    nuclei: Polygons | None = None
    outlines: Polygons | None = None
    to_image: NDArray[np.float64] | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> NDArray[np.float64]:
        """(N, 2) micrometres."""
        return self.cells.obs[[X, Y]].to_numpy(dtype=np.float64)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of an H&E image, in level-0 pixels.

    Attributes:
        boxes: (M, 4) float32 xyxy.
        scores: (M,) float32 in [0, 1]; 1 where drawn by others.
        polygons: (M,) or None: the source has boxes only.
        source: for provenance. JSON-able.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    polygons: Polygons | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> NDArray[np.float64]:
        """(M, 2) centres of the boxes, level-0 pixels."""
        boxes = self.boxes.astype(np.float64)
        return (boxes[:, :2] + boxes[:, 2:]) / 2

    def __len__(self) -> int:
        return len(self.boxes)
