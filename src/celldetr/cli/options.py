"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields
from celldetr.config import InferenceOptions


def split_commas(values: list[str] | None) -> list[str]:
    """A repeated option whose values may also be given with commas between: ``-f a,b -f c``."""
    return [part for value in values or () for part in value.split(",") if part]


Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help="Folder for the results, one folder a slide; made if needed.")
]
RunFolder = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.")]
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
    typer.Option("--model", "-m", help="Name (see `celldetr models`) or folder of a model.", show_default="small-20x"),
]
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="A data set's card (YAML), one in the package, or a folder of labels.")
]
ImageMpp = Annotated[
    float | None, typer.Option(help="Micrometres per pixel of the images, instead of what they or their card say.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto takes the fastest there is.")]
Devices = Annotated[int, typer.Option(help="Processes that share each batch, each with a device of its own.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="32, bf16, or auto: bf16 where it is native.")]
Orientations = Annotated[
    int, typer.Option(help="1, 2, 4 or 8: average over so many flips and turns of each tile; costs as many times.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; keep what is finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Cells = Annotated[
    list[Path],
    typer.Argument(metavar="CELLS", help="cells.parquet, OUT/SLIDE of a finished run, or OUT with many of them."),
]
SlideFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--slides", help="Slide files, or folders to be searched for them, for pictures of cells; repeat for more."
    ),
]
