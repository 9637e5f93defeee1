"""``report.html``: every step with its evidence, so that a person can decide whether to trust the set.

One file without scripts or outside resources. It is made from what the steps have left, and can be made again.
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
from celldetr.spatial.align import read_alignment
from celldetr.spatial.alignment_plots import overlay, pair_positions, residual_figure
from celldetr.spatial.evidence import nearest_distances
from celldetr.spatial.label import (
    ALIGNMENT_FILE,
    NUCLEI_FILE,
    PAIRS_FILE,
    QUALITY_FILE,
    TYPES_FILE,
    open_image,
    passing,
)
from celldetr.spatial.nuclei import read_nuclei
from celldetr.spatial.pair import read_pairs
from celldetr.spatial.patches import WriteOptions
from celldetr.spatial.quality import QualityOptions
from celldetr.spatial.quality_plots import quality_figure
from celldetr.spatial.record import STEPS, Record
from celldetr.spatial.section_io import read_kept
from celldetr.spatial.tables import read_table
from celldetr.spatial.type_plots import expression_figure, types_figure
from celldetr.spatial.type_step import EXPRESSION_FILE, read_expression

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
EXAMPLES = 12  # nuclei shown of each type
EXAMPLE_PX = 64  # side of a picture of a nucleus, px of the patches
DPI = 110
TITLES = {
    "read": "1. The section",
    "qc": "2. Cells that go on",
    "type": "3. Types from gene expression",
    "nuclei": "4. Nuclei of the H&amp;E image",
    "align": "5. Which cell is which nucleus",
    "write": "6. The training set",
}


def write_report(record: Record) -> Path:
    """Make the report of a set from the steps that are there; returns the file.

    Raises:
        InputError: no step was run yet, or a file of a step is damaged.
    """
    record.settings("read")
    done = [name for name in STEPS if name in record.steps]
    name = str(record.steps["read"].facts["name"])
    body = [f"<h1>{escape(name)}</h1>", _lead(record), *_warnings(record), _numbers(record), _timetable(record)]
    for step in done:
        body += [f"<h2>{TITLES[step]}</h2>", *_SECTIONS[step](record)]
    path = record.folder / REPORT
    with replacing(path) as temporary:
        temporary.write_text(document(f"{name}: labels from expression", body), encoding="utf-8")
    return path


def _lead(record: Record) -> str:
    missing = [name for name in STEPS if name not in record.steps]
    text = "Nuclei of an H&amp;E image, labelled by the gene expression of the cells they belong to."
    if missing:
        text += f" Not run yet: {', '.join(missing)}."
    return f'<p class="lead">{text}</p>'


def warnings(record: Record) -> list[str]:
    """What a person should look at before trusting the set, in words."""
    found = [f"step {name} stands on steps that were run again since: its part is out of date" for name in record.steps
             if record.stale(name)]  # fmt: skip
    facts = {name: step.facts for name, step in record.steps.items()}
    if "qc" in facts and facts["qc"]["passed"] < 0.7 * facts["qc"]["cells"]:
        found.append(f"only {facts['qc']['passed'] / facts['qc']['cells']:.0%} of the cells passed the quality control")
    if "type" in facts:
        found += facts["type"].get("warnings", [])
    if "align" in facts:
        align = facts["align"]
        found += align["warnings"]
        if not align["evidence"]["same"]:
            found.append("cells and nuclei meet no more often than by chance: the image may be of another section")
        rate = align["pairs"]["cells_paired"]
        if rate < 0.6:
            found.append(f"only {rate:.0%} of the cells have a nucleus")
    if "write" in facts:
        found += facts["write"]["made_with"].get("warnings", [])
    return found


def _warnings(record: Record) -> list[str]:
    found = warnings(record)
    return [f'<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in found)}</ul>'] if found else []


def _numbers(record: Record) -> str:
    facts = {name: step.facts for name, step in record.steps.items()}
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


def _timetable(record: Record) -> str:
    return table(
        ("step", "took"),
        [(TITLES[name].replace("&amp;", "&"), duration(step.seconds)) for name, step in record.steps.items()],
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


def _read(record: Record) -> list[str]:
    facts = record.steps["read"].facts
    return [_pairs_of(facts, without=("source",)), "<h3>Source</h3>", _pairs_of(facts["source"])]


def _qc(record: Record) -> list[str]:
    step = record.steps["qc"]
    figure = quality_figure(
        read_kept(record.files),
        read_table(record.files / QUALITY_FILE),
        QualityOptions.model_validate(step.settings["options"]),
    )
    rows = sorted(step.facts["reasons"].items(), key=lambda item: -item[1])
    return [
        figure_html(figure, "Counts, genes and areas with the limits, and where the cells are that stay behind."),
        table(("why a cell stays behind", "cells"), rows) if rows else '<p class="note">All cells passed.</p>',
        '<p class="note">A cell can have several reasons. Nuclei of cells that stay behind have no type.</p>',
    ]


def _type(record: Record) -> list[str]:
    step = record.steps["type"]
    types = read_table(record.files / TYPES_FILE)
    limits = _label_limits(record)
    parts = [
        figure_html(
            types_figure(passing(record), types, limits.min_probability, limits.min_margin),
            "Cells of each type, how sure they are, and where they lie.",
        )
    ]
    if (record.files / EXPRESSION_FILE).is_file():
        parts.append(
            figure_html(
                expression_figure(*read_expression(record.files / EXPRESSION_FILE)),
                "Genes that tell the reference's types apart, each scaled to its largest mean: the two should look"
                " alike. At the right the correlation of types over genes: the diagonal should be red, the rest not.",
            )
        )
    return [*parts, _pairs_of(step.facts, without=("warnings",))]


def _nuclei(record: Record) -> list[str]:
    return [_pairs_of(record.steps["nuclei"].facts)]


def _align(record: Record) -> list[str]:
    facts = record.steps["align"].facts
    section, nuclei = passing(record), read_nuclei(record.files / NUCLEI_FILE)
    pairs = read_pairs(record.files / PAIRS_FILE)
    found = read_alignment(record.files / ALIGNMENT_FILE)
    joined = pair_positions(pairs, section.cells.obs_names.to_numpy(dtype=object))
    with open_image(record) as reader:
        mpp = reader.mpp_x, reader.mpp_y
        picture = overlay(reader, section.points, nuclei, found.after, mpp, joined)
    distances, chance, _ = nearest_distances(section.points, nuclei.points, found.after, mpp)
    residuals = residual_figure(pairs, section.points, joined[0], found.after, mpp, chance, distances)
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


def _write(record: Record) -> list[str]:
    facts = record.steps["write"].facts
    patches = PatchSet(record.folder)
    held = {patches.info.slides[place].name for place in _held_out(patches)}
    rows = [
        (slide["name"], "val" if slide["name"] in held else "train", slide["patches"], slide["nuclei"])
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
        wanted = [k for k, own in shown.items() if len(own) < EXAMPLES]
        if not wanted:
            break
        labels = patches.labels(index)
        if not np.isin(labels, wanted).any():
            continue
        sample = patches[index]
        side = np.array(sample.image.shape[1::-1])
        for k in wanted:
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


def _label_limits(record: Record) -> WriteOptions:
    step = record.steps.get("write")
    return WriteOptions.model_validate(step.settings["options"]) if step else WriteOptions()


_SECTIONS = {"read": _read, "qc": _qc, "type": _type, "nuclei": _nuclei, "align": _align, "write": _write}
