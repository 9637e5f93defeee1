"""Step 1: a section of spatial transcriptomics from a Xenium bundle, a HEST-1k sample or an AnnData file.

A format is one module and one branch of ``read_section``.
"""

from __future__ import annotations

from pathlib import Path

from celldetr.errors import InputError, near
from celldetr.io.safe_io import expand_user, is_dir, is_file
from celldetr.spatial.readers.anndata_file import load, read_anndata
from celldetr.spatial.readers.common import ReadOptions
from celldetr.spatial.readers.hest import looks_like_hest
from celldetr.spatial.readers.xenium import EXPERIMENT, read_xenium
from celldetr.spatial.section import Section

__all__ = ["ReadOptions", "read_section"]

KINDS = ("auto", "xenium", "hest", "anndata")


def read_section(
    path: str | Path, *, kind: str = "auto", name: str = "", options: ReadOptions | None = None
) -> Section:
    """Read a section: whole counts of genes, unique ids, a place for each cell.

    Control probes, control codewords and the like are counted in ``source["features_left_out"]``, and cells that were
    left out in ``source["left_out"]``.

    Args:
        path: the output folder of a Xenium run (or its experiment.xenium), or an AnnData file (.h5ad).
        kind: what it is; auto: a folder or experiment.xenium is a Xenium bundle, and an AnnData file a HEST-1k sample
            if it has its marks (pixel sizes in ``uns``, ``metadata/ID.json``, ``x_pixel``).
        name: of the section; default: of the run, the folder or the file.
        options: how to read it.

    Raises:
        InputError: nothing is there, it is something else, damaged, has no whole counts, ids that occur twice, or cells
            without coordinates.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}: {near(kind, KINDS)}")
    where, options = expand_user(Path(path)), options or ReadOptions()
    if where.name == EXPERIMENT:
        where = where.parent
    if kind == "xenium" or (kind == "auto" and is_dir(where)):
        return read_xenium(where, name, options)
    if not is_file(where) or where.suffix != ".h5ad":
        raise InputError(f"{where}: no such section; expected a Xenium output folder or an AnnData file (.h5ad)")
    data = load(where)
    is_hest = kind == "hest" or (kind == "auto" and looks_like_hest(data, where))
    return read_anndata(data, where, name, options, is_hest=is_hest)
