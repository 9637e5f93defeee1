"""``celldetr similar``: cells that look like some cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.options import Cells, Overwrite, SlideFiles


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
    slides: SlideFiles = None,
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
