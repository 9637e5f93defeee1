"""What all readers share: options, errors in words, and cells that have an id, a place and genes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from celldetr.config import Config, Mpp
from celldetr.errors import InputError
from celldetr.spatial.section import X, Y

if TYPE_CHECKING:
    import anndata
    import pandas as pd

AMBIGUOUS = ("x_pixel", "y_pixel")  # columns of obs: column and row in some files, row and column in others
GENE_TYPES = ("Gene Expression", "gene", "gene_expression")  # of HDF5 and MEX, and of Zarr
# What to do about a bad file: the same advice behind each of the libraries' own words.
DAMAGED = "the file is damaged or incomplete; copy it again, or export it anew"


class ReadOptions(Config):
    """How a section is read; the defaults suit a Xenium bundle, the others are for AnnData and HEST-1k."""

    reader: Literal["auto", "spatialdata-io", "plain"] = Field(
        "auto", description="Without effect since 0.2.0: bundles are read in one way."
    )
    unit: Literal["auto", "um", "px"] = Field(
        "auto", description="Unit of the coordinates; auto: by the names of their columns, where these tell."
    )
    mpp: Mpp | None = Field(
        None, description="Micrometres per pixel of the H&E image; needed for pixels without metadata."
    )
    x: str | None = Field(None, description="Column of obs with x; default: one with a usual name, else obsm.")
    y: str | None = Field(None, description="Column of obs with y.")
    obsm: str = Field("spatial", description="Key of obsm with the coordinates.")
    swap_xy: bool | None = Field(
        None,
        description="Exchange x and y. x_pixel and y_pixel, which some use for row and column and others the other way"
        " round, must be decided.",
    )
    layer: str | None = Field(
        None, description="Where the whole counts are; default: X, then layers counts and raw_counts, then raw."
    )
    gene_column: str | None = Field(None, description="Column of var with gene symbols; default: var_names.")
    undo_log: bool = Field(False, description="Recover counts from normalised values where that can be proved.")
    drop_unplaced: bool = Field(False, description="Leave cells without finite coordinates out; else refuse them.")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads ``path`` into an ``InputError`` of one line that names it."""
    try:
        yield
    except (InputError, MemoryError, ImportError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    # Readers of HDF5, Parquet, Zarr and gzip fail on damaged files in ways of their own: KeyError, struct.error, ...
    except Exception as error:
        text = " ".join(str(error).split())
        reason = text if len(text) <= 200 else f"{text[:200]}..."
        raise InputError(f"{path}: cannot be read ({reason or type(error).__name__}); {DAMAGED}") from None


def as_text(ids: ArrayLike) -> NDArray[np.object_]:
    """Ids as text, whether they were text, bytes or numbers: (N,) objects."""
    values = np.asarray(ids)
    if values.dtype.kind == "f" and np.all(values == np.floor(values)):  # a column of integers, once with a gap
        values = values.astype(np.int64)
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8").astype(object)
    if values.dtype.kind == "O" and len(values) and isinstance(values[0], bytes):
        return np.array([value.decode("utf-8") for value in values], dtype=object)
    return values.astype(str).astype(object)


def check_ids(ids: NDArray[np.object_], where: Path | str) -> None:
    """Raise InputError if there are none, or two are the same."""
    import pandas as pd

    if not len(ids):
        raise InputError(f"{where}: holds no cells; was the run finished, and is it the right folder?")
    twice = ids[pd.Index(ids).duplicated()]
    if len(twice):
        raise InputError(
            f"{where}: {len(twice):,} cell ids occur more than once ({twice[0]!r}, say); each cell needs its own:"
            " where regions were joined, put the region's name in front"
        )


def split_genes(types: NDArray[np.object_]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """(F,) which features are genes by their types; and of control probes, codewords ... how many of each type."""
    gene = np.isin(types.astype(str), GENE_TYPES)
    kinds, numbers = np.unique(types[~gene].astype(str), return_counts=True)
    return gene, dict(zip(kinds.tolist(), numbers.tolist(), strict=True))


def places(
    xy: NDArray[np.float64], where: Path | str, options: ReadOptions
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """(N,) which cells have a place, and what to add to the source's ``left_out``."""
    placed: NDArray[np.bool_] = np.asarray(np.isfinite(xy).all(axis=1))
    missing = int(len(placed) - placed.sum())
    if missing and not (options.drop_unplaced and placed.any()):
        raise InputError(
            f"{where}: {missing:,} of {len(xy):,} cells have no finite coordinates; correct them, or leave these cells"
            " out with drop_unplaced"
        )
    return placed, {"cells without coordinates": missing} if missing else {}


def make_cells(
    counts: Any,
    ids: NDArray[np.object_],
    genes: NDArray[np.object_],
    gene_ids: NDArray[np.object_],
    xy: NDArray[np.float64],
    obs: pd.DataFrame,
) -> anndata.AnnData:
    """``Section.cells`` from its parts: (N, G) CSR float32, N ids, G genes, (N, 2) micrometres, and more columns.

    A gene that occurs twice gets -1, -2, ... behind its later names.
    """
    import anndata
    import pandas as pd

    index = pd.Index(ids, dtype=object)
    frame = pd.DataFrame({X: xy[:, 0], Y: xy[:, 1]}, index=index)
    frame = pd.concat([frame, obs.drop(columns=[X, Y], errors="ignore").set_axis(index, axis=0)], axis=1)
    var = pd.DataFrame({"gene_ids": gene_ids}, index=pd.Index(genes, dtype=object))
    cells = anndata.AnnData(counts, obs=frame, var=var)
    cells.var_names_make_unique()
    return cells
