"""``celldetr demo``: the sample slide that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Out, Overwrite, Quiet, Resume
from celldetr.cli.predict import run_slides
from celldetr.config import InferenceOptions


@resumable()
@with_settings
def demo(
    *,
    out: Out = Path("demo"),
    inference: Annotated[InferenceOptions, Fields("device")],
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of the sample slide.

    As predict does, with exports for QuPath (GeoJSON), scverse (AnnData) and spreadsheets (CSV).
    """
    import typer

    from celldetr.cohort.request import Request
    from celldetr.demo_slide import sample_slide
    from celldetr.slide.find import Slide

    request = Request(out, inference, formats=("geojson", "anndata", "csv"), resume=resume, overwrite=overwrite)
    if code := run_slides([Slide(sample_slide())], request, None, sum_up=False, quiet=quiet):
        raise typer.Exit(code)
