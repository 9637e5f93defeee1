"""``celldetr spatial ...``: types of nuclei from spatial transcriptomics, in one command or step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celldetr.cli.command import Command
from celldetr.cli.from_config import Assignments, SettingsFile, has_settings, read_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note
from celldetr.cli.options import Device, ModelName, Overwrite, Quiet, Resume
from celldetr.cli.progress import Progress
from celldetr.config import Config

if TYPE_CHECKING:
    from celldetr.spatial.options import SpatialOptions
    from celldetr.spatial.pipeline import Pipeline

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
    typer.Option(metavar="CSV", help="Xenium Explorer's matrix or keypoints; default: the run's own."),
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


def _configs() -> tuple[type[Config], ...]:
    from celldetr.spatial.options import SpatialOptions  # slow to import

    return (SpatialOptions,)


@spatial_app.callback()
def group() -> None:
    """Make a training set from spatial transcriptomics.

    From a run (Xenium, say) and its H&E image. `label` does all of it. The other commands do one step each, in this
    order: read, qc, type, nuclei, align, write, report. They redo their step; `label --resume` keeps what is finished
    and unchanged.
    """


@spatial_app.command(cls=Command)
@resumable()
@has_settings(_configs)
def label(
    bundle: Bundle,
    he: Image,
    out: Out,
    reference: Reference = None,
    type_column: TypeColumn = "",
    kind: Kind = "auto",
    name: Name = "",
    method: Method = "tacco",
    labels: Labels = None,
    hierarchy: Hierarchy = None,
    level: Level = None,
    model: ModelName = None,
    polygons: Polygons = None,
    cells: Cells = None,
    mpp: Mpp = None,
    alignment: Alignment = None,
    direction: Direction = "image_to_xenium",
    inverse: Inverse = False,
    refine: Refine = None,
    spots: Spots = None,
    donor: Donor = "",
    licence: Licence = "unknown",
    assignments: Assignments = None,
    config: SettingsFile = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """From a run and its H&E image to a training set.

    SET gets set.json, patches-*.arrow, report.html and steps/. Look at report.html before training: every step shows
    its evidence there. Then `celldetr train xenium --data SET -o RUN`. With --resume, steps that are finished and
    unchanged are kept, also where later ones are given other settings.
    """
    from celldetr.spatial.pipeline import open_set

    chosen = _chosen(assignments, config, refine)
    with open_set(out, overwrite=overwrite, resume=resume) as pipeline, Progress("spatial", quiet) as bar:
        steps: dict[str, Callable[[], bool]] = {
            "read": lambda: pipeline.read(
                bundle, kind=kind, name=name, options=chosen.read, progress=bar.share("read")
            ),
            "qc": lambda: pipeline.qc(chosen.qc),
            "type": lambda: pipeline.annotate(
                reference,
                type_column,
                method=method,
                labels=labels,
                hierarchy=hierarchy,
                level=level,
                options=chosen.type,
                progress=bar.share("type"),
            ),
            "nuclei": lambda: pipeline.find_nuclei(
                he, model=model, polygons=polygons, cells=cells, mpp=mpp, device=device, progress=bar.share("nuclei")
            ),
            "align": lambda: pipeline.align(
                alignment,
                direction=direction,
                inverse=inverse,
                options=chosen.align,
                pairing=chosen.pair,
            ),
            "write": lambda: pipeline.write(
                chosen.write, spots=spots, donor=donor, licence=licence, progress=bar.share("write")
            ),
        }
        for step, run in steps.items():
            _summarise(pipeline, step, ran=run())
        _report(pipeline)


@spatial_app.command(cls=Command)
@resumable()
@has_settings(_configs)
def read(
    bundle: Bundle,
    out: Out,
    kind: Kind = "auto",
    name: Name = "",
    assignments: Assignments = None,
    config: SettingsFile = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Step 1: read a section.

    steps/section.h5ad opens in scanpy.
    """
    from celldetr.spatial.pipeline import open_set

    chosen = _chosen(assignments, config)
    with open_set(out, overwrite=overwrite, resume=resume) as pipeline, Progress("spatial", quiet) as bar:
        ran = pipeline.read(bundle, kind=kind, name=name, options=chosen.read, progress=bar.share("read"))
        _summarise(pipeline, "read", ran=ran)


@spatial_app.command(cls=Command)
@resumable("run it again")
@has_settings(_configs)
def qc(folder: Set, assignments: Assignments = None, config: SettingsFile = None) -> None:
    """Step 2: filter cells by counts, genes and area.

    All are in steps/quality.parquet, with the reasons.
    """
    chosen = _chosen(assignments, config)
    with _again(folder) as (pipeline, _):
        _summarise(pipeline, "qc", ran=pipeline.qc(chosen.qc))


