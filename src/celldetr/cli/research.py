"""``celldetr ablate``: variants of a recipe compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Assignments, SettingsFile, has_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Device, Quiet, split_commas
from celldetr.cli.progress import Progress, training_listener
from celldetr.config import Config
from celldetr.errors import InputError
from celldetr.io.safe_io import read_yaml


def _configs() -> tuple[type[Config], ...]:
    from celldetr.research.ablation.study import Study

    return (Study,)


@resumable("run it again")
@has_settings(_configs)
def ablate(
    *,
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study's name (whole-consep, decoder-consep, ...) or YAML file."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="Folder of studies; OUT/STUDY gets trials and report.md."),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", callback=split_commas, help="Run only these variants; default: all."),
    ] = None,
    only_seeds: Annotated[
        list[str] | None,
        typer.Option(metavar="INT", callback=split_commas, help="Run only these seeds of the study; default: all."),
    ] = None,
    finished: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Another folder of studies, e.g. of kept results: what FOLDER/STUDY/VARIANT/seedN/result.json has, "
            "is reported and not run again.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(metavar="INT", help="Trials side by side, each with its share of the processors.")
    ] = 1,
    report: Annotated[bool, typer.Option("--report", help="Run nothing; report on what is finished.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    assignments: Assignments = None,
    config: SettingsFile = None,
) -> None:
    """Train the variants of a study and compare them.

    Over several seeds, with intervals. What is finished is kept: the same command goes on with a study that was
    interrupted, and ends with its report. Settings are those of the study, e.g. `--set seeds=[0]`.
    """
    from celldetr.research.ablation.report import write_report
    from celldetr.research.ablation.run import run_tasks, tasks_of
    from celldetr.research.ablation.study import load_study

    chosen = load_study(study, assignments or (), read_yaml(config) if config else None)
    if not report:
        tasks = tasks_of(chosen, out, only or (), device, _numbers(only_seeds or []), finished)
        done: list[str] = []
        with Progress("ablate", quiet) as progress:

            def finish(name: str) -> None:
                done.append(name)
                progress.say(f"finished: {name}")
                progress.show(chosen.name, len(done), len(tasks), "trials")

            progress.show(chosen.name, 0, len(tasks), "trials")
            run_tasks(tasks, jobs, finish, training_listener(progress, chosen.name))
    typer.echo(write_report(chosen, out, finished))


def _numbers(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(map(int, texts))
    except ValueError:
        raise InputError(f"`only_seeds={','.join(texts)}`: expected whole numbers, e.g. `only_seeds=0,1`") from None
