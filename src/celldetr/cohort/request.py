"""Request to predict slides, and the outcome of each: plain values that travel between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from celldetr.cohort.options import CohortOptions
from celldetr.config import InferenceOptions
from celldetr.errors import InputError
from celldetr.io.run_folder import check_modes
from celldetr.slide.engine import RunSummary, SlideProgress
from celldetr.slide.find import Slide
from celldetr.slide.options import PredictOptions


@dataclass(frozen=True)
class Request:
    """What is asked of every slide.

    Raises:
        InputError: resume and overwrite are both asked for.
    """

    out: Path  # folder in which each slide gets one
    model: InferenceOptions = field(default_factory=InferenceOptions)  # which, and how it is run
    options: PredictOptions = field(default_factory=PredictOptions)  # how a slide is read
    formats: tuple[str, ...] = ()  # exports beside the table
    resume: bool = False  # continue unfinished runs, and keep finished ones
    overwrite: bool = False  # replace what is there
    task_tiles: int = CohortOptions().task_tiles  # least tiles of a task on a cluster
    head: Path | None = None  # folder of a head that types the cells, too (``celldetr.teach``)

    def __post_init__(self) -> None:
        check_modes(self.resume, self.overwrite)

    def options_of(self, slide: Slide) -> PredictOptions:
        """The options for one slide, whose own mpp wins."""
        return self.options if slide.mpp is None else self.options.model_copy(update={"mpp": slide.mpp})


@dataclass(frozen=True)
class Outcome:
    """Outcome of a slide: the summary of its results, or None and the reason why it failed, one line."""

    slide: Slide
    summary: RunSummary | None
    reason: str = ""

    @property
    def status(self) -> Literal["complete", "partial", "failed"]:
        """``partial``: places of the slide are damaged, and missing in the table."""
        if self.summary is None:
            return "failed"
        return "partial" if self.summary.failed_tiles else "complete"


# Called with a slide and how far it is.
Listener = Callable[[Slide, SlideProgress], None]


def one_line(error: BaseException) -> str:
    """The message of an error on one line, with the name of its class unless it is a user's mistake."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
