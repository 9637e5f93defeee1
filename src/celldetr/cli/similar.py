"""``celldetr similar``: cells that look like some cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.messages import with_options
from celldetr.cli.options import Cells, Overwrite, SlideFiles
from celldetr.config import SimilarOptions


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
