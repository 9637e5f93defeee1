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

from celldetr.data.patch_set import PatchSet, split_rows
from celldetr.data.sample import Sample
from celldetr.report.contact_sheet import Picture, contact_sheet
from celldetr.report.page import duration, write_page
from celldetr.spatial.alignment_plots import overlay, pair_positions, residual_figure
from celldetr.spatial.annotate.cells import TypeOptions
from celldetr.spatial.annotate.expression import split_expression
from celldetr.spatial.cell_plots import expression_figure, qc_figure, types_figure
from celldetr.spatial.colocalization import nearest_distances
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.pipeline import REPORT_FILE, STEPS, Pipeline
from celldetr.spatial.qc import QualityOptions, qc_warnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 12  # nuclei shown of each type
EXAMPLES_A_PATCH = 3  # at most, so that they are from several patches
EXAMPLE_PX = 64  # side of a picture of a nucleus, px of the patches
DPI = 110
LEAST_PAIRED = 0.6  # share of the cells; below, there is a warning
TITLES = {
    "read": "1. The section",
    "qc": "2. Quality control",
    "type": "3. Types from gene expression",
    "nuclei": "4. Nuclei of the H&E image",
    "align": "5. Pairs of cells and nuclei",
    "write": "6. The training set",
}
# What a section of the page is made of: text, a table (heads, rows), facts (name, words), or a picture (data URI,
# caption).
Block = tuple[Literal["heading", "note", "table", "facts", "picture"], Any]


def write_report(pipeline: Pipeline) -> Path:
    """Make the report of a set from the steps that are done -> the file.

    Raises:
        InputError: no step was run yet, or a checkpoint is damaged.
    """
    name, done = str(pipeline.facts("read")["name"]), pipeline.done
    sections = {"read": _read, "qc": _qc, "type": _type, "nuclei": _nuclei, "align": _align, "write": _write}
    return write_page(
        pipeline.folder / REPORT_FILE,
        "spatial.html",
        title=f"{name}: labels from expression",
        name=name,
        missing=[step for step in STEPS if step not in done],
        warnings=warnings(pipeline),
        steps=[(TITLES[step], pipeline.summary(step), duration(pipeline.recorded(step)["seconds"])) for step in done],
        sections=[{"title": TITLES[step], "blocks": sections[step](pipeline)} for step in done],
    )


def warnings(pipeline: Pipeline) -> list[str]:
    """What a person should look at before trusting the set, in words."""
    texts = [
        f"step {name} is out of date: steps before it were run again since"
        for name in pipeline.done
        if pipeline.run.is_stale(name)
    ]
    facts = {name: pipeline.facts(name) for name in pipeline.done}
    if "qc" in facts:
        texts += qc_warnings(facts["qc"])
    if "type" in facts:
        texts += facts["type"]["warnings"]
    if "align" in facts:
        texts += facts["align"]["warnings"]
        if (paired := facts["align"]["pairs"]["cells_paired"]) < LEAST_PAIRED:
            texts.append(f"only {paired:.0%} of the cells have a nucleus")
    return texts


def _read(pipeline: Pipeline) -> list[Block]:
    facts = pipeline.facts("read")
    return [_facts(facts, without=("source",)), ("heading", "Source"), _facts(facts["source"])]


def _qc(pipeline: Pipeline) -> list[Block]:
    options = QualityOptions.model_validate(pipeline.recorded("qc")["settings"]["options"])
    figure = qc_figure(pipeline.section, pipeline.quality, options)
    rows = [(reason, f"{cells:,}") for reason, cells in pipeline.facts("qc")["reasons"].items()]
    return [
        _figure(figure, "Counts, genes and areas with the limits, and where the cells are that fail."),
        ("table", (("why a cell fails", "cells"), rows)) if rows else ("note", "All cells passed."),
        ("note", "A cell can have several reasons. Nuclei of cells that fail have no type."),
    ]


