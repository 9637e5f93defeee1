"""``celldetr export``: finished cells, or a model, in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.options import Overwrite
from celldetr.config import ExportOptions
from celldetr.errors import InputError


@with_settings
def export(
    *,
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Folder of a finished slide, or its cells.parquet. For onnx: a model."),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="geojson (QuPath), anndata (scanpy), csv, spatialdata; of a model: onnx.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="File to write; default: beside the table; for onnx, here."),
    ] = None,
    options: Annotated[ExportOptions, Fields("shape", "origin", "classify", "embeddings=--embeddings")],
    overwrite: Overwrite = False,
) -> None:
    """Write finished cells, or a model, in another format.

    Cells of a slide for QuPath, scverse or a spreadsheet; a model as one ONNX file.
    """
    from celldetr.cells.export import MODEL_FORMAT, export_cells, find_format

    given = options.model_dump(exclude_none=True)
    if format.lower().lstrip(".") == MODEL_FORMAT:
        if given:
            raise InputError(f"`{next(iter(given))}`: is about cells; `format={MODEL_FORMAT}` writes a model")
        from celldetr.model.onnx import export_onnx

        typer.echo(export_onnx(source, out, overwrite=overwrite))
        return
    find_format(format, others=[MODEL_FORMAT])
    typer.echo(export_cells(source, format, out, overwrite=overwrite, **given))
