"""What the head of the summary says about a run, from its provenance and its slide.

``run.json`` is read leniently: a table may come from an older version or from elsewhere, and a missing key costs one
fact, not the page.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from celldetr.cells.reader import CellTable

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader


def lookup(run: Any, *path: str) -> Any:
    """The value at a path of nested keys, or None."""
    value: Any = run
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def tissue_mm2(table: CellTable) -> float | None:
    """Area of tissue in mm2, or None where the run does not say or found none."""
    area = lookup(table.run, "tissue_mm2")
    return float(area) if isinstance(area, int | float) and area > 0 else None


def warnings(table: CellTable) -> list[str]:
    """Sentences of the run about what is doubtful."""
    found = lookup(table.run, "warnings")
    return [str(sentence) for sentence in found] if isinstance(found, list) else []


def failed_tiles(table: CellTable) -> list[tuple[tuple[float, float, float, float], str]]:
    """Places (x, y, width, height in level-0 px) that could not be decoded, and why."""
    found = lookup(table.run, "failed_tiles")
    places = []
    for tile in found if isinstance(found, list) else []:
        box = [lookup(tile, key) for key in ("x_px", "y_px", "w_px", "h_px")]
        if all(isinstance(value, int | float) and math.isfinite(value) for value in box):
            places.append(((float(box[0]), float(box[1]), float(box[2]), float(box[3])), str(lookup(tile, "reason"))))
    return places


def facts(table: CellTable, reader: SlideReader) -> list[tuple[str, str]]:
    """Label and text of what was measured, as far as it is known."""
    (mpp_x, mpp_y), area = table.mpp_xy or (reader.mpp, reader.mpp), tissue_mm2(table)
    found = [("cells", f"{table.count:,}")]
    if area:
        tissue = "tissue in the ROI" if lookup(table.run, "options", "roi") else "tissue"
        found += [(tissue, f"{area:,.2f} mm²"), ("cells per mm² of tissue", f"{table.count / area:,.0f}")]
    size = f"{reader.width * mpp_x / 1000:.2f} × {reader.height * mpp_y / 1000:.2f} mm"
    resolution = f"{mpp_x:.3g}" if f"{mpp_x:.3g}" == f"{mpp_y:.3g}" else f"{mpp_x:.3g} × {mpp_y:.3g}"
    return [*found, ("slide", size), ("resolution", f"{resolution} µm per pixel")]


def origin(table: CellTable) -> str:
    """One line about what made the table: model, version and day, as far as they are known."""
    model, version = lookup(table.run, "model", "name"), lookup(table.run, "version")
    day = str(lookup(table.run, "ended") or "").split("T")[0]
    known = [f"model {model}" if model else "", f"CellDETR {version}" if version else "", day]
    return " · ".join(part for part in known if part)
