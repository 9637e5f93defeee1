"""``celldetr spatial ...``: types of nuclei from spatial transcriptomics, in one command or step by step."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celldetr.cli.command import Command
from celldetr.cli.from_config import Assignments, SettingsFile, has_settings, read_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note
from celldetr.cli.options import Device, ModelName, Overwrite, Quiet, Resume
from celldetr.cli.progress import Progress
from celldetr.config import Config

if TYPE_CHECKING:
    from celldetr.spatial.pipeline import Pipeline, SpatialOptions

spatial_app = typer.Typer(
    name="spatial",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Set = Annotated[Path, typer.Argument(metavar="SET", help="Folder of the set, as the steps before have left it.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder of the set; made if needed.")]
Bundle = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", help="Output folder of a Xenium run; or an .h5ad: HEST-1k sample, or AnnData."),
]
Kind = Annotated[str, typer.Option(metavar="KIND", help="What BUNDLE is: auto, xenium, hest or anndata.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="Name of the section; default: the run's own.")]
Reference = Annotated[Path | None, typer.Option(metavar="H5AD", help="Single-cell data with whole counts and types.")]
TypeColumn = Annotated[str, typer.Option(metavar="COLUMN", help="Column of the reference's obs that holds the types.")]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="tacco; celltypist; or labels: types that exist already, in --labels FILE or --type-column.",
    ),
]
Labels = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Types that exist already: cell_id,type[,probability].")
]
Hierarchy = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="Fine types to coarse ones: a YAML file, or one of ours.")
]
Level = Annotated[str | None, typer.Option(metavar="NAME", help="Level of the hierarchy; default: the coarsest.")]
Image = Annotated[Path, typer.Option("--he", metavar="IMAGE", help="The H&E image: OME-TIFF, or what OpenSlide reads.")]
Mpp = Annotated[
    float | None, typer.Option(metavar="NUMBER", help="Micrometres per pixel of the image, instead of what it says.")
]
Polygons = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Nuclei drawn by others: QuPath's GeoJSON, CellViT's JSON.")
]
Cells = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Nuclei in the cells.parquet of a `celldetr predict` run.")
]
Alignment = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Xenium Explorer's matrix, keypoints or ZIP of both; default: the run's own."),
]
Direction = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="What the matrix maps: image_to_xenium, xenium_to_image, image_to_um or um_to_image."
    ),
]
Inverse = Annotated[bool, typer.Option("--inverse", help="The matrix maps the other way.")]
Refine = Annotated[
    bool | None,
    typer.Option("--refine/--no-refine", help="Refine the alignment by the nuclei, as --set align.refine does."),
]
Spots = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Spots with shares of types; with --set write.composition=spots.")
]
Donor = Annotated[str, typer.Option(metavar="NAME", help="Who the section is of.")]
Licence = Annotated[str, typer.Option(metavar="TEXT", help="Licence of the data; models trained on the set name it.")]


REQUIRED = inspect.Parameter.empty
# Options of each step: the parameters of its method of Pipeline, with their defaults.
OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "read": {"bundle": (Bundle, REQUIRED), "kind": (Kind, "auto"), "name": (Name, "")},
    "qc": {},
    "type": {
        "reference": (Reference, None),
        "type_column": (TypeColumn, ""),
        "method": (Method, "tacco"),
        "labels": (Labels, None),
        "hierarchy": (Hierarchy, None),
        "level": (Level, None),
    },
    "nuclei": {
        "image": (Image, REQUIRED),
        "model": (ModelName, None),
        "polygons": (Polygons, None),
        "cells": (Cells, None),
        "mpp": (Mpp, None),
        "device": (Device, "auto"),
    },
    "align": {
        "alignment": (Alignment, None),
        "direction": (Direction, "image_to_xenium"),
        "inverse": (Inverse, False),
        "refine": (Refine, None),
    },
    "write": {"spots": (Spots, None), "donor": (Donor, ""), "licence": (Licence, "unknown")},
}
METHODS = {"type": "annotate", "nuclei": "find_nuclei"}  # those not called as the step
HELP = {
    "label": """From a run and its H&E image to a training set.

