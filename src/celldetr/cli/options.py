"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields
from celldetr.config import InferenceOptions
from celldetr.errors import InputError


def split_commas(values: list[str] | None) -> list[str]:
    """A repeated option whose values may also be given with commas between: ``-f a,b -f c``."""
    return [part for value in values or () for part in value.split(",") if part]


def check_file(out: Path, overwrite: bool, example: str = "metrics.json") -> None:
    """Say before the work, not after it, that the file for its result cannot be written.

    Raises:
        InputError: it is there and ``overwrite`` was not asked for, or its folder is not.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: expected the name of a file in a folder that exists, e.g. {example}")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; choose another name or add `overwrite=True`")


Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help="Folder for the results, one folder a slide; made if needed.")
]
RunFolder = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.")]
RecipeChanges = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to it, as with --set, e.g. training.steps=2000 model.d_model=64"),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        callback=split_commas,
        help="Also write geojson (QuPath), anndata (scanpy), csv or spatialdata; several with commas, or repeated.",
    ),
]
Inference = Annotated[InferenceOptions, Fields("model=--model,-m", "threshold", "device", "precision", "orientations")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME|FOLDER", help=InferenceOptions.model_fields["model"].description),
]
DATASET_HELP = "A data set's card (YAML), one in the package, or a folder of labels."
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help=DATASET_HELP)]
Device = Annotated[str, typer.Option(metavar="NAME", help=InferenceOptions.model_fields["device"].description)]
Devices = Annotated[
    int, typer.Option(metavar="INT", help="Processes that share each batch, each with a device of its own.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; keep what is finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Cells = Annotated[
    list[Path],
    typer.Argument(metavar="CELLS", help="cells.parquet, OUT/SLIDE of a finished run, or OUT with many of them."),
]
Head = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="A head saved in celldetr view: it types the cells too, in columns of its own."
    ),
]
SlideFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--slides",
        metavar="PATH",
        help="Slide files, or folders to be searched for them, for pictures of cells; repeat for more.",
    ),
]
