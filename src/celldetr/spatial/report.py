"""``report.html``: every step with its evidence, so that a person can decide whether to trust the set.

One file without scripts or outside resources. It is made from the results of the steps, and can be made again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from celldetr.data.patch_set import PatchSet, split_rows
from celldetr.report.contact_sheet import Picture, contact_sheet
from celldetr.report.page import duration, number, write_page
from celldetr.spatial.alignment_plots import overlay, pair_positions, residual_figure
from celldetr.spatial.annotate.expression import split_expression
from celldetr.spatial.colocalization import nearest_distances
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.qc import QualityOptions
from celldetr.spatial.qc_plots import qc_figure
from celldetr.spatial.results import REPORT_FILE, STEPS, StepResults
from celldetr.spatial.type_plots import expression_figure, types_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 12  # nuclei shown of each type
EXAMPLE_PX = 64  # side of a picture of a nucleus, px of the patches
DPI = 110
TITLES = {
    "read": "1. The section",
    "qc": "2. Quality control",
    "type": "3. Types from gene expression",
    "nuclei": "4. Nuclei of the H&E image",
    "align": "5. Pairs of cells and nuclei",
    "write": "6. The training set",
}
# What a section of the page is made of: text; a table (heads, rows); a picture (data URI, caption).
Block = tuple[Literal["heading", "text", "note", "table", "picture"], Any]


def write_report(results: StepResults) -> Path:
    """Make the report of a set from the steps that are done -> the file.

    Raises:
        InputError: no step was run yet, or a checkpoint is damaged.
    """
    name = str(results.facts("read")["name"])
    return write_page(
        results.folder / REPORT_FILE,
        "spatial.html",
        title=f"{name}: labels from expression",
        name=name,
        missing=[step for step in STEPS if step not in results.done],
        warnings=warnings(results),
        numbers=_numbers(results),
        times=[(TITLES[step], duration(results.run.steps[step]["seconds"])) for step in results.done],
        sections=[{"title": TITLES[step], "blocks": _SECTIONS[step](results)} for step in results.done],
    )


def warnings(results: StepResults) -> list[str]:
    """What a person should look at before trusting the set, in words."""
    texts = [
        f"step {name} is out of date: steps before it were run again since"
        for name in results.done
        if results.run.is_stale(name)
    ]
    facts = {name: results.facts(name) for name in results.done}
    if "qc" in facts and facts["qc"]["passed"] < 0.7 * facts["qc"]["cells"]:
        texts.append(f"only {facts['qc']['passed'] / facts['qc']['cells']:.0%} of the cells passed the quality control")
    if "type" in facts:
        texts += facts["type"]["warnings"]
    if "align" in facts:
        texts += facts["align"]["warnings"]
        rate = facts["align"]["pairs"]["cells_paired"]
        if rate < 0.6:
            texts.append(f"only {rate:.0%} of the cells have a nucleus")
    return texts


def _numbers(results: StepResults) -> list[tuple[str, str]]:
    """The most important numbers of each step."""
    names = {
        "read": {"cells": "cells", "genes": "genes"},
        "qc": {"cells passed": "passed"},
        "type": {"sure of their type": "sure"},
        "nuclei": {"nuclei in the image": "nuclei"},
        "write": {"patches": "patches"},
    }
    shown = []
    for step in results.done:
        facts = results.facts(step)
        shown += [(label, number(facts[key])) for label, key in names.get(step, {}).items()]
        if step == "align":
            shown.append(("pairs", number(facts["pairs"]["pairs"])))
            shown.append(("median distance", number(facts["pairs"]["median_um"], ".2f", " µm")))
    return shown


def _read(results: StepResults) -> list[Block]:
    facts = results.facts("read")
    return [_facts(facts, without=("source",)), ("heading", "Source"), _facts(facts["source"])]


def _qc(results: StepResults) -> list[Block]:
    options = QualityOptions.model_validate(results.settings("qc")["options"])
    figure = qc_figure(results.section, results.quality, options)
    rows = [(reason, f"{cells:,}") for reason, cells in results.facts("qc")["reasons"].items()]
    return [
        _figure(figure, "Counts, genes and areas with the limits, and where the cells are that fail."),
        ("table", (("why a cell fails", "cells"), rows)) if rows else ("note", "All cells passed."),
        ("note", "A cell can have several reasons. Nuclei of cells that fail have no type."),
    ]


def _type(results: StepResults) -> list[Block]:
    written = "write" in results.done
    limits = WriteOptions.model_validate(results.settings("write")["options"]) if written else WriteOptions()
    figure = types_figure(results.passed, results.types, limits.min_probability, limits.min_margin)
    blocks = [_figure(figure, "Cells of each type, how sure they are, and where they lie.")]
    if results.expression is not None:
        blocks.append(
            _figure(
                expression_figure(*split_expression(results.expression)),
                "Genes that distinguish the reference's types, each scaled to its largest mean: the two should look"
                " alike. At the right the correlation of types over genes: the diagonal should be red, the rest not.",
            )
        )
    return [*blocks, _facts(results.facts("type"), without=("warnings",))]


def _nuclei(results: StepResults) -> list[Block]:
    return [_facts(results.facts("nuclei"))]


def _align(results: StepResults) -> list[Block]:
    facts = results.facts("align")
    cells, nuclei, pairs, to_image = results.passed, results.nuclei, results.pairs, results.to_image
    positions = pair_positions(pairs, cells.cell_ids)
    with results.open_image() as reader:
        mpp = reader.mpp_x, reader.mpp_y
        picture = overlay(reader, cells.points, nuclei, to_image, positions)
    distances, shifted = nearest_distances(cells.points, nuclei.points, to_image, mpp)
    residuals = residual_figure(pairs, cells.points, positions[0], to_image, mpp, distances, np.concatenate(shifted))
    return [
        ("text", f"{facts['why'].capitalize()}."),
        _figure(picture, "Cells of the section on the image, and fields of it: points are cells, lines join pairs."),
        _figure(residuals, "How far nuclei lie from their cells, and where cells have none."),
        _facts(facts["pairs"]),
        ("heading", "Alignment"),
        _facts(facts, without=("pairs", "before", "after", "warnings", "why")),
    ]


def _write(results: StepResults) -> list[Block]:
    facts = results.facts("write")
    patches = PatchSet(results.folder)
    held_out = {patches.info.slides[place].name for place in _held_out(patches)}
    rows = [
        (slide["name"], "val" if slide["name"] in held_out else "train", slide["patches"], slide["nuclei"])
        for slide in facts["regions"]
    ]
    return [
        ("table", (("region", "split", "patches", "nuclei"), rows)),
        ("heading", "Nuclei of each type"),
        *_examples(patches),
        _facts(facts["made_with"]),
    ]


def _held_out(patches: PatchSet) -> list[int]:
    """Places among the regions of those in split val."""
    ends = np.cumsum([slide.patches for slide in patches.info.slides])
    starts = {rows.start for rows in split_rows(patches.info, "val")}
    return [k for k, (end, slide) in enumerate(zip(ends, patches.info.slides, strict=True))
            if slide.patches and int(end) - slide.patches in starts]  # fmt: skip


def _examples(patches: PatchSet) -> list[Block]:
    """Nuclei of each type, drawn at random."""
    rng = np.random.default_rng(0)
    shown: dict[int, list[Picture]] = {k: [] for k in range(len(patches.type_names))}
    for index in rng.permutation(len(patches)).tolist():
        incomplete = [k for k, own in shown.items() if len(own) < EXAMPLES]
        if not incomplete:
            break
        if not patches.counts[index, incomplete].any():
            continue
        sample = patches[index]
        side = np.array(sample.image.shape[1::-1])
        for k in incomplete:
            for cell in np.flatnonzero(sample.types == k)[:3]:  # of several patches, not of one
                corner = np.clip(sample.points[cell] - EXAMPLE_PX / 2, 0, side - EXAMPLE_PX).astype(int)
                x, y = np.maximum(corner, 0).tolist()
                crop = np.ascontiguousarray(sample.image[y : y + EXAMPLE_PX, x : x + EXAMPLE_PX])
                box = sample.boxes[cell] - np.array([x, y, x, y], dtype=np.float32)
                if len(shown[k]) < EXAMPLES:
                    shown[k].append(Picture(crop, box[None], ""))
    return [
        _sheet(contact_sheet(pictures, EXAMPLES), patches.type_names[k]) for k, pictures in shown.items() if pictures
    ]


def _facts(values: Mapping[str, Any], without: Iterable[str] = ()) -> Block:
    """Facts as a table of two columns; nested ones in words."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return "; ".join(f"{key}: {words(item)}" for key, item in value.items()) or "none"
        if isinstance(value, list | tuple):
            return ", ".join(words(item) for item in value) or "none"
        if isinstance(value, float):
            return f"{value:,.4g}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    rows = [(key.replace("_", " "), words(item)) for key, item in values.items() if key not in set(without)]
    return "table", (("", ""), rows)


def _figure(figure: Figure, caption: str) -> Block:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return _picture(stream, "png", caption)


def _sheet(image: Image.Image, caption: str) -> Block:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88)
    return _picture(stream, "jpeg", caption)


def _picture(stream: io.BytesIO, kind: str, caption: str) -> Block:
    return "picture", (f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}", caption)


_SECTIONS = {"read": _read, "qc": _qc, "type": _type, "nuclei": _nuclei, "align": _align, "write": _write}
