"""What networks look at when they type a cell: what ``celldetr explain`` does.

Every network is asked about the same boxes, those of a cell table, on the same tissue: a field of its own around each
cell, at its own resolution. The other cells of the table there are asked about too, as in a run, since in a decoder
with self-attention they matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.api import Model, load_model
from celldetr.cells.reader import open_table
from celldetr.cells.rings import is_box, ring_columns, rings
from celldetr.config import ExplainOptions
from celldetr.errors import InputError
from celldetr.io.figures import check_ending, save_figure
from celldetr.model.attention_trace import AttentionTrace, trace_attention
from celldetr.model.display_names import short_titles
from celldetr.model.hub import DEFAULT_MODEL
from celldetr.progress import Progress
from celldetr.report.attention import Attention, CellRow, attention_figure
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import read_around
from celldetr.slide.reader import open_slide

SAME_MPP = 0.001  # relative: rounding of what was written
COLUMNS = ["cell_id", "x_px", "y_px", "w_px", "h_px", "type", "type_score"]
LARGEST_MM2 = 2.0  # of a region whose cells are found on the fly
LEAST_FIELD_UM = 16.0
ROOM = 1.7  # side of a panel, times the longest side of a box
PIXELS = 320  # side of a panel's picture

Region = tuple[float, float, float, float]


def explain_slide(
    path: Path,
    out: Path,
    options: ExplainOptions,
    models: Sequence[str | None] = (None,),
    run: Path | None = None,
    ids: Sequence[int] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> list[str]:
    """Open, load, choose and draw; returns what ``explain`` does.

    Args:
        path: of a slide or an image.
        out: PNG, SVG or PDF.
        options: what of the slide is looked at.
        models: what ``load_model`` takes, one for each column.
        run: of the slide, whose cells they are; None: what the first model finds in ``options.region``.
        ids: ``cell_id`` of those to draw; none: see ``choose_cells``.
        device: where models run.
        progress: called with how many cells are done, of how many.

    Raises:
        InputError: anything wrong with these; one line says what to do.
    """
    check_ending(out)
    if run is not None and options.region is not None:
        raise InputError("`region`: says where to look for cells, which `cells` has already; leave one of them out")
    with open_slide(path, options.mpp) as reader:
        cells = chosen = None
        if run is not None:
            cells = run_cells(run, reader)
            chosen = with_borders(choose_cells(cells, ids), run)  # a wrong id is told before models are loaded
        titles = short_titles([name or DEFAULT_MODEL for name in models])
        loaded = {title: load_model(name, device, precision="32") for title, name in zip(titles, models, strict=True)}
        if cells is None or chosen is None:
            cells = found_cells(reader, options.region, next(iter(loaded.values())))
            chosen = choose_cells(cells, ids)
        return explain(reader, cells, chosen, loaded, out, options.tile, progress)


def run_cells(run: Path, reader: SlideReader) -> pd.DataFrame:
    """The cells of a finished run of a slide.

    Raises:
        InputError: no finished run, or one of another slide.
    """
    table = open_table(run)
    record = table.run
    for key, actual in (("width", reader.width), ("height", reader.height)):
        if record.get(key, actual) != actual:
            raise InputError(
                f"`cells={run}`: is of {record.get('slide')!r}, whose {key} is {record.get(key)} px; "
                f"{reader.file} has {actual}; give the run of this slide"
            )
    for key, size in (("mpp_x", reader.mpp_x), ("mpp_y", reader.mpp_y)):
        was = record.get(key, size)
        if not isinstance(was, int | float) or abs(was - size) > SAME_MPP * size:
            raise InputError(
                f"`cells={run}`: was made at {was} um per pixel ({key}), and {reader.file} is opened at {size:g}; give"
                f" the resolution of the run, `mpp={record.get('mpp')}`"
            )
    return table.frame(COLUMNS)


def found_cells(reader: SlideReader, region: Region | None, model: Model) -> pd.DataFrame:
    """Find the cells of a region (level-0 px x, y, width, height; None: all), numbered from 0, x and y of the slide.

    Raises:
        InputError: the region is empty, outside the slide, or too large for that.
    """
    x, y, width, height = region or (0.0, 0.0, float(reader.width), float(reader.height))
    inside = x >= 0 and y >= 0 and x + width <= reader.width and y + height <= reader.height
    if not (inside and width >= 1 and height >= 1):
        raise InputError(
            f"`region={x:g} {y:g} {width:g} {height:g}`: expected X Y WIDTH HEIGHT inside the slide of "
            f"{reader.width} x {reader.height} px"
        )
    area = width * reader.mpp_x * height * reader.mpp_y / 1e6
    if area > LARGEST_MM2:
        raise InputError(
            f"{reader.file}: {area:.3g} mm² are too many to look for cells first (at most {LARGEST_MM2:g}); give "
            "`region`, or `cells` of a finished run (celldetr predict)"
        )
    step_x, step_y = reader.mpp / reader.mpp_x, reader.mpp / reader.mpp_y
    size = max(1, round(width / step_x)), max(1, round(height / step_y))
    pixels, _ = read_around(reader, x, y, width, height, *size)
    found = model.predict(pixels, reader.mpp)
    cells, drawn = found[COLUMNS], rings(pa.table({"geometry": pa.array(found["geometry"], pa.binary())}))
    scale_x, scale_y = width / size[0], height / size[1]
    return cells.assign(
        x_px=cells["x_px"] * scale_x + x,
        y_px=cells["y_px"] * scale_y + y,
        w_px=cells["w_px"] * scale_x,
        h_px=cells["h_px"] * scale_y,
        border=pd.Series([ring * (scale_x, scale_y) + (x, y) for ring in drawn], dtype=object),
    )


def with_borders(cells: pd.DataFrame, run: Path) -> pd.DataFrame:
    """Some cells of a run, and in ``border`` what is drawn of each, (V, 2) level-0 pixels."""
    table = open_table(run)
    drawn = rings(table.take(table.rows_of(cells["cell_id"].tolist()), ring_columns(table)))
    return cells.assign(border=pd.Series(drawn, index=cells.index, dtype=object))


def choose_cells(cells: pd.DataFrame, ids: Sequence[int]) -> pd.DataFrame:
    """The rows of some cells, in the order asked for; by default of each type the surest cell and the median one.

    Cells of a type are sorted by falling ``type_score``, then by ``cell_id``; the first and the middle one are taken.

    Raises:
        InputError: there is no cell, or none of such an id.
    """
    if cells.empty:
        raise InputError("there is no cell here to look at; choose another `region`, or `cells` of another run")
    if ids:
        known = cells.set_index("cell_id", drop=False)
        for number in ids:
            if number not in known.index:
                nearest = cells["cell_id"].iloc[(cells["cell_id"] - number).abs().argsort().iloc[:3]]
                low, high = cells["cell_id"].min(), cells["cell_id"].max()
                raise InputError(
                    f"`cell={number}`: there is no such cell; cell_id goes from {low} to {high}, near ones are "
                    + ", ".join(str(near) for near in sorted(nearest))
                )
        return known.loc[list(ids)]
    ordered = cells.sort_values(["type_score", "cell_id"], ascending=[False, True])
    chosen = []
    for _, of_type in ordered.groupby("type", observed=True, sort=True):
        chosen.append(of_type.iloc[sorted({0, (len(of_type) - 1) // 2})])
    return pd.concat(chosen)


def explain(
    reader: SlideReader,
    cells: pd.DataFrame,
    chosen: pd.DataFrame,
    models: Mapping[str, Model],
    out: Path,
    tile: int,
    progress: Progress | None = None,
) -> list[str]:
    """Draw where models look, in the last layer of their representation decoder.

    Args:
        reader: the slide.
        cells, chosen: all cells, and the rows of those to draw, with their ``border``.
        models: name -> model, in the order of the columns.
        out: the figure.
        tile: side of the field around each cell, px at the model's mpp, that the network sees; one that measures in
            fractions of images of one size sees those.
        progress: called with how many cells are done, of how many.

    Returns:
        A line a cell and model: its type, and the share of each layer's attention inside the box.
    """
    scale = np.array([reader.mpp_x, reader.mpp_y])
    longest = float((chosen[["w_px", "h_px"]].to_numpy(np.float64) * scale).max())
    field_um = max(LEAST_FIELD_UM, ROOM * longest)
    rows, lines = [], []
    numbers, kinds = chosen["cell_id"].tolist(), chosen["type"].astype(str).tolist()
    places = chosen[["x_px", "y_px", "w_px", "h_px"]].to_numpy(np.float64)
    borders = chosen["border"].tolist()
    for done, (number, kind, sure, place, ring) in enumerate(
        zip(numbers, kinds, chosen["type_score"].tolist(), places, borders, strict=True), 1
    ):
        centre, size = place[:2], place[2:]
        attentions = []
        for name, model in models.items():
            trace = _look(reader, cells, number, centre, model, model.image_px or tile)
            best = int(trace.probabilities[0].argmax())
            said = f"{model.types[best]} {trace.probabilities[0, best]:.2f}"
            shares = trace.share_in_box()[:, 0]
            attentions.append(_attention(trace, model.mpp, f"{said}\n{shares[-1]:.0%} inside the box"))
            inside = " ".join(f"{share:.3f}" for share in shares)
            lines.append(f"cell {number}  {name}: {said}, attention inside the box by layer {inside}")
        field = field_um / scale
        x, y = centre - field / 2
        pixels, _ = read_around(reader, x, y, field[0], field[1], PIXELS, PIXELS)
        width, height = (float(side) for side in size * scale)
        border = None if is_box(ring) else (ring - centre) * scale
        title = f"cell {number}\n{kind} {sure:.2f}"
        rows.append(CellRow(title, pixels, (width, height), tuple(attentions), border))
        if progress:
            progress(done, len(chosen))
    save_figure(attention_figure(rows, field_um, list(models), _levels(models.values())), out)
    return lines


def _look(
    reader: SlideReader, cells: pd.DataFrame, number: int, centre: NDArray[np.float64], model: Model, tile: int
) -> AttentionTrace:
    """The attention for a cell, which comes first, and those around it; the field is shifted to lie in the slide."""
    step = model.mpp / np.array([reader.mpp_x, reader.mpp_y])  # level-0 px per px of the model
    whole = np.array([reader.width, reader.height])
    extent = np.minimum(tile, np.ceil(whole / step))
    corner = np.clip(centre - extent * step / 2, 0, np.maximum(whole - extent * step, 0))
    width, height = extent * step
    image, _ = read_around(reader, corner[0], corner[1], width, height, int(extent[0]), int(extent[1]))
    place = (cells[["x_px", "y_px"]].to_numpy(np.float64) - corner) / step
    half = cells[["w_px", "h_px"]].to_numpy(np.float64) / step / 2
    first = (cells["cell_id"] == number).to_numpy()
    others = ((place >= 0) & (place < extent)).all(1) & ~first
    boxes = np.concatenate([place - half, place + half], axis=1).clip(0, np.tile(extent, 2))
    return trace_attention(model.network, image, np.concatenate([boxes[first], boxes[others]]))


def _attention(trace: AttentionTrace, mpp: float, title: str) -> Attention:
    """The last layer's attention for the first cell, all heads together."""
    weights = trace.weights[-1, 0].astype(np.float64)
    left, top, right, bottom = trace.boxes[0]
    centre = np.array([left + right, top + bottom]) / 2
    strides = np.broadcast_to(np.array(trace.strides)[None, :, None], weights.shape)
    points = (trace.locations[-1, 0] - centre) * mpp
    return Attention(title, points.reshape(-1, 2), weights.ravel() / weights.sum(), strides.ravel())


def _levels(models: Iterable[Model]) -> dict[int, str]:
    """Stride of each level that one of the models samples -> what the legend says of it."""
    found: dict[int, set[float]] = {}
    for model in models:
        for stride in model.network.config.representation_strides:
            found.setdefault(stride, set()).add(stride * model.mpp)
    sizes = {stride: " or ".join(f"{size:g}" for size in sorted(um)) for stride, um in sorted(found.items())}
    return {stride: f"stride {stride} ({size} µm)" for stride, size in sizes.items()}
