"""Cells that were given, of a slide or of an image in memory, made a cell table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.export import check_formats, check_free
from celldetr.cells.schema import CELLS, table_metadata, table_to_frame
from celldetr.cohort.predict import write_outputs
from celldetr.errors import InputError
from celldetr.given.cells import GivenCells, from_boxes, on_slide
from celldetr.given.embed import RecordsInMemory, RecordsOnDisk, embed_given, extents_of, place, plan_for, record_type
from celldetr.given.files import read_given
from celldetr.given.options import EmbedOptions
from celldetr.given.places import check_places
from celldetr.given.rows import given_rows, given_schema
from celldetr.io.run_folder import RunFolder
from celldetr.model.at_boxes import refuse_without_decoder
from celldetr.model.inference import TilePredictor
from celldetr.slide.band_cache import PARTS
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import FailedTile
from celldetr.slide.doubts import CellFacts, doubts_of_given
from celldetr.slide.engine import (
    GIVEN,
    RunSummary,
    SlideProgress,
    begin_session,
    keep_or_discard,
    session_times,
    slide_folder,
    summarise,
)
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import BandInfo, Job, Seconds
from celldetr.slide.plan import make_plan, with_stain
from celldetr.slide.provenance import damage_warning, environment, identity, job_warnings, results, table_provenance
from celldetr.slide.reader import from_array, open_slide
from celldetr.slide.table_writer import joint_bounds, write_rows

if TYPE_CHECKING:
    import pandas as pd


def embed_slide(
    path: Path | str,
    cells: Path | str,
    out: Path | str,
    model: TilePredictor,
    options: EmbedOptions | None = None,
    *,
    formats: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[SlideProgress], None] | None = None,
) -> RunSummary:
    """Type and embed the cells of a file and write ``out/<slide>/``, as ``celldetr.predict_slide`` does for its own.

    Args:
        path: the slide.
        cells: see ``given.files.read_given``.
        out: folder in which a folder of the slide's name is made.
        model: with a representation decoder.
        options: how slide and cells are read.
        formats: as of ``predict_slide``.
        resume: continue an interrupted run, or accept a finished one.
        overwrite: replace an earlier result.
        progress: told how far the run is.

    Returns:
        As of ``predict_slide``. The table has the cells in the order of the file and their ids in ``given_id``.

    Raises:
        InputError: anything wrong with the slide, the cells, the options or the output; one line says what to do.
    """
    options = options or EmbedOptions()
    check_formats(formats)
    refuse_without_decoder(model.network)
    with open_slide(path, options.mpp) as reader:
        if not (resume or overwrite):
            check_free(Path(out) / reader.name, formats)
        start = time.perf_counter()
        given = read_given(Path(cells), reader, options.origin)
        request = identity(reader, model, PredictOptions(mpp=options.mpp))
        # In the options, so that no run of celldetr predict takes the folder for its own, or the other way round.
        request["options"] = options.model_dump(mode="json") | {"given": given.source}
        folder = slide_folder(Path(out) / reader.name, request)
        folder.check(resume=resume, overwrite=overwrite)

        def prepare() -> tuple[Job, GivenCells, list[str]]:
            kept, _, doubts = on_slide(given, reader.width, reader.height, (reader.mpp_x, reader.mpp_y))
            doubts += [] if options.any_stain else check_places(kept, reader)
            return _job(reader, model, kept, PredictOptions(mpp=options.mpp, any_stain=options.any_stain)), kept, doubts

        # Before the folder is opened, because with that goes what is to be overwritten, and cells may be refused.
        prepared = None if folder.is_finished else prepare()
        with folder.open(resume=resume, overwrite=overwrite):
            if not folder.is_finished:
                job, kept, doubts = prepared or prepare()
                _complete(folder, job, model, kept, doubts, start, progress)
            write_outputs(folder.path, reader, formats, keep=resume, overwrite=overwrite or resume)
            return summarise(folder)


def embed_array(
    array: NDArray[np.uint8], boxes: NDArray[np.floating], mpp: float, model: TilePredictor
) -> pd.DataFrame:
    """Type and embed given cells of an image in memory; see ``celldetr.Model.embed``."""
    refuse_without_decoder(model.network)
    reader = from_array(array, mpp)
    given, inside, doubts = from_boxes(boxes), np.ones(len(boxes), np.bool_), list[str]()
    if len(given):
        given, inside, doubts = on_slide(given, reader.width, reader.height, (reader.mpp_x, reader.mpp_y))
    if not inside.all():
        raise InputError(f"`boxes`: {'; '.join(doubts)}; leave them out, so that each box has its row")
    doubts += check_places(given, reader)
    job = _job(reader, model, given, PredictOptions(tissue=False))
    records = RecordsInMemory(np.zeros(len(given), record_type(model)))
    embed_given(job, model, given, records, Seconds())
    schema = given_schema(model.types, model.embedding_dim, given)
    every = np.arange(len(given))
    parts = given_rows(given, records.records, every, model.types, (reader.mpp_x, reader.mpp_y))
    table = pa.concat_tables([schema.empty_table(), *parts])
    warnings = [*job_warnings(job), *doubts, *doubts_of_given(job, CellFacts.of(table, reader.mpp))]
    provenance = table_provenance(identity(reader, model, job.options)) | {"warnings": warnings}
    bounds = joint_bounds(records.records["box"], records.records["radii"])
    table = table.replace_schema_metadata(table_metadata(provenance, bounds))
    return table_to_frame(table.drop_columns(["given_id"]), model.types)


def _job(reader: SlideReader, model: TilePredictor, given: GivenCells, options: PredictOptions) -> Job:
    plan = make_plan(reader, model, options)
    if len(given):
        around, owner = extents_of(given, (reader.mpp_x, reader.mpp_y)), place(plan.grid, given)
        plan = plan_for(plan, around, owner, options.overlap // 2, whole=model.image_px is not None)
    return Job(reader, model, options, with_stain(plan, reader, any_stain=options.any_stain))


def _complete(
    folder: RunFolder,
    job: Job,
    model: TilePredictor,
    given: GivenCells,
    doubts: list[str],
    start: float,
    progress: Callable[[SlideProgress], None] | None,
) -> None:
    """Do what is left to do, and finish the run in its folder."""
    warnings, seconds, earlier = [*job_warnings(job), *doubts], Seconds(), dict(folder.record)
    begin_session(folder, warnings=warnings)
    records = RecordsOnDisk(folder.path / PARTS / GIVEN, record_type(model), len(given))
    try:
        failed = embed_given(job, model, given, records, seconds, progress)
        mapped = records.open()
        index = np.flatnonzero(mapped["done"])
        if not len(index):
            raise InputError(f"{job.reader.file}: no tile with cells can be decoded; the first: {failed[0].reason}")
        if failed:
            missing = given.ids[mapped["done"] == 0]
            warnings.append(f"{damage_warning(failed)}: {len(missing):,} of those given")
        writing = time.perf_counter()
        _write_table(folder, job, given, mapped, index, failed)
        warnings += doubts_of_given(job, CellFacts.of_file(folder.path / CELLS, job.reader.mpp))
        seconds.write += time.perf_counter() - writing
        counts = np.bincount(mapped["probabilities"][index].argmax(1), minlength=len(model.types))
        tiles = job.plan.count(job.plan.bands)
        info = BandInfo(tiles, counts, None, tuple(failed), is_lost=False)
        facts = {**session_times(earlier, start, seconds), **environment()}
        status = "partial" if failed else "complete"
        folder.finish(status, warnings=warnings, **facts, **results([info], job.plan, model.types))
    except BaseException:
        keep_or_discard(folder, session_times(earlier, start, seconds), records.any_done())
        raise


def _write_table(
    folder: RunFolder,
    job: Job,
    given: GivenCells,
    records: NDArray[np.void],
    index: NDArray[np.intp],
    failed: list[FailedTile],
) -> None:
    provenance = table_provenance(folder.request, len(failed)) | {"given": folder.request["options"]["given"]}
    metadata = table_metadata(provenance, joint_bounds(records["box"][index], records["radii"][index]))
    schema = given_schema(job.model.types, job.model.embedding_dim, given).with_metadata(metadata)
    rows = given_rows(given, records, index, job.model.types, (job.reader.mpp_x, job.reader.mpp_y))
    write_rows(folder.path / CELLS, schema, (each.replace_schema_metadata(metadata) for each in rows))
