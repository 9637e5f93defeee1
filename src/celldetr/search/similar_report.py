"""What ``celldetr similar`` prints and writes: ``similar.parquet`` and ``.csv``, a GeoJSON a slide, ``similar.png``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.cells.export.geojson import NAMESPACE, corner
from celldetr.cells.palette import type_colours
from celldetr.cells.rings import Ring, ring_columns, rings
from celldetr.errors import InputError
from celldetr.io.figures import save_figure
from celldetr.io.files import output_errors, replacing
from celldetr.report.crops import crops_figure
from celldetr.search.collection import SlideCells
from celldetr.search.similar import Neighbours
from celldetr.search.slides import open_slides

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("similar.parquet", "similar.csv", "similar.png", "geojson")
PRINTED = 50  # rows
DRAWN = 12  # queries in the picture
DRAWN_CELLS = 60  # neighbours of each of them; also cells that it is the mean of


def neighbour_lines(neighbours: Neighbours) -> list[str]:
    """The neighbours as lines of text, under the name of each query."""
    if not (neighbours.table["rank"] > 0).any():
        return ["no neighbours: nothing is left to look at"]
    shown = neighbours.table.head(PRINTED)
    columns = ["rank", "similarity", "slide", "cell_id", "type", "type_score", "x_um", "y_um"]
    decimals = {"similarity": "{:.4f}", "type_score": "{:.2f}", "x_um": "{:.1f}", "y_um": "{:.1f}"}
    formatters = {name: text.format for name, text in decimals.items()}
    head, *rows = shown[columns].to_string(index=False, formatters=formatters).splitlines()
    lines: list[str] = []
    for i, (query, row) in enumerate(zip(shown["query"], rows, strict=True)):
        if i == 0 or query != shown["query"].iloc[i - 1]:
            lines += [query, f"  {head}"]
        lines.append(f"  {row}")
    if len(neighbours.table) > PRINTED:
        lines.append(f"  ... and {len(neighbours.table) - PRINTED:,} more, see the tables")
    return lines


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a folder for results, before the search.

    Raises:
        InputError: ``out`` is a file, or holds earlier results.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder for similar.parquet, similar.csv, similar.png and geojson/")
    if not overwrite and any((out / name).exists() for name in NAMES):
        raise InputError(f"{out}: holds earlier results; choose another folder or add `overwrite=True`")


def write_similar(
    neighbours: Neighbours, out: Path, slides: Sequence[Path] = (), *, overwrite: bool = False
) -> list[str]:
    """Write tables, GeoJSON and, where slides can be read, the picture.

    Args:
        neighbours: what ``similar`` returned.
        out: folder, made if needed.
        slides: slide files, or folders that hold them, for the picture.
        overwrite: replace earlier results.

    Returns:
        What is not in the picture and why, a line each.

    Raises:
        InputError: there are earlier results, or the place cannot be written to.
    """
    check_target(out, overwrite)
    with output_errors(out):
        (out / "geojson").mkdir(parents=True, exist_ok=True)
        if overwrite:  # of slides that are no longer among the neighbours, and a picture that is not drawn again
            for old in (*(out / "geojson").glob("*.geojson"), out / "similar.png"):
                old.unlink(missing_ok=True)
    with replacing(out / "similar.parquet") as temporary:
        neighbours.table.to_parquet(temporary, index=False)
    with replacing(out / "similar.csv") as temporary:
        neighbours.table.to_csv(temporary, index=False, float_format="%.6g")
    for name, cells in neighbours.table.groupby("slide", sort=True):
        slide = neighbours.collection.slides[neighbours.collection.position(str(name))]
        with replacing(out / "geojson" / f"{slide.name}.geojson") as temporary:
            temporary.write_text(neighbours_geojson(slide, cells), encoding="utf-8")
    return _draw(neighbours, out / "similar.png", slides)


def neighbours_geojson(slide: SlideCells, cells: pd.DataFrame) -> str:
    """Rows of ``Neighbours.table`` on one slide as annotations that QuPath opens: named by query and rank, with the
    similarity as a measurement, classified by type. Their ids differ from those of ``celldetr export``, so that both
    can be open at once."""
    namespace = uuid.uuid5(NAMESPACE, slide.table.slide)
    shift = np.array(corner(slide.table, "bounds"))
    colours = type_colours(slide.table.types)
    features, borders = [], _borders(slide, cells["cell_id"])
    for row in cells.to_dict("records"):
        ring = (borders[row["cell_id"]] - shift).tolist()
        properties: dict[str, Any] = {
            "objectType": "annotation",
            "name": f"{row['query']}, similar {row['rank']}" if row["rank"] else row["query"],
            "classification": {"name": row["type"], "color": list(colours[row["type"]])},
            "isLocked": False,
            "measurements": {
                "similarity": round(row["similarity"], 5),
                "rank": row["rank"],
                "cell_id": row["cell_id"],
            },
        }
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(namespace, f"{row['query']}, {row['rank']}, {row['cell_id']}")),
                "geometry": {"type": "Polygon", "coordinates": [[(round(a, 2), round(b, 2)) for a, b in ring]]},
                "properties": properties,
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)


def _borders(slide: SlideCells, ids: Iterable[int]) -> dict[int, Ring]:
    """``cell_id`` -> what is drawn of each of some cells."""
    some = list(dict.fromkeys(ids))
    drawn = slide.table.take(slide.table.rows_of(some), ring_columns(slide.table))
    return dict(zip(some, rings(drawn), strict=True))


def _draw(neighbours: Neighbours, path: Path, slides: Sequence[Path]) -> list[str]:
    collection = neighbours.collection
    names = list(dict.fromkeys(neighbours.table["query"]))
    drawn = neighbours.table[neighbours.table["query"].isin(names[:DRAWN])]
    shown = drawn[drawn.groupby(["query", drawn["rank"] > 0]).cumcount() < DRAWN_CELLS]
    with open_slides(collection, slides, sorted(set(shown["slide"]))) as opened:
        if not opened.readers:
            return list(opened.missing)
        borders = {
            name: _borders(collection.slides[collection.position(str(name))], cells["cell_id"])
            for name, cells in shown.groupby("slide")
        }
        groups = {}
        for name, cells in shown.groupby("query", sort=False):
            groups[str(name)] = [
                opened.crop(
                    collection.slides[collection.position(cell["slide"])],
                    cell,
                    borders[cell["slide"]][cell["cell_id"]],
                    _title(cell, with_slide=len(collection.slides) > 1),
                    is_query=cell["rank"] == 0,
                )
                for cell in cells.to_dict("records")
            ]
        save_figure(crops_figure(groups, collection.types), path)
    notes = list(opened.missing)
    if len(names) > DRAWN:
        notes.append(f"similar.png shows the first {DRAWN} queries, {len(names) - DRAWN} more are in the tables")
    if len(drawn) > len(shown):
        notes.append(
            f"similar.png shows the first {DRAWN_CELLS} neighbours of a query, {len(drawn) - len(shown):,} more cells "
            "are in the tables"
        )
    return notes


def _title(cell: dict[Any, Any], with_slide: bool) -> str:
    first = f"{cell['rank']}.  {cell['similarity']:.3f}" if cell["rank"] else f"cell {cell['cell_id']}"
    second = f"{cell['type']} {cell['type_score']:.2f}"
    return f"{first}\n{second}" + (f"\n{cell['slide'][:24]}" if with_slide else "")