SET gets set.json, patches-*.arrow, report.html and steps/. Look at report.html before training: every step shows
its evidence there. Then `celldetr train xenium --data SET -o RUN`. With --resume, steps that are finished and
unchanged are kept, also where later ones are given other settings.
""",
    "read": "Step 1: read a section.\n\nsteps/section.h5ad opens in scanpy.",
    "qc": "Step 2: filter cells by counts, genes and area.\n\nAll are in steps/quality.parquet, with the reasons.",
    "type": "Step 3: types of cells.\n\nFrom a single-cell reference or from elsewhere; steps/types.parquet.",
    "nuclei": "Step 4: nuclei of the H&E image.\n\nBy a model, or from a file; steps/nuclei.parquet.",
    "align": "Step 5: align cells and image, and pair cells with nuclei.\n\nsteps/alignment.json and pairs.parquet.",
    "write": "Step 6: the training set; set.json and patches-*.arrow.",
}


def _configs() -> tuple[type[Config], ...]:
    from celldetr.spatial.pipeline import SpatialOptions  # slow to import

    return (SpatialOptions,)


def _read_settings(assignments: list[str] | None, file: Path | None) -> SpatialOptions:
    from celldetr.spatial.pipeline import SpatialOptions

    return read_settings(SpatialOptions, assignments, file)


@spatial_app.callback()
def group() -> None:
    """Make a training set from spatial transcriptomics.

    From a run (Xenium, say) and its H&E image. `label` does all of it. The other commands do one step each, in this
    order: read, qc, type, nuclei, align, write, report. They redo their step; `label --resume` keeps what is finished
    and unchanged.
    """


def _add_command(command: str, steps: tuple[str, ...]) -> None:
    """Add a command that runs steps; it has the options of each, of its folder, and those of all commands."""
    begins = "read" in steps
    declared = {name: option for step in steps for name, option in OPTIONS[step].items()}
    declared |= {"folder": (Out if begins else Set, REQUIRED)}
    declared |= {"assignments": (Assignments, None), "config": (SettingsFile, None)}
    if begins:
        declared |= {"overwrite": (Overwrite, False), "resume": (Resume, False)}
    declared["quiet"] = (Quiet, False)

    @resumable("run again with --resume" if begins else "run it again")
    @has_settings(_configs)
    def run(
        folder: Path,
        assignments: list[str] | None,
        config: Path | None,
        quiet: bool,
        overwrite: bool = False,
        resume: bool = not begins,
        **given: Any,
    ) -> None:
        from celldetr.spatial.pipeline import open_set

        settings = _read_settings(assignments, config)
        with (
            Progress("spatial", quiet) as bar,
            open_set(folder, settings, overwrite=overwrite, resume=resume, progress=bar.share) as pipeline,
        ):
            pipeline.redo = not begins
            for step in steps:
                method = getattr(pipeline, METHODS.get(step, step))
                ran = method(**{name: given[name] for name in OPTIONS[step]})
                typer.echo(f"{step}: {pipeline.summary(step)}{'' if ran else ' (kept)'}")
            if command == "label":
                _report(pipeline)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in declared.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spatial_app.command(command, cls=Command, help=HELP[command])(run)


_add_command("label", tuple(OPTIONS))
for _step in OPTIONS:
    _add_command(_step, (_step,))


@spatial_app.command(cls=Command)
def report(folder: Set) -> None:
    """Make report.html again.

    From the steps that were run.
    """
    from celldetr.spatial.pipeline import open_set

    with open_set(folder, resume=True) as pipeline:
        _report(pipeline)


@spatial_app.command(cls=Command)
@has_settings(_configs)
def options(assignments: Assignments = None, config: SettingsFile = None) -> None:
    """Print all settings of all steps as YAML.

    For --config FILE; those given here are put in.
    """
    import yaml

    typer.echo(yaml.safe_dump(_read_settings(assignments, config).model_dump(mode="json"), sort_keys=False), nl=False)


def _report(pipeline: Pipeline) -> None:
    from celldetr.spatial.report import warnings, write_report

    path = write_report(pipeline)
    for text in warnings(pipeline):
        note(text)
    typer.echo(f"look at it: {path}")
