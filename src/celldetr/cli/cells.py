"""``celldetr export``, ``cluster``, ``index``, ``similar`` and ``explain``: what can be done with finished cells."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note, noted, with_options
from celldetr.cli.options import Cells, Device, Formats, Overwrite, Quiet, Resume, SlideFiles, check_file
from celldetr.cli.progress import Progress
from celldetr.config import ClusterOptions, ExplainOptions, ExportOptions, IndexOptions, SimilarOptions
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
    options: Annotated[ExportOptions, Fields("shape", "origin", "classify", "embeddings=--embeddings", "image_mpp")],
    image: Annotated[
        Path | None, typer.Option(metavar="SLIDE", help="With spatialdata: the slide, whose pixels go into the store.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write finished cells, or a model, in another format.

    Cells of a slide for QuPath, scverse or a spreadsheet; a model as one ONNX file.
    """
    from celldetr.cells.export import MODEL_FORMAT, export_cells, find_format
    from celldetr.slide.reader import open_slide

    given = options.model_dump(exclude_none=True)
    if format.lower().lstrip(".") == MODEL_FORMAT:
        if given or image:
            raise InputError(f"`{next(iter(given), 'image')}`: is about cells; `format={MODEL_FORMAT}` writes a model")
        from celldetr.model.onnx import export_onnx

        typer.echo(export_onnx(source, out, overwrite=overwrite))
        return
    find_format(format, others=[MODEL_FORMAT])
    with nullcontext() if image is None else open_slide(image) as slide:
        given |= {} if slide is None else {"image": slide}
        typer.echo(export_cells(source, format, out, overwrite=overwrite, **given))


@resumable()
@with_settings
def cluster(
    *,
    cells: Cells,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder for pictures and clusters.json; default: clusters/ in CELLS.",
        ),
    ] = None,
    options: Annotated[ClusterOptions, Fields("resolution", "neighbours", "sample", "seed")],
    formats: Formats = None,
    slides: SlideFiles = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Group cells by what they look like.

    By neighbours and Leiden (scanpy) on the embeddings. Every slide gets clusters.parquet, which read_cells and export
    join to its cells; exports that are there are written again. OUT gets embedding.png, types.png, map-SLIDE.png and,
    with --slides, examples.png. Needs the extra `cluster-cells` (scanpy, igraph, faiss).
    """
    from celldetr.errors import SlowWarning
    from celldetr.search.cluster_report import cluster_lines, illustrate_clusters
    from celldetr.search.clustering import cluster_cells
    from celldetr.search.slides import check_slides

    check_slides(slides or ())
    with noted(SlowWarning), Progress("cluster", quiet) as progress:
        done = cluster_cells(
            cells,
            out,
            options,
            formats=formats or (),
            resume=resume,
            overwrite=overwrite,
            progress=progress.counter("cluster", "cells"),
        )
    for line in cluster_lines(done):
        typer.echo(line)
    for line in illustrate_clusters(done, slides or (), options.seed):
        note(line)
    typer.echo(f"clusters: {done.out}")


@resumable("run it again")
@with_settings
def index(
    *,
    cells: Cells,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the index; default: neighbours/ in CELLS."),
    ] = None,
    options: Annotated[IndexOptions, Fields("seed")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make an index for similar, or bring one up to date.

    With it a million cells are searched in milliseconds. Slides that are in the index and have not changed are kept,
    new ones are added, those not in CELLS are dropped. An interrupted run continues when it is started again;
    --overwrite makes all anew. Needs the extra `search` (faiss).
    """
    from celldetr.search.index import build_index

    with Progress("index", quiet) as progress:
        counter = progress.counter("index", "cells")
        built = build_index(cells, out, overwrite=overwrite, seed=options.seed, progress=counter)
    kept = f"{built.added} read, {built.kept} kept, {built.dropped} dropped"
    typer.echo(f"{built.path}: {built.cells:,} cells of {built.slides} slides ({kept})")


@with_settings
def similar(
    *,
    cells: Cells,
    cell: Annotated[
        list[int] | None,
        typer.Option(metavar="ID", help="cell_id of the cell asked about; repeat for more, a query each."),
    ] = None,
    slide: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The slide it is on: name of its folder. Needed if CELLS has several."),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Instead of cells: the mean of all cells of this type, on --slide or on all."
        ),
    ] = None,
    options: Annotated[
        SimilarOptions,
        Fields("mean=--mean", "k=-k", "other_slides=--other-slides", "apart_um=--apart", "exact=--exact"),
    ],
    index: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of an index; default: neighbours/ in CELLS, if it is there."),
    ] = None,
    slides: SlideFiles = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for tables and picture.")] = Path(
        "similar"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Find the cells that look most like some cells.

    In a slide or in all slides of a cohort. Prints them, and writes OUT/similar.parquet, similar.csv,
    geojson/SLIDE.geojson (QuPath) and, with --slides, similar.png: crops of each query and its neighbours. Likeness is
    the cosine of the embeddings.
    """
    from celldetr.search.similar import similar as find
    from celldetr.search.similar_report import check_target, neighbour_lines, write_similar
    from celldetr.search.slides import check_slides

    check_target(out, overwrite)
    check_slides(slides or ())
    found = find(cells, cell or (), slide=slide, type=type, index=index, **options.model_dump())
    missing = write_similar(found, out, slides or (), overwrite=overwrite)
    for line in neighbour_lines(found):
        typer.echo(line)
    for line in missing:
        typer.echo(with_options(f"not in similar.png: {line}"), err=True)
    typer.echo(f"{found.how}; see {out}")


@with_settings
def explain(
    *,
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A slide or an image, as for predict.")],
    cells: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="OUT/SLIDE of a finished run, or its cells.parquet; default: found by the model."
        ),
    ] = None,
    cell: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID",
            help="cell_id of one; repeat for more; default: of each type the surest and the median.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME|FOLDER", help="Model; repeat for a column each; default: pan-20x."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Figure: .png, .svg or .pdf.")] = Path(
        "explain.png"
    ),
    options: Annotated[ExplainOptions, Fields("region", "mpp", "tile")],
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw where models look to type a cell.

    Sampling points and attention weights of the representation decoder. One row a cell, one column a model. Every model
    is asked about the same boxes: those of --cells, or those that the first model finds in --region. A dot's area is
    its attention weight, its colour the feature level that it reads.
    """
    from celldetr.explain import explain_slide

    check_file(out, overwrite, "explain.png")
    with Progress("explain", quiet) as progress:
        counter = progress.counter("explain", "cells")
        lines = explain_slide(slide, out, options, model or [None], cells, cell or (), device, counter)
    for line in lines:
        typer.echo(line)
    typer.echo(f"figure: {out}")