@spatial_app.command("type", cls=Command)
@resumable("run it again")
@has_settings(_configs)
def type_(
    folder: Set,
    reference: Reference = None,
    type_column: TypeColumn = "",
    method: Method = "tacco",
    labels: Labels = None,
    hierarchy: Hierarchy = None,
    level: Level = None,
    assignments: Assignments = None,
    config: SettingsFile = None,
    quiet: Quiet = False,
) -> None:
    """Step 3: types of cells.

    From a single-cell reference or from elsewhere; steps/types.parquet.
    """
    chosen = _chosen(assignments, config)
    with _again(folder, quiet) as (pipeline, bar):
        ran = pipeline.annotate(
            reference,
            type_column,
            method=method,
            labels=labels,
            hierarchy=hierarchy,
            level=level,
            options=chosen.type,
            progress=bar.share("types"),
        )
        _summarise(pipeline, "type", ran=ran)


@spatial_app.command(cls=Command)
@resumable("run it again")
def nuclei(
    folder: Set,
    he: Image,
    model: ModelName = None,
    polygons: Polygons = None,
    cells: Cells = None,
    mpp: Mpp = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Step 4: nuclei of the H&E image.

    By a model, or from a file; steps/nuclei.parquet.
    """
    with _again(folder, quiet) as (pipeline, bar):
        ran = pipeline.find_nuclei(
            he, model=model, polygons=polygons, cells=cells, mpp=mpp, device=device, progress=bar.share("nuclei")
        )
        _summarise(pipeline, "nuclei", ran=ran)


@spatial_app.command(cls=Command)
@resumable("run it again")
@has_settings(_configs)
def align(
    folder: Set,
    alignment: Alignment = None,
    direction: Direction = "image_to_xenium",
    inverse: Inverse = False,
    refine: Refine = None,
    assignments: Assignments = None,
    config: SettingsFile = None,
    quiet: Quiet = False,
) -> None:
    """Step 5: align cells and image, and pair cells with nuclei.

    steps/alignment.json and pairs.parquet.
    """
    chosen = _chosen(assignments, config, refine)
    with _again(folder, quiet) as (pipeline, bar):
        ran = pipeline.align(
            alignment,
            direction=direction,
            inverse=inverse,
            options=chosen.align,
            pairing=chosen.pair,
        )
        _summarise(pipeline, "align", ran=ran)


@spatial_app.command(cls=Command)
@resumable("run it again")
@has_settings(_configs)
def write(
    folder: Set,
    spots: Spots = None,
    donor: Donor = "",
    licence: Licence = "unknown",
    assignments: Assignments = None,
    config: SettingsFile = None,
    quiet: Quiet = False,
) -> None:
    """Step 6: the training set; set.json and patches-*.arrow."""
    chosen = _chosen(assignments, config)
    with _again(folder, quiet) as (pipeline, bar):
        ran = pipeline.write(chosen.write, spots=spots, donor=donor, licence=licence, progress=bar.share("patches"))
        _summarise(pipeline, "write", ran=ran)


@spatial_app.command(cls=Command)
def report(folder: Set) -> None:
    """Make report.html again.

    From the steps that were run.
    """
    with _again(folder) as (pipeline, _):
        _report(pipeline)


@spatial_app.command("options", cls=Command)
@has_settings(_configs)
def options_(assignments: Assignments = None, config: SettingsFile = None) -> None:
    """Print all settings of all steps as YAML.

    For --config FILE; those given here are put in.
    """
    import yaml

    typer.echo(yaml.safe_dump(_chosen(assignments, config).model_dump(mode="json"), sort_keys=False), nl=False)


def _chosen(assignments: list[str] | None, file: Path | None, refine: bool | None = None) -> SpatialOptions:
    from celldetr.spatial.options import SpatialOptions

    flags = [] if refine is None else [f"align.refine={refine}"]
    return read_settings(SpatialOptions, [*(assignments or ()), *flags], file)


@contextmanager
def _again(folder: Path, quiet: bool = True) -> Iterator[tuple[Pipeline, Progress]]:
    """The pipeline of a set that was begun, for a command that does its step whether it is done or not."""
    from celldetr.spatial.pipeline import open_set

    with open_set(folder, resume=True) as pipeline, Progress("spatial", quiet) as bar:
        pipeline.redo = True
        yield pipeline, bar


def _summarise(pipeline: Pipeline, step: str, *, ran: bool) -> None:
    """Print one line about a step that is finished."""
    from celldetr.spatial.format import sentence

    typer.echo(f"{step}: {sentence(step, pipeline.facts(step))}{'' if ran else ' (kept)'}")


def _report(pipeline: Pipeline) -> None:
    from celldetr.spatial.report import warnings, write_report

    path = write_report(pipeline)
    for text in warnings(pipeline):
        note(text)
    typer.echo(f"look at it: {path}")
