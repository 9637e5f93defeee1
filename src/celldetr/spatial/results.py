"""Results of the steps of a set, in memory or else from the checkpoints in ``SET/steps``; which steps are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.data.patch_set import SET_FILE
from celldetr.errors import InputError
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import open_slide
from celldetr.spatial import files
from celldetr.spatial.files import read_table
from celldetr.spatial.nuclei import PREDICTED
from celldetr.spatial.qc import filter_cells
from celldetr.spatial.section import PAIRS, QUALITY, TYPES, Nuclei, Section

if TYPE_CHECKING:
    import pandas as pd

# step -> the steps whose results it reads, in the order in which they run
STEPS: dict[str, tuple[str, ...]] = {
    "read": (),
    "qc": ("read",),
    "type": ("read", "qc"),
    "nuclei": (),
    "align": ("read", "qc", "nuclei"),
    "write": ("read", "qc", "type", "nuclei", "align"),
}
FOLDER, REPORT_FILE = "steps", "report.html"
_PREDICTED = tuple(f"{FOLDER}/{PREDICTED}*{inside}" for inside in ("/*/*", "/*/", "/"))
LAYOUT = Layout(
    "spatial.json",
    outputs=(SET_FILE, "patches-*.arrow", REPORT_FILE, *_PREDICTED, f"{FOLDER}/*", f"{FOLDER}/"),
    noun="set",
)


class StepResults:
    """The steps of one set that are done, and their results.

    Args:
        run: the folder of the set, open.

    Attributes:
        folder, files: of the set, and of the checkpoints.
        redo: run steps again even if they are finished and unchanged.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.redo = run, False
        self.folder, self.files = run.path, run.path / FOLDER
        self._results: dict[str, Any] = {}

    def _step(
        self, name: str, settings: Mapping[str, Any], outputs: tuple[str, ...], work: Callable[[], dict[str, Any]]
    ) -> bool:
        """Run a step and put it on record, unless its result is there and up to date.

        Args:
            name: of the step.
            settings: all that decides its result beside the steps before it, JSON-able.
            outputs: files in ``SET/steps`` that it writes.
            work: does it, and returns its facts.
        """
        step = self.run.step(name, settings, [f"{FOLDER}/{output}" for output in outputs], STEPS[name])
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

    @property
    def section(self) -> Section:
        """Of step 1."""
        return self._result("section", lambda: files.read_section_files(self.files))

    @property
    def quality(self) -> pd.DataFrame:
        """Table ``QUALITY`` of step 2."""
        return self._result("quality", lambda: read_table(self.files / files.QUALITY_FILE, QUALITY))

    @property
    def passed(self) -> Section:
        """The cells that passed step 2."""
        return self._result("passed", lambda: filter_cells(self.section, self.quality))

    @property
    def types(self) -> pd.DataFrame:
        """Table ``TYPES`` of step 3."""
        return self._result("types", lambda: read_table(self.files / files.TYPES_FILE, TYPES))

    @property
    def expression(self) -> pd.DataFrame | None:
        """Mean expression by type, of step 3; None without a reference."""
        path = self.files / files.EXPRESSION_FILE
        return self._result("expression", lambda: read_table(path) if path.is_file() else None)

    @property
    def nuclei(self) -> Nuclei:
        """Of step 4."""
        path = self.files / files.NUCLEI_FILE
        return self._result("nuclei", lambda: replace(files.read_nuclei(path), source=self.facts("nuclei")["source"]))

    @property
    def to_image(self) -> NDArray[np.float64]:
        """(3, 3) of step 5: micrometres of the section to level-0 pixels of the image."""
        return self._result("to_image", lambda: np.array(self.facts("align")["after"], dtype=np.float64))

    @property
    def pairs(self) -> pd.DataFrame:
        """Table ``PAIRS`` of step 5."""
        return self._result("pairs", lambda: read_table(self.files / files.PAIRS_FILE, PAIRS))

    def _result(self, name: str, load: Callable[[], Any]) -> Any:
        """A result, from memory or else from its checkpoint."""
        if name not in self._results:
            self._results[name] = load()
        return self._results[name]

    @property
    def done(self) -> list[str]:
        """Names of the steps that were run, in order."""
        return [name for name in STEPS if name in self.run.steps]

    def facts(self, step: str) -> dict[str, Any]:
        """Numbers of a finished step, JSON-able."""
        return self._recorded(step, "facts")

    def settings(self, step: str) -> dict[str, Any]:
        """Settings and inputs of a finished step, JSON-able."""
        return self._recorded(step, "settings")

    def _recorded(self, step: str, what: str) -> dict[str, Any]:
        if step not in self.run.steps:
            raise InputError(f"{self.folder}: step {step!r} was not run yet; run it first")
        values: dict[str, Any] = self.run.steps[step][what]
        return values

    def open_image(self) -> SlideReader:
        """The H&E image of step 4.

        Raises:
            InputError: step 4 was not run, or the image is not there any more.
        """
        settings = self.settings("nuclei")
        return open_slide(Path(settings["image"][0]), settings["mpp"])
