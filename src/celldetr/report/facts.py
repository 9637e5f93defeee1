"""Facts about a run in the head of its summary, from ``run.json``; a key that it lacks costs a fact, not the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celldetr.cells.reader import CellTable

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader


def tissue_mm2(table: CellTable) -> float | None:
    """Area of tissue in mm2, or None where the run does not say or there is none."""
    return table.run.get("tissue_mm2") or None


def failed_tiles(table: CellTable) -> list[tuple[tuple[float, float, float, float], str]]:
    """Places (x, y, width, height in level-0 px) that could not be decoded, and why."""
    return [
        ((tile["x_px"], tile["y_px"], tile["w_px"], tile["h_px"]), tile["reason"])
        for tile in table.run.get("failed_tiles", ())
    ]


def facts(table: CellTable, reader: SlideReader) -> list[tuple[str, str]]:
    """Label and text of what was measured, as far as it is known."""
    (mpp_x, mpp_y), area = table.mpp_xy or (reader.mpp, reader.mpp), tissue_mm2(table)
    lines = [("cells", f"{table.count:,}")]
    if area:
        tissue = "tissue in the ROI" if table.run.get("options", {}).get("roi") else "tissue"
        lines += [(tissue, f"{area:,.2f} mm²"), ("cells per mm² of tissue", f"{table.count / area:,.0f}")]
    size = f"{reader.width * mpp_x / 1000:.2f} × {reader.height * mpp_y / 1000:.2f} mm"
    resolution = f"{mpp_x:.3g}" if f"{mpp_x:.3g}" == f"{mpp_y:.3g}" else f"{mpp_x:.3g} × {mpp_y:.3g}"
    return [*lines, ("slide", size), ("resolution", f"{resolution} µm per pixel")]


def origin(table: CellTable) -> str:
    """One line about what made the table: model, version and day, as far as they are known."""
    model, version = table.run.get("model", {}).get("name"), table.run.get("version")
    day = table.run.get("ended", "").split("T")[0]
    known = [f"model {model}" if model else "", f"CellDETR {version}" if version else "", day]
    return " · ".join(part for part in known if part)
