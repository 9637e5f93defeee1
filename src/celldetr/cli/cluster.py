"""``celldetr cluster``: cells grouped by their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note, noted
from celldetr.cli.options import Cells, Formats, Overwrite, Quiet, Resume, SlideFiles
from celldetr.cli.progress import Progress
from celldetr.config import ClusterOptions


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
