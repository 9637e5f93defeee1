"""What all readers share: options, errors in words, whole counts, and cells that have an id, a place and genes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

Progress = Callable[[float], None]

# What to do about a bad file: the same advice behind each of the libraries' own words.
DAMAGED = "the file is damaged or incomplete; copy it again, or export it anew"


class ReadOptions(Config):
    """How a section is read; the defaults suit a Xenium bundle."""

    reader: Literal["auto", "spatialdata-io", "plain"] = Field(
        "auto",
        description="Of a Xenium bundle. auto: spatialdata-io where the bundle has all that it asks for, else plain,"
        " which reads the tables alone.",
    )

    # AnnData and HEST-1k.
    unit: Literal["auto", "um", "px"] = Field(
        "auto", description="What coordinates are measured in; auto: by the names of their columns."
    )
    mpp: Mpp | None = Field(
        None, description="Micrometres per pixel of the H&E image; needed for pixels where no metadata say it."
    )
    x: str | None = Field(
        None, description="Column of obs with the x coordinates; default: one with a usual name, else obsm."
    )
    y: str | None = Field(None, description="Column of obs with the y coordinates; default: as of x.")
    obsm: str = Field("spatial", description="Key of obsm with the coordinates, where no columns have them.")
    # x_pixel and y_pixel are rows and columns for some, and the other way round for others.
    swap_xy: bool | None = Field(
        None,
        description="Exchange x and y; default: as the columns' names say; for x_pixel and y_pixel it must be given.",
    )
    layer: str | None = Field(
        None, description="Where the whole counts are; default: X, then layers counts and raw_counts, then raw."
    )
    gene_column: str | None = Field(None, description="Column of var with gene symbols; default: var_names.")
    undo_log: bool = Field(False, description="Get counts back from normalised values where that can be proved.")

    drop_unplaced: bool = Field(
        False, description="Leave out cells without finite coordinates; else they are an error."
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads ``path`` into one line that names it.

    Raises:
        InputError: the file is not there, cannot be read or is not what its name says.
    """
    try:
        yield
    except (InputError, MemoryError, ImportError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    # Readers of HDF5, Parquet, Zarr and gzip fail on damaged files in ways of their own: KeyError, struct.error, ...
    except Exception as error:
        text = " ".join(str(error).split())
        said = text if len(text) <= 200 else f"{text[:200]}..."
        raise InputError(f"{path}: cannot be read ({said or type(error).__name__}); {DAMAGED}") from None


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
    index = pd.Index(ids)
    if not index.is_unique:
        twice = index[index.duplicated()]
        raise InputError(
            f"{where}: {len(twice):,} cell ids occur more than once ({twice[0]!r}, say); each cell needs its own:"
            " where regions were joined, put the region's name in front"
        )


def places(
    xy: NDArray[np.float64], where: Path | str, options: ReadOptions
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which cells have a place -> (N,) mask, and what to add to the source's ``left_out``.

    Raises:
        InputError: some have none and the options do not allow it, or none has one.
    """
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
    xy: NDArray[np.float64],
    obs: pd.DataFrame | None = None,
    var: Mapping[str, ArrayLike] | None = None,
) -> anndata.AnnData:
    """``Section.cells`` from its parts.

    Args:
        counts: (N, G) CSR float32.
        ids, genes: (N,), (G,) names; a gene that occurs twice gets -1, -2, ... behind its later names.
        xy: (N, 2) micrometres.
        obs: more columns, in the order of ``ids``; its index is not used.
        var: more columns of the genes.
    """
    import anndata
    import pandas as pd

    frame = pd.DataFrame({X: xy[:, 0], Y: xy[:, 1]}, index=pd.Index(ids, dtype=object))
    if obs is not None:
        rest = obs.drop(columns=[name for name in (X, Y) if name in obs.columns])
        frame = pd.concat([frame, rest.set_axis(frame.index, axis=0)], axis=1)
    names = pd.DataFrame(dict(var or {}), index=pd.Index(genes, dtype=object))
    cells = anndata.AnnData(counts, obs=frame, var=names)
    if not cells.var_names.is_unique:
        cells.var_names_make_unique()
    return cells
