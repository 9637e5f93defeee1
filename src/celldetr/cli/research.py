"""``celldetr ablate``: variants of a recipe compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Device, Quiet
from celldetr.cli.progress import Progress, training_listener


@resumable("run it again")
def ablate(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study's name (whole-consep, decoder-consep, ...) or YAML file."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of studies; OUT/STUDY gets trials and report.md.")],
    only: Annotated[list[str] | None, typer.Option(help="Run this variant only; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Run these seeds of the study only, e.g. 0,1.", show_default="all")
    ] = None,
    finished: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Another folder of studies, e.g. of kept results: what FOLDER/STUDY/VARIANT/seedN/result.json has, "
            "is reported and not run again.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trials side by side, each with its share of the processors.")] = 1,
    report: Annotated[bool, typer.Option("--report", help="Run nothing; report on what is finished.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the variants of a study over several seeds and compare them, with intervals.

    What is finished is kept: the same command goes on with a study that was interrupted, and ends with its report.
    """
    from celldetr.research.ablation.report import write_report
    from celldetr.research.ablation.run import run_tasks, tasks_of
    from celldetr.research.ablation.study import load_study

    chosen = load_study(study)
    if not report:
        tasks = tasks_of(chosen, out, only or (), device, checks.seeds(seeds), finished)
        with Progress(quiet) as progress:
            listener = training_listener(progress, chosen.name)
            run_tasks(tasks, jobs, lambda name: progress.say(f"finished: {name}"), listener)
    typer.echo(write_report(chosen, out, finished))
