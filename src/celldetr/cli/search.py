"""Commands that compare cells by their embeddings; as in ``cli``: parse, call, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.options import Overwrite, Quiet, Resume, resumable
from celldetr.cli.progress import image_listener, progress_bar

Cells = Annotated[
    list[Path],
    typer.Argument(metavar="CELLS", help="cells.parquet, OUT/SLIDE of a finished run, or OUT with many of them."),
]
Slides = Annotated[
    list[Path] | None,
    typer.Option(
        "--slides", help="Slide files, or folders to be searched for them, for pictures of cells; repeat for more."
    ),
]


@resumable("run it again")
def index(
    cells: Cells,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the index.", show_default="neighbours/ in CELLS")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample that the index's lists are made from.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make an index for `similar`, so that a million cells are searched in milliseconds; or bring one up to date.

    Slides that are in the index and have not changed are kept, new ones are added, those not in CELLS are dropped. An
    interrupted run continues when it is started again; --overwrite makes all anew. Needs the extra `search` (faiss).
    """
    from celldetr.search.index import build_index

    with progress_bar(quiet) as bar:
        listener = image_listener(bar, "index", "cells")
        built = build_index(cells, out, overwrite=overwrite, seed=seed, progress=listener)
    kept = f"{built.added} read, {built.kept} kept, {built.dropped} dropped"
    typer.echo(f"{built.path}: {built.cells:,} cells of {built.slides} slides ({kept})")


def similar(
    cells: Cells,
    cell: Annotated[
        list[int] | None, typer.Option(help="cell_id of the cell asked about; repeat for more, a query each.")
    ] = None,
    slide: Annotated[
        str | None, typer.Option(help="The slide it is on: name of its folder. Needed if CELLS has several.")
    ] = None,
    type: Annotated[
        str | None,
        typer.Option("--type", help="Instead of cells: the mean of all cells of this type, on --slide or on all."),
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="The cells given are one query: their mean.")] = False,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each query.")] = 20,
    other_slides: Annotated[
        bool,
        typer.Option("--other-slides", help="Look on other slides than the query's only; --type needs --slide for it."),
    ] = False,
    apart: Annotated[
        float, typer.Option(help="Leave out cells nearer than this to the query's, micrometres; not with --type.")
    ] = 0.0,
    index: Annotated[
        Path | None, typer.Option(help="Folder of an index.", show_default="neighbours/ in CELLS, if it is there")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every cell, even if there is an index.")] = False,
    slides: Slides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and picture.")] = Path("similar"),
    overwrite: Overwrite = False,
) -> None:
    """Find the cells that look most like some cells, in a slide or in all slides of a cohort.

    Prints them, and writes OUT/similar.parquet, similar.csv, geojson/SLIDE.geojson (QuPath) and, with --slides,
    similar.png: crops of each query and its neighbours. Likeness is the cosine of the embeddings.
    """
    from celldetr.search.format import found_lines
    from celldetr.search.report import check_target, write_found
    from celldetr.search.similar import similar as find
    from celldetr.search.slides import check_slides

    check_target(out, overwrite)
    check_slides(slides or ())
    found = find(
        cells,
        cell or (),
        slide=slide,
        type=type,
        mean=mean,
        k=k,
        other_slides=other_slides,
        apart_um=apart,
        index=index,
        exact=exact,
    )
    missing = write_found(found, out, slides or (), overwrite=overwrite)
    for line in found_lines(found):
        typer.echo(line)
    for line in missing:
        typer.echo(f"not in similar.png: {line}", err=True)
    typer.echo(f"{found.how}; see {out}")


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
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Also write geojson (clusters.geojson.gz for QuPath), anndata or csv."),
    ] = None,
    slides: Slides = None,
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
    with checks.told(SlowWarning), progress_bar(quiet) as bar:
        listener = image_listener(bar, "cluster", "cells")
        done = cluster_cells(
            cells, out, options, formats=formats or (), resume=resume, overwrite=overwrite, progress=listener
        )
    for line in clustered_lines(done):
        typer.echo(line)
    for line in illustrate_clusters(done, slides or (), seed):
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"clusters: {done.out}")
