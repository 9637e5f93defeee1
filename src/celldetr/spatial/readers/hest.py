"""A sample of HEST-1k: an AnnData file whose coordinates are pixels of its H&E image.

In HEST-1k (https://github.com/mahmoodlab/HEST) ``st/ID.h5ad`` has ``obsm['spatial']`` in pixels of the full image, and
``metadata/ID.json`` says what a pixel measures. Beware: the expression there is that of *pseudo-spots* of 100 um, for
Xenium samples too (issues 39 and 45); those are refused here, for a spot is no cell. Files with one row a cell are made
from it by others (DeepSpot, say), and theirs differ in columns and their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import load_json
from celldetr.spatial.affine import SCALES
from celldetr.spatial.readers.common import AMBIGUOUS, ReadOptions

if TYPE_CHECKING:
    import anndata

# The estimate is from the alignment, the embedded one from the image file, which can be absent or wrong.
PIXEL_SIZES = ("pixel_size_um_estimated", "pixel_size_um_embedded", "pixel_size_um", "pixel_size", "mpp")
_SPOT_COLUMNS = ("in_tissue", "array_row", "array_col")
_SPOT_UM = 20.0  # cells lie closer


def looks_like_hest(data: anndata.AnnData, path: Path) -> bool:
    """Whether a file has what marks one of HEST-1k, or of those made from it."""
    uns = data.uns.get("spatial")
    return (
        set(AMBIGUOUS) <= set(data.obs.columns)
        or any(key in data.uns for key in PIXEL_SIZES[:2])
        or (isinstance(uns, Mapping) and "ST" in uns)
        or ("spatial" in data.obsm and _metadata(path) is not None)
    )


def _metadata(path: Path) -> Path | None:
    """The metadata of a sample, beside it or where HEST-1k has it."""
    near = [path.with_suffix(".json"), path.with_name(f"metadata_{path.stem}.json")]
    near += [path.parent.parent / folder / f"{path.stem}.json" for folder in ("metadata", "meta")]
    return next((each for each in near if each.is_file()), None)


def pixel_size(data: anndata.AnnData, path: Path, options: ReadOptions) -> tuple[float, str]:
    """Micrometres per pixel, and where that is from."""
    if options.mpp is not None:
        return options.mpp, "option"
    sources: dict[str, Mapping[str, Any]] = {"uns": data.uns}
    if (beside := _metadata(path)) is not None:
        sources[beside.name] = load_json(beside)
    for where, values in sources.items():
        for key in PIXEL_SIZES:
            size = values.get(key)
            if isinstance(size, int | float | np.number) and SCALES[0] <= size <= SCALES[1]:
                return float(size), f"{where} {key}"
    raise InputError(
        f"{path}: nothing says what a pixel measures (looked in uns and for metadata/{path.stem}.json, for"
        f" {', '.join(PIXEL_SIZES[:2])}); pass mpp, micrometres per pixel of the H&E image"
    )


def refuse_spots(data: anndata.AnnData, xy: NDArray[np.float64], path: Path) -> None:
    """Raise InputError if rows are spots of a grid: by the columns of Visium, or by equal distances."""
    from scipy.spatial import cKDTree

    spots = set(_SPOT_COLUMNS) <= set(data.obs.columns)
    points = xy[np.isfinite(xy).all(axis=1)]
    if not spots and len(points) >= 20:
        some = points[:: max(1, len(points) // 2000)]
        apart = cKDTree(points).query(some, k=2)[0][:, 1]
        usual = float(np.median(apart))
        spots = usual > _SPOT_UM and float(np.mean(np.abs(apart - usual) < 0.02 * usual)) > 0.9
    if spots:
        raise InputError(
            f"{path}: its rows are spots of a grid, not cells (st/ of HEST-1k sums Xenium transcripts over spots of"
            " 100 um); give the Xenium bundle of the sample, or an AnnData file with one row a cell"
        )
