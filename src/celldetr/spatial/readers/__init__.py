"""Step 1: a section of spatial transcriptomics from a Xenium bundle, a HEST-1k sample or an AnnData file.

A format is one module and one branch of ``read_section``.
"""

from __future__ import annotations

from pathlib import Path

from celldetr.errors import InputError, doubt, near
from celldetr.io.left_out import LeftOut
from celldetr.io.safe_io import expand_user, is_dir, is_file
from celldetr.spatial.readers.anndata_file import load, read_anndata
from celldetr.spatial.readers.common import ReadOptions
from celldetr.spatial.readers.hest import looks_like_hest
from celldetr.spatial.readers.xenium import EXPERIMENT, is_bundle, read_xenium
from celldetr.spatial.section import Section

__all__ = ["ReadOptions", "is_section", "read_section"]

KINDS = ("auto", "xenium", "hest", "anndata")
WORDS = {"foreign": "polygons of {} of cells that are not in the bundle", "damaged": "polygons of {} that are damaged"}


def is_section(path: Path) -> bool:
    """Whether a path looks like what ``read_section`` reads."""
    return is_bundle(path.parent if path.name == EXPERIMENT else path) or (is_file(path) and path.suffix == ".h5ad")


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
        return _told(read_xenium(where, name, options), where)
    if not is_file(where) or where.suffix != ".h5ad":
        raise InputError(f"{where}: no such section; expected a Xenium output folder or an AnnData file (.h5ad)")
    data = load(where)
    is_hest = kind == "hest" or (kind == "auto" and looks_like_hest(data, where))
    return _told(read_anndata(data, where, name, options, is_hest=is_hest), where)


def _told(section: Section, path: Path) -> Section:
    """Say what of a section was left out."""
    left = LeftOut(path)
    for what, count in section.source["left_out"].items():
        left.add(what, count=count)
    for kind, numbers in section.source.get("polygons", {}).items():
        for odd, words in WORDS.items():
            if numbers.get(odd):
                left.add(words.format(kind), count=numbers[odd])
    left.tell()
    if str(section.source.get("alignment", "")).startswith("not used"):
        doubt(f"{path}: an alignment is {section.source['alignment']}")
    return section
