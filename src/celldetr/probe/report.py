"""The results of a probe: ``report.md``, ``report.json``, pictures, and a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.io.figures import save_figure
from celldetr.io.files import replacing, write_json
from celldetr.probe.classify import NEIGHBOURS, REPEATS
from celldetr.probe.plots import bars_figure, confusion_figure, labels_figure
from celldetr.probe.retrieval import FAR
from celldetr.probe.row import DRAWS, FINETUNED, SHARES
from celldetr.probe.sheet import contact_sheet
from celldetr.probe.summary import Number, RowNumbers
from celldetr.probe.truth import Truth

if TYPE_CHECKING:
    from rich.table import Table

REPORT_FILES = ("report.md", "report.json", "macro_f1.png", "labels.png", "confusion.png", "neighbours.png")
PICTURES = {
    "macro_f1": "Macro F1 of all rows",
    "labels": "Macro F1 over the share of labels",
    "confusion": "Confusion matrix of the linear probe",
    "neighbours": "Cells and their nearest neighbours in other images",
}
TITLES = {"linear": "linear", "knn": "kNN", FINETUNED: "fine-tuned"}


@dataclass(frozen=True)
class Context:
    """What rows were measured on.

    Attributes:
        dataset, train_split, test_split: as asked for.
        type_names: of the data set.
        train, test: the cells.
        seeds: number of them.
        device: where networks ran.
        derived_boxes: whether "true" boxes were made from points.
        learned: row -> images and patients of ``test`` that its model was trained on, in words; "" where none is known.
    """

    dataset: str
    train_split: str
    test_split: str
    type_names: tuple[str, ...]
    train: Truth
    test: Truth
    seeds: int
    device: str
    derived_boxes: bool
    learned: Mapping[str, str] = field(default_factory=dict)

    def warnings(self) -> dict[str, str]:
        """Of each row whose model has learned from what is scored, a sentence that goes on after its name."""
        return {
            name: f"was trained on {what}: its numbers are memory, as far as these go"
            for name, what in self.learned.items()
            if what
        }

    def settings(self) -> dict[str, Any]:
        """What must be the same for rows to be comparable."""
        return {
            "dataset": self.dataset,
            "train_split": self.train_split,
            "test_split": self.test_split,
            "types": list(self.type_names),
            "seeds": self.seeds,
            "cross_validations": REPEATS,
            "train_images": len(self.train.samples),
            "test_images": len(self.test.samples),
            "train_cells": len(self.train.types),
            "test_cells": len(self.test.types),
            "train_sha256": self.train.digest(),
            "test_sha256": self.test.digest(),
        }


def write_report(
    out: Path, numbers: Sequence[RowNumbers], context: Context, vectors: NDArray[np.float32] | None
) -> None:
    """Write the report and its pictures.

    Args:
        out: a folder that exists.
        numbers: of the rows, the model's first.
        context: what they were measured on.
        vectors: test vectors of the first row, for the contact sheet; None if they are gone.
    """
    write_json(out / "report.json", as_json(numbers, context))
    with replacing(out / "report.md") as temporary:
        temporary.write_text(as_markdown(numbers, context), encoding="utf-8")
    save_figure(bars_figure(numbers), out / "macro_f1.png")
    save_figure(labels_figure(numbers), out / "labels.png")
    save_figure(confusion_figure(numbers[0].row, context.type_names), out / "confusion.png")
    if vectors is not None and context.test.n_units > 1:
        with replacing(out / "neighbours.png") as temporary:
            contact_sheet(vectors, context.test, context.type_names).save(temporary, format="PNG")


def as_json(numbers: Sequence[RowNumbers], context: Context) -> dict[str, Any]:
    """Every number of the report; undefined ones are null."""
    return context.settings() | {
        "device": context.device,
        "derived_boxes": context.derived_boxes,
        "learned": dict(context.learned),
        "rows": [_row_json(row, context.type_names) for row in numbers],
    }


def _row_json(numbers: RowNumbers, types: Sequence[str]) -> dict[str, Any]:
    row = numbers.row
    scores = {}
    for kind in ("knn", "linear"):
        by_type = {name: _plain(number) for name, number in zip(types, numbers.types[kind], strict=True)}
        accuracy = _plain(numbers.accuracy[kind])
        scores[kind] = {"macro_f1": _by_share(numbers.macro_f1[kind]), "accuracy": accuracy, "f1": by_type}
    strengths = {str(share): chosen for share, chosen in row.strengths.items()}
    confusion = row.counts["linear"][1.0].sum((0, 1)).tolist()
    return {
        "name": row.name,
        "title": row.title,
        "dim": row.dim,
        "ms_per_cell": round(row.ms_per_cell, 4),
        "knn": scores["knn"],
        "linear": scores["linear"] | {"strength": strengths, "confusion": confusion},
        "retrieval": {"1": _plain(numbers.first), str(FAR): _plain(numbers.ten), "chance": _plain(numbers.chance)},
        "same_image": {str(FAR): _plain(numbers.leak), "chance": _plain(numbers.leak_chance)},
        "finetuned": {"macro_f1": _by_share(numbers.macro_f1.get(FINETUNED, {}))},
        "first_row_minus_this": {kind: _by_share(numbers.behind.get(kind, {})) for kind in TITLES},
    }


def _by_share(values: Mapping[float, Number]) -> dict[str, Any]:
    return {str(share): _plain(value) for share, value in values.items()}


def _plain(number: Number) -> dict[str, Any]:
    def safe(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else round(value, 5)

    each = [safe(value) for value in number.each]
    return {"value": safe(number.value), "low": safe(number.low), "high": safe(number.high), "each": each}


def _digits(value: float, sign: str = "") -> str:
    """``.812``."""
    return "–" if math.isnan(value) else f"{value:{sign}.3f}".replace("0.", ".", 1)


def _short(number: Number | None, sign: str = "") -> str:
    """``.812 (.790–.833)``; a dash where there is none."""
    if number is None:
        return "–"
    text = _digits(number.value, sign)
    if number.low is None or number.high is None:
        return text
    return f"{text} ({_digits(number.low, sign)}{' to ' if sign else '–'}{_digits(number.high, sign)})"


def _columns(numbers: Sequence[RowNumbers]) -> dict[str, list[str]]:
    """The main table: heading -> cell of each row."""
    columns = {
        "numbers": [str(each.row.dim) for each in numbers],
        "ms a cell": [f"{each.row.ms_per_cell:.3g}" for each in numbers],
        "kNN": [_short(each.macro_f1["knn"][1.0]) for each in numbers],
        "linear": [_short(each.macro_f1["linear"][1.0]) for each in numbers],
    }
    for share in sorted(SHARES, reverse=True)[1:]:
        columns[f"linear, {100 * share:g} %"] = [_short(each.macro_f1["linear"][share]) for each in numbers]
    for share in _finetuned(numbers):
        tuned = [each.macro_f1.get(FINETUNED, {}).get(share) for each in numbers]
        columns[f"fine-tuned, {100 * share:g} %"] = [_short(number) for number in tuned]
    for kind in ("knn", "linear"):
        columns[f"accuracy, {TITLES[kind]}"] = [_short(each.accuracy[kind]) for each in numbers]
    columns["retrieval @1"] = [_short(each.first) for each in numbers]
    columns[f"@{FAR}"] = [_short(each.ten) for each in numbers]
    columns["leak"] = [_digits(each.leak.value) for each in numbers]
    return columns


def _differences(numbers: Sequence[RowNumbers]) -> dict[str, list[str]]:
    """The first row minus the others: heading -> cell of each of these."""
    columns = {}
    for kind, title in TITLES.items():
        for share in _finetuned(numbers) if kind == FINETUNED else SHARES:
            differences = [each.behind.get(kind, {}).get(share) for each in numbers[1:]]
            columns[f"{title}, {100 * share:g} %"] = [_short(number, "+") for number in differences]
    return columns


def _finetuned(numbers: Sequence[RowNumbers]) -> list[float]:
    """The shares of types that something was fine-tuned with, the largest first."""
    return sorted({share for each in numbers for share in each.macro_f1.get(FINETUNED, {})}, reverse=True)


def show_table(numbers: Sequence[RowNumbers], context: Context) -> Table:
    """The main table, to be printed by a rich console."""
    from celldetr.evaluation.format import number_table

    columns = _columns(numbers)
    title = f"{context.dataset}, {context.train_split} to {context.test_split}: macro F1 at true boxes"
    table = number_table(title, ["", *columns])
    for each, *cells in zip(numbers, *columns.values(), strict=True):
        table.add_row(each.row.name, *cells)
    return table


def as_markdown(numbers: Sequence[RowNumbers], context: Context) -> str:
    """The report as text."""
    first, names = numbers[0], [each.row.name for each in numbers]
    lines = [f"# Embeddings at true boxes: {context.dataset}", "", _about(numbers, context), ""]
    lines += _table(names, _columns(numbers))
    lines += ["", f"Retrieval by chance: {first.chance.value:.3f}; leak by chance: {first.leak_chance.value:.3f}.", ""]
    lines += [f"- `{each.row.name}`: {each.row.title}" for each in numbers]
    lines += [f"- `{name}` **{warning}**" for name, warning in context.warnings().items()]
    if len(numbers) > 1:
        lines += ["", f"## {names[0]} minus the others, macro F1", "", *_table(names[1:], _differences(numbers))]
    for kind, title in (("linear", "linear probe"), ("knn", "kNN")):
        by_type = {}
        for k, name in enumerate(context.type_names):
            by_type[name] = [_short(each.types[kind][k]) for each in numbers]
        lines += ["", f"## F1 of each type, {title}, all labels", "", *_table(names, by_type)]
    lines.append("")
    for name, text in PICTURES.items():
        if name != "neighbours" or context.test.n_units > 1:
            lines.append(f"![{text}]({name}.png)")
    return "\n".join([*lines, ""])


def _table(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[str]:
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, *cells in zip(names, *columns.values(), strict=True):
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def _about(numbers: Sequence[RowNumbers], context: Context) -> str:
    train, test = context.train, context.test
    counts = np.bincount(test.types, minlength=len(context.type_names))
    types = ", ".join(f"{name} {count}" for name, count in zip(context.type_names, counts, strict=True))
    boxes = " Boxes were derived from annotated points." if context.derived_boxes else ""
    tuned = ""
    if _finetuned(numbers):
        tuned = (
            "Fine-tuned: all weights of a network learned on, with a share of the types and all boxes, once a seed; "
            "types of true boxes are those of its own head. "
        )
    return (
        f"{len(train.types)} cells of {len(train.samples)} images (`{context.train_split}`) teach, {len(test.types)} "
        f"of {len(test.samples)} images and {test.n_units} patients or images (`{context.test_split}`) are scored: "
        f"{types}.{boxes} Vectors are frozen. kNN: {NEIGHBOURS} neighbours by cosine. Linear: logistic regression, its "
        f"strength chosen in cross-validation on training cells. {context.seeds} seeds; shares of labels below 100 % "
        f"are drawn {context.seeds * DRAWS} times. In brackets 95 % intervals, for other seeds and for other "
        f"patients or images. {tuned}Retrieval: share of the nearest cells of other patients or images that has the "
        f"cell's type, mean over types. Leak: share of the {FAR} nearest cells of the same type that is from the same "
        f"image. ms a cell: processor time of one thread on {context.device}, measured here; finding the boxes is in "
        f"none."
    )
