"""One slide from file to folder: its cell table, then pictures and exports, under one lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from celldetr.cells.export import check_formats, check_free, is_current, write_format
from celldetr.cells.schema import CELLS
from celldetr.io.lock import RunLock
from celldetr.model.output import TileModel
from celldetr.report.overview import OVERVIEW_NAME, write_overview
from celldetr.report.summary import SUMMARY_NAME, write_summary
from celldetr.search.collection import Sources, find_cells
from celldetr.search.slides import open_slides
from celldetr.slide.engine import RunSummary, SlideProgress, run_slide
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import open_slide
from celldetr.teach.head_file import load_fitting
from celldetr.teach.retype import is_typed_by, retype_table

if TYPE_CHECKING:
    from celldetr.cohort.request import Request
    from celldetr.slide.base_reader import SlideReader
    from celldetr.slide.find import Slide


def predict_slide(
    path: Path | str,
    out: Path | str,
    model: TileModel,
    options: PredictOptions,
    *,
    formats: Sequence[str] = (),
    head: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[SlideProgress], None] | None = None,
) -> RunSummary:
    """Find every cell of a slide and write ``out/<slide>/``; see ``celldetr.predict_slide``.

    Raises:
        InputError: anything wrong with the slide, the options or the output; one line says what to do.
    """
    check_formats(formats)  # before the slide is read rather than after
    taught = None if head is None else load_fitting(head, model.describe().get("sha256"), model.embedding_dim)
    with open_slide(path, options.mpp) as reader:
        if not (resume or overwrite):
            check_free(Path(out) / reader.name, formats)
        run = run_slide(reader, model, out, options, progress, resume=resume, overwrite=overwrite)
        with run as summary:  # pictures are made from a finished table only: those that are there are of this one
            if taught is not None and not is_typed_by(summary.directory / CELLS, taught[1]):
                retype_table(summary.directory / CELLS, *taught)
            write_outputs(summary.directory, reader, formats, keep=resume, overwrite=overwrite or resume)
        return summary


def predict_requested(
    slide: Slide, request: Request, model: TileModel, progress: Callable[[SlideProgress], None] | None = None
) -> RunSummary:
    """``predict_slide`` for a slide of a request."""
    return predict_slide(
        slide.path,
        request.out,
        model,
        request.options_of(slide),
        formats=request.formats,
        head=request.head,
        resume=request.resume,
        overwrite=request.overwrite,
        progress=progress,
    )


def draw_again(cells: Sources, slides: Sequence[Path]) -> tuple[str, ...]:
    """Draw ``overview.png`` and ``summary.html`` of finished slides anew, after their types have changed.

    Args:
        cells: as of ``find_cells``.
        slides: slide files, or folders that hold them.

    Returns:
        why slides were not drawn, a sentence each.
    """
    collection = find_cells(cells, clusters=False)
    with open_slides(collection, slides, [slide.name for slide in collection.slides]) as opened:
        for slide in collection.slides:
            if slide.name in opened.readers:
                with RunLock(slide.table.path.parent):
                    write_outputs(slide.table.path.parent, opened.readers[slide.name])
        return opened.missing


def write_outputs(
    directory: Path, reader: SlideReader, formats: Sequence[str] = (), *, keep: bool = False, overwrite: bool = False
) -> None:
    """Write ``overview.png``, ``summary.html`` and exports into a finished run's folder, which the caller holds.

    ``keep`` leaves a picture, a summary and exports that are newer than the cells; ``overwrite`` replaces exports.
    """
    cells = (directory / CELLS).stat().st_mtime_ns
    for name, write in ((OVERVIEW_NAME, write_overview), (SUMMARY_NAME, write_summary)):
        if not (keep and (directory / name).is_file() and (directory / name).stat().st_mtime_ns >= cells):
            write(directory, reader)
    for name in formats:
        if keep and is_current(directory, name):
            continue
        write_format(directory, name, overwrite=overwrite)
