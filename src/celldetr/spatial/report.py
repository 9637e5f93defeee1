"""``report.html``: every step with its evidence, so that a person can decide whether to trust the set.

One file without scripts or outside resources. It is made from the results of the steps, and can be made again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from celldetr.data.patch_set import PatchSet, split_rows
from celldetr.io.files import replacing
from celldetr.report.contact_sheet import Picture, contact_sheet
from celldetr.report.page import document, duration, number
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


def write_report(results: StepResults) -> Path:
    """Make the report of a set from the steps that are done -> the file.

    Raises:
        InputError: no step was run yet, or a checkpoint is damaged.
    """
    name = str(results.facts("read")["name"])
    body = [f"<h1>{escape(name)}</h1>", _lead(results), *_warnings(results), _numbers(results), _timetable(results)]
    for step in results.done:
        body += [f"<h2>{escape(TITLES[step])}</h2>", *_SECTIONS[step](results)]
    path = results.folder / REPORT_FILE
    with replacing(path) as temporary:
        temporary.write_text(document(f"{name}: labels from expression", body), encoding="utf-8")
    return path


def _lead(results: StepResults) -> str:
    missing = [name for name in STEPS if name not in results.done]
    text = "Nuclei of an H&amp;E image, labelled by the gene expression of the cells they belong to."
    if missing:
        text += f" Not run yet: {', '.join(missing)}."
    return f'<p class="lead">{text}</p>'


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


def _warnings(results: StepResults) -> list[str]:
    texts = warnings(results)
    return [f'<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'] if texts else []


def _numbers(results: StepResults) -> str:
    facts = {name: results.facts(name) for name in results.done}
    shown: list[tuple[str, str]] = []
    if "read" in facts:
        shown += [("cells", number(facts["read"]["cells"])), ("genes", number(facts["read"]["genes"]))]
    if "qc" in facts:
        shown.append(("cells passed", number(facts["qc"]["passed"])))
    if "type" in facts:
        shown.append(("sure of their type", number(facts["type"]["sure"])))
    if "nuclei" in facts:
        shown.append(("nuclei in the image", number(facts["nuclei"]["nuclei"])))
    if "align" in facts:
        shown += [
            ("pairs", number(facts["align"]["pairs"]["pairs"])),
            ("median distance", number(facts["align"]["pairs"]["median_um"], ".2f", " µm")),
        ]
    if "write" in facts:
        shown.append(("patches", number(facts["write"]["patches"])))
    return '<dl class="facts">' + "".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in shown) + "</dl>"


def _timetable(results: StepResults) -> str:
    return table(
        ("step", "took"), [(TITLES[name], duration(results.run.steps[name]["seconds"])) for name in results.done]
    )


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """An HTML table; numbers with thousands separators, text escaped."""

    def cell(value: object) -> str:
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        return f"<td>{escape(text)}</td>"

    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure_html(figure: Figure, caption: str) -> str:
    """A matplotlib figure inside the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return _picture(stream.getvalue(), "png", caption)


