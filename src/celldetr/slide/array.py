"""Cells of an image in memory, through the tiles and seams that a slide goes through: as cells or as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.rows import cell_rows
from celldetr.cells.schema import table_metadata, table_to_frame
from celldetr.model.output import TileCells, TileModel
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.doubts import CellFacts, doubts
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import Counter, Job, predict_bands
from celldetr.slide.plan import Plan, checked_plan, make_plan
from celldetr.slide.provenance import identity, job_warnings, table_provenance
from celldetr.slide.reader import from_array
from celldetr.slide.row_order import row_groups
from celldetr.slide.table_writer import joint_bounds

if TYPE_CHECKING:
    import pandas as pd


def array_cells(
    array: NDArray[np.uint8],
    mpp: float,
    model: TileModel,
    options: PredictOptions | None = None,
    *,
    least_score: float | None = None,
) -> TileCells:
    """Find the cells of an image in memory.

    Args:
        array: (H, W, 3) uint8 RGB, of any size.
        mpp: micrometres per pixel of it.
        model: finds the cells of tiles.
        options: how it is read; all of it, also without tissue, unless ``tissue`` is given.
        least_score: of a cell; None: the model's threshold.

    Returns:
        Cells in the order of a table's rows, with boxes in pixels of ``array``.

    Raises:
        InputError: not such an array (the message says how to make it one), or an mpp out of range.
    """
    return find_cells(_job(from_array(array, mpp), model, options, make_plan, least_score))


def predict_array(
    array: NDArray[np.uint8], mpp: float, model: TileModel, options: PredictOptions | None = None
) -> pd.DataFrame:
    """``array_cells`` as a table: the columns of ``celldetr.cells.schema``; ``x_px`` ... are pixels of ``array``."""
    return predict_image(from_array(array, mpp), model, options)


def predict_image(reader: SlideReader, model: TileModel, options: PredictOptions | None = None) -> pd.DataFrame:
    """As of ``predict_array``, of an open image."""
    job = _job(reader, model, options, checked_plan)
    cells = find_cells(job)
    rows = cell_rows(cells, model.types, (job.reader.mpp_x, job.reader.mpp_y))
    warnings = [*job_warnings(job), *doubts(job, CellFacts.of(rows, job.reader.mpp))]
    provenance = table_provenance(identity(job.reader, model, job.options)) | {"warnings": warnings}
    metadata = table_metadata(provenance, joint_bounds(cells.boxes, cells.radii))
    return table_to_frame(rows.replace_schema_metadata(metadata), model.types)


def _job(
    reader: SlideReader,
    model: TileModel,
    options: PredictOptions | None,
    plan: Callable[[SlideReader, TileModel, PredictOptions], Plan],
    least_score: float | None = None,
) -> Job:
    options = options or PredictOptions()
    if "tissue" not in options.model_fields_set:
        options = options.model_copy(update={"tissue": False})
    return Job(reader, model, options, plan(reader, model, options), least_score)


def find_cells(job: Job) -> TileCells:
    """The cells of a job, in the order of a table's rows, with boxes in level-0 pixels."""
    none = TileCells.none(len(job.model.types), job.model.embedding_dim)
    bands = predict_bands(job, Counter())
    return TileCells.join([none, *row_groups(cells for cells, _ in bands)])
