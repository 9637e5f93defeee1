"""A section on its way from bundle to patch set: six steps, held in memory, each with a checkpoint on disk.

    with open_set(out, resume=True) as pipeline:
        pipeline.read(bundle)                          # 1. Section
        pipeline.qc()                                  # 2. cells that pass
        pipeline.annotate(reference, "cell_type")      # 3. their types
        pipeline.find_nuclei(image)                    # 4. nuclei of the H&E image
        pipeline.align(alignment)                      # 5. affine, and pairs of cells and nuclei
        pipeline.write()                               # 6. patch set
        write_report(pipeline)

A step hands its result on in memory; what an earlier process has left is read from ``SET/steps`` when it is first asked
for. A step that is finished, with the same settings and inputs and on the same steps before it, does not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from celldetr.config import Config
from celldetr.data.patch_set import SET_FILE
from celldetr.errors import InputError
from celldetr.io.files import write_json
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import open_slide
from celldetr.spatial import affine as affines
from celldetr.spatial import files
from celldetr.spatial.align import AlignOptions, align_and_pair
from celldetr.spatial.annotate.annotation import Progress
from celldetr.spatial.annotate.cells import TypeOptions, annotate_cells
from celldetr.spatial.annotate.hierarchy import load_hierarchy
from celldetr.spatial.files import read_table, stamp, write_table
from celldetr.spatial.nuclei import PREDICTED, find_nuclei
from celldetr.spatial.pair import PairOptions
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.qc import QualityOptions, filter_cells, qc_cells, qc_summary
from celldetr.spatial.readers import read_section
from celldetr.spatial.readers.common import ReadOptions
from celldetr.spatial.section import PAIRS, QUALITY, TYPES, Nuclei, Section
from celldetr.spatial.write import write_set

if TYPE_CHECKING:
    import pandas as pd

    from celldetr.api import Model

# step -> the steps whose results it reads, in the order in which they run
STEPS: dict[str, tuple[str, ...]] = {
    "read": (),
    "qc": ("read",),
    "type": ("read", "qc"),
    "nuclei": (),
    "align": ("read", "qc", "nuclei"),
    "write": ("read", "qc", "type", "nuclei", "align"),
}
# One line about each, of its facts.
SUMMARIES = {
    "read": "{name}, {cells:,} cells x {genes:,} genes, {median_counts:,.0f} transcripts a cell in the median",
    "qc": "{passed:,} of {cells:,} cells pass",
    "type": "{sure:,} of {cells:,} cells are sure of their type, by {method}",
    "nuclei": "{nuclei:,} nuclei, {median_side_um:.1f} um across in the median",
    "align": "{why}; {pairs[pairs]:,} pairs, {pairs[cells_paired]:.0%} of the cells and {pairs[nuclei_paired]:.0%} of"
    " the nuclei, {pairs[median_um]:.2f} um apart in the median",
    "write": "{patches:,} patches with {nuclei:,} nuclei",
}
FOLDER, REPORT_FILE = "steps", "report.html"
_PREDICTED = tuple(f"{FOLDER}/{PREDICTED}*{inside}" for inside in ("/*/*", "/*/", "/"))
LAYOUT = Layout(
    "spatial.json",
    outputs=(SET_FILE, "patches-*.arrow", REPORT_FILE, *_PREDICTED, f"{FOLDER}/*", f"{FOLDER}/"),
    noun="set",
)


class SpatialOptions(Config):
    """Settings of the steps beside their inputs, e.g. ``qc.min_counts``."""

    read: ReadOptions = ReadOptions()
    qc: QualityOptions = QualityOptions()
    type: TypeOptions = TypeOptions()
    align: AlignOptions = AlignOptions()
    pair: PairOptions = PairOptions()
    write: WriteOptions = WriteOptions()


@contextmanager
def open_set(
    folder: Path,
    options: SpatialOptions | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> Iterator[Pipeline]:
    """The pipeline of a set, whose folder no other process works on meanwhile.

    Args:
        folder: of the set; made if needed.
        options: settings of its steps.
        resume: keep the steps that are finished and unchanged.
        overwrite: do every step again; what is there is removed.
        progress: given the name of a step, what is called with the share of it that is done.

    Raises:
        InputError: see ``RunFolder.open``; or the set is of 0.1.
    """
    run = RunFolder(folder, LAYOUT)
    with run.open(resume=resume, overwrite=overwrite):
        if any("after" not in step for step in run.steps.values()):
            raise InputError(f"{folder}: holds a set of CellDETR 0.1, which cannot be continued; set `overwrite=True`")
        yield Pipeline(run, options or SpatialOptions(), progress or (lambda _: lambda _: None))
        if all(name in run.steps and not run.is_stale(name) for name in STEPS):
            run.finish()


class Pipeline:
    """The steps of one set and their results; see the module.

    Each step is a method that takes its inputs, and returns whether it ran.

    Attributes:
        run: the folder of the set, open.
        options: settings of the steps.
        progress: see ``open_set``.
        folder, files: of the set, and of the checkpoints.
        redo: run steps again even if they are finished and unchanged.
    """

    def __init__(self, run: RunFolder, options: SpatialOptions, progress: Callable[[str], Progress]) -> None:
        self.run, self.options, self.progress, self.redo = run, options, progress, False
        self.folder, self.files = run.path, run.path / FOLDER

    def read(self, bundle: Path, *, kind: str = "auto", name: str = "") -> bool:
        """Step 1: read a section, see ``read_section``."""
        options = self.options.read

        def work() -> dict[str, Any]:
            self.section = read_section(bundle, kind=kind, name=name, options=options)
            files.write_section(self.section, self.files)
            return self.section.facts()

        settings = {"bundle": bundle, "kind": kind, "name": name, "options": options}
        return self._step("read", settings, (files.SECTION,), work)

    def qc(self) -> bool:
        """Step 2: the cells that pass the quality control, see ``qc_cells``."""

        def work() -> dict[str, Any]:
            self.quality = qc_cells(self.section, self.options.qc)
            self.passed = filter_cells(self.section, self.quality)
            write_table(self.quality, self.files / files.QUALITY_FILE)
            return qc_summary(self.quality)

        return self._step("qc", {"options": self.options.qc}, (files.QUALITY_FILE,), work)

    def annotate(
        self,
        reference: Path | None = None,
        type_column: str = "",
        *,
        method: str = "tacco",
        labels: Path | None = None,
        hierarchy: str | Path | None = None,
        level: str | None = None,
    ) -> bool:
        """Step 3: types of the cells that passed, see ``annotate_cells``.

        ``hierarchy`` is a YAML file, or the name of one that comes with the package.
        """
        given: dict[str, Any] = {
            "reference": reference,
            "type_column": type_column,
            "method": method,
            "labels": labels,
            "hierarchy": None if hierarchy is None else load_hierarchy(hierarchy),
            "level": level,
            "options": self.options.type,
        }

        def work() -> dict[str, Any]:
            annotated = annotate_cells(self.passed.cells, progress=self.progress("type"), **given)
            self.types, fine, self.expression, facts = annotated
            write_table(fine, self.files / files.FINE_FILE)
            write_table(self.types, self.files / files.TYPES_FILE)
            (self.files / files.EXPRESSION_FILE).unlink(missing_ok=True)
            if self.expression is not None:
                write_table(self.expression, self.files / files.EXPRESSION_FILE)
            return facts

        return self._step("type", given, (files.TYPES_FILE,), work)

    def find_nuclei(
        self,
        image: Path,
        *,
        model: Model | str | Path | None = None,
        polygons: Path | None = None,
        cells: Path | None = None,
        mpp: float | None = None,
        device: str = "auto",
    ) -> bool:
        """Step 4: the nuclei of the H&E image, which later steps read as well; see ``nuclei.find_nuclei``."""
        if polygons is not None and cells is not None:
            raise InputError(f"nuclei from {polygons} and from {cells}: name one of them")
        settings: dict[str, Any] = {"image": image, "mpp": mpp, "polygons": polygons, "cells": cells}
        if polygons is None and cells is None:
            settings["model"] = _description(model)

        def work() -> dict[str, Any]:
            given: dict[str, Any] = {"model": model, "polygons": polygons, "cells": cells, "mpp": mpp, "device": device}
            self.nuclei, facts = find_nuclei(image, self.files, progress=self.progress("nuclei"), **given)
            files.write_nuclei(self.nuclei, self.files / files.NUCLEI_FILE)
            return facts

        return self._step("nuclei", settings, (files.NUCLEI_FILE,), work)

    def align(
        self,
        alignment: Path | None = None,
        *,
        direction: str = "image_to_xenium",
        inverse: bool = False,
        refine: bool | None = None,
    ) -> bool:
        """Step 5: the affine from the section to the image, and pairs of cells and nuclei; see ``align_and_pair``.

        ``alignment`` is a file of the affine (``read_affine``), which maps in a ``direction`` (``affine.to_image``);
        without one, the section itself must say where it lies. ``refine`` replaces the option of that name.
        """
        options, pairing = self.options.align, self.options.pair
        if refine is not None:
            options = options.model_copy(update={"refine": refine})

        def work() -> dict[str, Any]:
            start = self.section.to_image
            if alignment is not None:
                pixel_um = self.section.source.get("pixel_um") or affines.PIXEL_UM
                way = cast(affines.Direction, direction)
                start = affines.to_image(affines.read_affine(alignment), way, pixel_um, inverse=inverse)
            if start is None:
                own = self.section.source.get("alignment")  # why one in the bundle is not used
                raise InputError(
                    f"{self.folder}: the section does not say where it lies on the image"
                    f"{f' (alignment in the bundle: {own})' if own else ''}; give the alignment that Xenium Explorer"
                    " exports (`alignment`, a CSV or ZIP)"
                )
            with self.open_image() as reader:
                size, mpp = (reader.width, reader.height), (reader.mpp_x, reader.mpp_y)
            self.to_image, self.pairs, facts = align_and_pair(
                self.passed, self.nuclei, start, size, mpp, options, pairing
            )
            write_json(self.files / files.ALIGNMENT_FILE, facts)
            write_table(self.pairs, self.files / files.PAIRS_FILE)
            return facts

        settings: dict[str, Any] = {"alignment": alignment, "direction": direction, "inverse": inverse}
        settings |= {"options": options, "pairing": pairing}
        return self._step("align", settings, (files.ALIGNMENT_FILE, files.PAIRS_FILE), work)

    def write(self, *, spots: Path | None = None, donor: str = "", licence: str = "unknown") -> bool:
        """Step 6: the patch set, see ``write_set``; ``spots`` is a table of spots, CSV or Parquet."""
        options = self.options.write

        def work() -> dict[str, Any]:
            table = None if spots is None else read_table(spots)
            given: dict[str, Any] = {"spots": table, "donor": donor, "licence": licence}
            results = self.nuclei, self.to_image, self.pairs, self.types
            with self.open_image() as reader:
                set_folder, progress = self.folder, self.progress("write")
                info = write_set(self.section, reader, *results, set_folder, options, progress=progress, **given)
            return info.model_dump(mode="json", include={"patches", "nuclei", "types", "slides", "made_with"})

        settings = {"options": options, "spots": spots, "donor": donor, "licence": licence}
        return self._step("write", settings, (f"../{SET_FILE}",), work)

    def _step(
        self, name: str, settings: Mapping[str, Any], outputs: tuple[str, ...], work: Callable[[], dict[str, Any]]
    ) -> bool:
        """Run a step and put it on record, unless its result is there and up to date.

        Args:
            name: of the step.
            settings: all that decides its result beside the steps before it: files, configs, or JSON-able.
            outputs: files in ``SET/steps`` that it writes.
            work: does it, and returns its facts.
        """
        recorded = {key: _recordable(value) for key, value in settings.items()}
        step = self.run.step(name, recorded, [f"{FOLDER}/{output}" for output in outputs], STEPS[name])
        if step.is_done and not self.redo:
            return False
        self.run.begin()
        try:
            with step as facts:
                facts |= work()
        except BaseException:
            if not self.run.steps:
                self.run.discard()  # a first step that fails leaves nothing to resume
            raise
        return True

    # Results of the steps: set by the step if it ran in this process, else read from its checkpoint.

    @cached_property
    def section(self) -> Section:
        """Of step 1."""
        return files.read_section_files(self.files)

    @cached_property
    def quality(self) -> pd.DataFrame:
        """Table ``QUALITY`` of step 2."""
        return read_table(self.files / files.QUALITY_FILE, QUALITY)

    @cached_property
    def passed(self) -> Section:
        """The cells that passed step 2."""
        return filter_cells(self.section, self.quality)

    @cached_property
    def types(self) -> pd.DataFrame:
        """Table ``TYPES`` of step 3."""
        return read_table(self.files / files.TYPES_FILE, TYPES)

    @cached_property
    def expression(self) -> pd.DataFrame | None:
        """Mean expression by type, of step 3; None without a reference."""
        path = self.files / files.EXPRESSION_FILE
        return read_table(path) if path.is_file() else None

    @cached_property
    def nuclei(self) -> Nuclei:
        """Of step 4."""
        return replace(files.read_nuclei(self.files / files.NUCLEI_FILE), source=self.facts("nuclei")["source"])

    @cached_property
    def to_image(self) -> affines.Floats:
        """(3, 3) of step 5: micrometres of the section to level-0 pixels of the image."""
        return np.array(self.facts("align")["after"], dtype=np.float64)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Table ``PAIRS`` of step 5."""
        return read_table(self.files / files.PAIRS_FILE, PAIRS)

    def summary(self, step: str) -> str:
        """One line about a finished step."""
        return SUMMARIES[step].format(**self.facts(step))

    @property
    def done(self) -> list[str]:
        """Names of the steps that were run, in order."""
        return [name for name in STEPS if name in self.run.steps]

    def recorded(self, step: str) -> dict[str, Any]:
        """The ``facts``, ``settings`` and ``seconds`` of a finished step, JSON-able."""
        if step not in self.run.steps:
            raise InputError(f"{self.folder}: step {step!r} was not run yet; run it first")
        return self.run.steps[step]

    def facts(self, step: str) -> dict[str, Any]:
        """Numbers of a finished step, JSON-able."""
        values: dict[str, Any] = self.recorded(step)["facts"]
        return values

    def open_image(self) -> SlideReader:
        """The H&E image of step 4."""
        settings = self.recorded("nuclei")["settings"]
        return open_slide(Path(settings["image"][0]), settings["mpp"])


def _recordable(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    return stamp(value) if isinstance(value, Path) else value


def _description(model: Model | str | Path | None) -> Any:
    """What is recorded of a model."""
    from celldetr.api import Model
    from celldetr.model.hub import find_model

    return model.describe() if isinstance(model, Model) else stamp(find_model(model))