def _picture(content: bytes, kind: str, caption: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{escape(caption)}" style="max-width:100%">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _pairs_of(values: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """Facts as a table of two columns; nested ones in words."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return "; ".join(f"{key}: {words(item)}" for key, item in value.items()) or "none"
        if isinstance(value, list | tuple):
            return ", ".join(words(item) for item in value) or "none"
        if isinstance(value, float):
            return f"{value:,.4g}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    skipped = set(without)
    return table(("", ""), [(key.replace("_", " "), words(item)) for key, item in values.items() if key not in skipped])


def _read(results: StepResults) -> list[str]:
    facts = results.facts("read")
    return [_pairs_of(facts, without=("source",)), "<h3>Source</h3>", _pairs_of(facts["source"])]


def _qc(results: StepResults) -> list[str]:
    options = QualityOptions.model_validate(results.settings("qc")["options"])
    figure = qc_figure(results.section, results.quality, options)
    rows = sorted(results.facts("qc")["reasons"].items(), key=lambda item: -item[1])
    return [
        figure_html(figure, "Counts, genes and areas with the limits, and where the cells are that fail."),
        table(("why a cell fails", "cells"), rows) if rows else '<p class="note">All cells passed.</p>',
        '<p class="note">A cell can have several reasons. Nuclei of cells that fail have no type.</p>',
    ]


def _type(results: StepResults) -> list[str]:
    written = "write" in results.done
    limits = WriteOptions.model_validate(results.settings("write")["options"]) if written else WriteOptions()
    figure = types_figure(results.passed, results.types, limits.min_probability, limits.min_margin)
    parts = [figure_html(figure, "Cells of each type, how sure they are, and where they lie.")]
    if results.expression is not None:
        parts.append(
            figure_html(
                expression_figure(*split_expression(results.expression)),
                "Genes that distinguish the reference's types, each scaled to its largest mean: the two should look"
                " alike. At the right the correlation of types over genes: the diagonal should be red, the rest not.",
            )
        )
    return [*parts, _pairs_of(results.facts("type"), without=("warnings",))]


def _nuclei(results: StepResults) -> list[str]:
    return [_pairs_of(results.facts("nuclei"))]


def _align(results: StepResults) -> list[str]:
    facts = results.facts("align")
    cells, nuclei, pairs, to_image = results.passed, results.nuclei, results.pairs, results.to_image
    positions = pair_positions(pairs, cells.cell_ids)
    with results.open_image() as reader:
        mpp = reader.mpp_x, reader.mpp_y
        picture = overlay(reader, cells.points, nuclei, to_image, mpp, positions)
    distances, shifted = nearest_distances(cells.points, nuclei.points, to_image, mpp)
    chance = np.concatenate(shifted)
    residuals = residual_figure(pairs, cells.points, positions[0], to_image, mpp, chance, distances)
    return [
        f"<p>{escape(facts['why'].capitalize())}.</p>",
        figure_html(
            picture, "Cells of the section on the image, and fields of it: points are cells, lines join pairs."
        ),
        figure_html(residuals, "How far nuclei lie from their cells, and where cells have none."),
        _pairs_of(facts["pairs"]),
        "<h3>Alignment</h3>",
        _pairs_of(facts, without=("pairs", "before", "after", "warnings", "why")),
    ]


def _write(results: StepResults) -> list[str]:
    facts = results.facts("write")
    patches = PatchSet(results.folder)
    held_out = {patches.info.slides[place].name for place in _held_out(patches)}
    rows = [
        (slide["name"], "val" if slide["name"] in held_out else "train", slide["patches"], slide["nuclei"])
        for slide in facts["regions"]
    ]
    return [
        table(("region", "split", "patches", "nuclei"), rows),
        *_examples(patches),
        _pairs_of(facts["made_with"]),
    ]


def _held_out(patches: PatchSet) -> list[int]:
    """Places among the regions of those in split val."""
    ends = np.cumsum([slide.patches for slide in patches.info.slides])
    starts = {rows.start for rows in split_rows(patches.info, "val")}
    return [k for k, (end, slide) in enumerate(zip(ends, patches.info.slides, strict=True))
            if slide.patches and int(end) - slide.patches in starts]  # fmt: skip


def _examples(patches: PatchSet) -> list[str]:
    """Nuclei of each type, drawn at random."""
    rng = np.random.default_rng(0)
    shown: dict[int, list[Picture]] = {k: [] for k in range(len(patches.type_names))}
    for index in rng.permutation(len(patches)).tolist():
        incomplete = [k for k, own in shown.items() if len(own) < EXAMPLES]
        if not incomplete:
            break
        labels = patches.labels(index)
        if not np.isin(labels, incomplete).any():
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
    parts = ["<h3>Nuclei of each type</h3>"]
    for k, pictures in shown.items():
        if pictures:
            parts.append(_sheet(contact_sheet(pictures, EXAMPLES), patches.type_names[k]))
    return parts


def _sheet(image: Image.Image, caption: str) -> str:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88)
    return _picture(stream.getvalue(), "jpeg", caption)


_SECTIONS = {"read": _read, "qc": _qc, "type": _type, "nuclei": _nuclei, "align": _align, "write": _write}
