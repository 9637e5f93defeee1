"""``celldetr export``: finished cells, or a model, in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from celldetr.cli.options import Overwrite
from celldetr.errors import InputError


def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Folder of a finished slide, or its cells.parquet. For onnx: a model."),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", "--format", "-f", help="geojson (QuPath), anndata (scanpy), csv, spatialdata; of a model: onnx."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write.", show_default="beside the table; for onnx, here"),
    ] = None,
    shape: Annotated[str | None, typer.Option(help="geojson: box or ellipse.", show_default="box")] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            help="geojson: what becomes (0, 0): the corner of the slide's bounds, as in QuPath, or of the slide.",
            show_default="bounds",
        ),
    ] = None,
    classify: Annotated[
        str | None,
        typer.Option(
            help="geojson: class of a cell in QuPath: type, or cluster (celldetr cluster).", show_default="type"
        ),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="csv: with the embeddings, in columns e0, e1, ...")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the cells of a finished slide for QuPath, scverse or a spreadsheet; or a model as one ONNX file."""
    from celldetr.cells.export import MODEL_FORMAT, export_cells, find_format

    if to.lower().lstrip(".") == MODEL_FORMAT:
        if shape or origin or classify or embeddings:
            raise InputError("--shape, --origin, --classify and --embeddings are about cells; --to onnx writes a model")
        from celldetr.model.onnx import export_onnx

        typer.echo(export_onnx(source, out, overwrite=overwrite))
        return
    find_format(to, others=[MODEL_FORMAT])
    options: dict[str, Any] = {"shape": shape} if shape else {}
    if origin:
        options["origin"] = origin
    if classify:
        options["classify"] = classify
    if embeddings:
        options["embeddings"] = True
    typer.echo(export_cells(source, to, out, overwrite=overwrite, **options))
