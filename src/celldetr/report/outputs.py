"""What is made from a slide's finished cell table: overview, summary page, exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from celldetr.cells.export import is_current, write_format
from celldetr.report.overview import OVERVIEW_NAME, write_overview
from celldetr.report.summary import SUMMARY_NAME, write_summary

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader


def write_outputs(
    directory: Path, reader: SlideReader, formats: Sequence[str] = (), *, keep: bool = False, overwrite: bool = False
) -> None:
    """Write ``overview.png``, ``summary.html`` and exports into a run's folder, which the caller holds.

    Args:
        directory: of the run.
        reader: the slide.
        formats: exports to write.
        keep: leave a picture and a summary that are there, and exports that are newer than the cells.
        overwrite: replace exports that are there.

    Raises:
        InputError: the slide cannot be read any more, or a file cannot be written.
    """
    for name, write in ((OVERVIEW_NAME, write_overview), (SUMMARY_NAME, write_summary)):
        if not (keep and (directory / name).is_file()):
            write(directory, reader)
    for name in formats:
        if keep and is_current(directory, name):
            continue
        write_format(directory, name, overwrite=overwrite)
