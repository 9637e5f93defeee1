"""``celldetr cluster``: cells grouped by their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note, noted
from celldetr.cli.options import Cells, Formats, Overwrite, Quiet, Resume, SlideFiles
from celldetr.cli.progress import Progress


@resumable()
def cluster(
    cells: Cells,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for pictures and clusters.json.", show_default="clusters/ in CELLS"),
    ] = None,
    resolution: Annotated[float, typer.Option(help="Of Leiden; larger finds more, smaller clusters.")] = 0.5,
    neighbours: Annotated[int, typer.Option(help="Of each cell in the graph.")] = 15,
    sample: Annotated[int, typer.Option(help="Cells that are clustered; the others join the nearest ones'.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Of sample, clusters and map.")] = 0,
    formats: Formats = None,
    slides: SlideFiles = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Group cells by what they look like: neighbours and Leiden (scanpy) on the embeddings.

    Every slide gets clusters.parquet, which read_cells and export join to its cells; exports that are there are written
    again. OUT gets embedding.png, types.png, map-SLIDE.png and, with --slides, examples.png. Needs the extra
    `cluster-cells` (scanpy, igraph, faiss).
    """
    from celldetr.config import parse
    from celldetr.errors import SlowWarning
    from celldetr.search.clustering import ClusterOptions, cluster_cells
    from celldetr.search.format import clustered_lines
    from celldetr.search.illustrate import illustrate_clusters
    from celldetr.search.slides import check_slides

    check_slides(slides or ())
    values = {"resolution": resolution, "neighbours": neighbours, "sample": sample, "seed": seed}
    options = parse(ClusterOptions, values, "options")
    with noted(SlowWarning), Progress(quiet) as progress:
        listener = progress.counter("cluster", "cells")
        done = cluster_cells(
            cells, out, options, formats=formats or (), resume=resume, overwrite=overwrite, progress=listener
        )
    for line in clustered_lines(done):
        typer.echo(line)
    for line in illustrate_clusters(done, slides or (), seed):
        note(line)
    typer.echo(f"clusters: {done.out}")
