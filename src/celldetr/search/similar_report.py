"""What ``celldetr similar`` writes: ``similar.parquet``, ``similar.csv``, a GeoJSON a slide, ``similar.png``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.export.geojson import NAMESPACE, corner
from celldetr.cells.palette import type_colours
from celldetr.errors import InputError
from celldetr.io.figures import save_figure
from celldetr.io.files import output_errors, replacing
from celldetr.report.crops import cell_pixels
from celldetr.report.crops_figure import PIXELS, CellCrop, crops_figure
from celldetr.search.collection import SlideCells
from celldetr.search.similar import Neighbours
from celldetr.search.slides import open_slides
from celldetr.slide.base_reader import SlideReader

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("similar.parquet", "similar.csv", "similar.png", "geojson")
DRAWN = 12  # queries in the picture
DRAWN_CELLS = 60  # neighbours of each of them; also cells that it is the mean of


def check_target(out: Path, overwrite: bool) -> None:
    """Say before the search that its result has no place.

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
    similarity as a measurement, classified by type. Ids are of their own, so they lie beside the detections of
    ``celldetr export``."""
    namespace = uuid.uuid5(NAMESPACE, slide.table.slide)
    left, top = corner(slide.table, "bounds")
    colours = type_colours(slide.table.types)
    features = []
    for row in cells.to_dict("records"):
        x, y = float(row["x_px"]) - left, float(row["y_px"]) - top
        w, h = float(row["w_px"]) / 2, float(row["h_px"]) / 2
        ring = [[round(x + a * w, 2), round(y + b * h, 2)] for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
        kind, rank = str(row["type"]), int(row["rank"])
        properties: dict[str, Any] = {
            "objectType": "annotation",
            "name": f"{row['query']}" + (f", similar {rank}" if rank else ""),
            "classification": {"name": kind, "color": list(colours[kind])},
            "isLocked": False,
            "measurements": {
                "similarity": round(float(row["similarity"]), 5),
                "rank": rank,
                "cell id": int(row["cell_id"]),
            },
        }
        number = uuid.uuid5(namespace, f"{row['query']}, {rank}, {row['cell_id']}")
        features.append(
            {
                "type": "Feature",
                "id": str(number),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": properties,
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)


def _draw(neighbours: Neighbours, path: Path, slides: Sequence[Path]) -> list[str]:
    names = list(dict.fromkeys(neighbours.table["query"]))[:DRAWN]
    asked = neighbours.table[neighbours.table["query"].isin(names)]
    shown = asked[asked.groupby(["query", asked["rank"] > 0]).cumcount() < DRAWN_CELLS]
    several = len(neighbours.collection.slides) > 1
    with open_slides(neighbours.collection, slides, sorted(set(shown["slide"]))) as opened:
        if opened.readers:
            rows = {
                name: [
                    CellCrop(
                        title=_title(row, several),
                        pixels=_pixels(opened.readers.get(row["slide"]), row),
                        size_um=_size(neighbours, row),
                        type=str(row["type"]),
                        is_query=row["rank"] == 0,
                    )
                    for row in shown[shown["query"] == name].to_dict("records")
                ]
                for name in names
            }
            types = list(dict.fromkeys(name for slide in neighbours.collection.slides for name in slide.table.types))
            save_figure(crops_figure(rows, types), path)
        notes = list(opened.missing)
        if opened.readers:  # else there is no picture
            shows = "similar.png shows the first"
            if left_out := len(set(neighbours.table["query"])) - len(names):
                notes.append(f"{shows} {DRAWN} queries, {left_out} more are in the tables")
            if left_out := len(asked) - len(shown):
                notes.append(f"{shows} {DRAWN_CELLS} neighbours of a query, {left_out:,} more cells are in the tables")
        return notes


def _title(row: dict[Any, Any], several: bool) -> str:
    first = f"cell {row['cell_id']}" if row["rank"] == 0 else f"{row['rank']}.  {row['similarity']:.3f}"
    second = f"{row['type']} {row['type_score']:.2f}"
    return f"{first}\n{second}" + (f"\n{row['slide'][:24]}" if several else "")


def _size(neighbours: Neighbours, row: dict[Any, Any]) -> tuple[float, float]:
    mpp = neighbours.collection.slides[neighbours.collection.position(row["slide"])].table.mpp_xy or (1.0, 1.0)
    return float(row["w_px"]) * mpp[0], float(row["h_px"]) * mpp[1]


def _pixels(reader: SlideReader | None, row: dict[Any, Any]) -> NDArray[np.uint8] | None:
    """(PIXELS, PIXELS, 3) around a cell; None where the slide cannot be read."""
    if reader is None:
        return None
    return cell_pixels(reader, float(row["x_px"]), float(row["y_px"]), (reader.mpp_x, reader.mpp_y), PIXELS)