def _type(pipeline: Pipeline) -> list[Block]:
    written = "write" in pipeline.done
    limits = (
        WriteOptions.model_validate(pipeline.recorded("write")["settings"]["options"]) if written else WriteOptions()
    )
    facts = dict(pipeline.facts("type"))
    least = TypeOptions.model_validate(pipeline.recorded("type")["settings"]["options"]).sure
    facts = {f"sure (probability {least:g} or more)" if key == "sure" else key: value for key, value in facts.items()}
    figure = types_figure(pipeline.passed, pipeline.types, limits.min_probability, limits.min_margin)
    blocks = [
        _figure(
            figure,
            "Cells of each type, how sure they are, and where they lie. Only nuclei of cells within the limits of step"
            " 6 get a type in the set.",
        )
    ]
    if pipeline.expression is not None:
        blocks.append(
            _figure(
                expression_figure(*split_expression(pipeline.expression)),
                "Genes that distinguish the reference's types, each scaled to its largest mean: the two should look"
                " alike. At the right the correlation of types over genes: the diagonal should be red, the rest not.",
            )
        )
    return [*blocks, _facts(facts, without=("warnings",))]


def _nuclei(pipeline: Pipeline) -> list[Block]:
    return [_facts(pipeline.facts("nuclei"))]


def _align(pipeline: Pipeline) -> list[Block]:
    facts = pipeline.facts("align")
    cells, nuclei, pairs, to_image = pipeline.passed, pipeline.nuclei, pipeline.pairs, pipeline.to_image
    positions = pair_positions(pairs, cells.cell_ids)
    with pipeline.open_image() as reader:
        mpp = reader.mpp_x, reader.mpp_y
        picture = overlay(reader, cells.points, nuclei, to_image, positions)
    distances, shifted = nearest_distances(cells.points, nuclei.points, to_image, mpp)
    residuals = residual_figure(pairs, cells.points, positions[0], to_image, mpp, distances, np.concatenate(shifted))
    return [
        _figure(picture, "Cells of the section on the image, and fields of it: points are cells, lines join pairs."),
        _figure(residuals, "How far nuclei lie from their cells, and where cells have none."),
        _facts(facts["pairs"]),
        ("heading", "Alignment"),
        _facts(facts, without=("pairs", "before", "after", "warnings", "why")),
    ]


def _write(pipeline: Pipeline) -> list[Block]:
    patches = PatchSet(pipeline.folder)
    held_out = {rows.start for rows in split_rows(patches.info, "val")}
    regions, first = [], 0
    for region in patches.info.slides:
        split = "val" if region.patches and first in held_out else "train"
        regions.append((region.name, split, region.patches, region.nuclei))
        first += region.patches
    return [
        ("table", (("region", "split", "patches", "nuclei"), regions)),
        ("heading", "Nuclei of each type"),
        *_examples(patches),
        _facts(pipeline.facts("write")["made_with"]),
    ]


def _examples(patches: PatchSet) -> list[Block]:
    """Nuclei of each type, from patches drawn at random."""
    pictures: dict[int, list[Picture]] = {k: [] for k in range(len(patches.type_names))}
    for index in np.random.default_rng(0).permutation(len(patches)).tolist():
        wanted = [k for k, own in pictures.items() if len(own) < EXAMPLES]
        if not patches.counts[index, wanted].any():
            continue
        sample = patches[index]
        for k in wanted:
            cells = np.flatnonzero(sample.types == k)[:EXAMPLES_A_PATCH].tolist()
            pictures[k] += [_example(sample, cell) for cell in cells]
    blocks = []
    for k, own in pictures.items():
        if own:
            stream = io.BytesIO()
            contact_sheet(own[:EXAMPLES], EXAMPLES).save(stream, format="JPEG", quality=88)
            blocks.append(_picture(stream, "jpeg", patches.type_names[k]))
    return blocks


def _example(sample: Sample, cell: int) -> Picture:
    side = np.array(sample.image.shape[1::-1])
    corner = np.clip(sample.points[cell] - EXAMPLE_PX / 2, 0, np.maximum(side - EXAMPLE_PX, 0)).astype(int)
    x, y = corner.tolist()
    crop = np.ascontiguousarray(sample.image[y : y + EXAMPLE_PX, x : x + EXAMPLE_PX])
    return Picture(crop, (sample.boxes[cell] - np.tile(corner, 2)).astype(np.float32)[None], "")


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
    return "facts", rows


def _figure(figure: Figure, caption: str) -> Block:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return _picture(stream, "png", caption)


def _picture(stream: io.BytesIO, kind: str, caption: str) -> Block:
    return "picture", (f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}", caption)
