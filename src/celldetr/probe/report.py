"""What a probe found: ``report.md``, ``report.json``, pictures, and a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.io.figures import save_figure
from celldetr.io.files import replacing, write_json
from celldetr.probe.classify import NEIGHBOURS, REPEATS
from celldetr.probe.retrieval import FAR
from celldetr.probe.row import DRAWS, SHARES
from celldetr.probe.summary import Number, RowNumbers
from celldetr.probe.truth import Truth

if TYPE_CHECKING:
    from rich.table import Table

MEASURED = ("numbers", "ms a cell", "kNN", "linear", "linear, 10 %", "linear, 1 %")
REPORT_FILES = ("report.md", "report.json", "macro_f1.png", "labels.png", "confusion.png", "neighbours.png")
NEIGHBOURHOOD = ("retrieval @1", f"@{FAR}", "leak")


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
    out: Path, numbers: list[RowNumbers], context: Context, vectors: Callable[[str], NDArray[np.float32] | None]
) -> None:
    """Write the report and its pictures.

    Args:
        out: a folder that exists.
        numbers: of the rows, the model's first.
        context: what they were measured on.
        vectors: name of a row -> its test vectors, for the contact sheet; None if they are gone.
    """
    from celldetr.probe.plots import bars_figure, confusion_figure, labels_figure
    from celldetr.probe.sheet import contact_sheet

    first = numbers[0].row
    write_json(out / "report.json", as_json(numbers, context))
    with replacing(out / "report.md") as temporary:
        temporary.write_text(as_markdown(numbers, context), encoding="utf-8")
    save_figure(bars_figure(numbers), out / "macro_f1.png")
    save_figure(labels_figure(numbers), out / "labels.png")
    save_figure(confusion_figure(first, context.type_names), out / "confusion.png")
    features = vectors(first.name)
    if features is not None and context.test.n_units > 1:
        sheet = contact_sheet(features, context.test, context.type_names)
        with replacing(out / "neighbours.png") as temporary:
            sheet.save(temporary, format="PNG")


def as_json(numbers: list[RowNumbers], context: Context) -> dict[str, Any]:
    """Every number of the report; undefined ones are null."""
    return context.settings() | {
        "device": context.device,
        "derived_boxes": context.derived_boxes,
        "learned": dict(context.learned),
        "rows": [_row_json(row, context.type_names) for row in numbers],
    }


def _row_json(numbers: RowNumbers, types: tuple[str, ...]) -> dict[str, Any]:
    row = numbers.row

    def shares(values: dict[float, Number]) -> dict[str, Any]:
        return {str(share): _plain(value) for share, value in values.items()}

    def by_type(values: tuple[Number, ...]) -> dict[str, Any]:
        return {name: _plain(value) for name, value in zip(types, values, strict=True)}

    return {
        "name": row.name,
        "title": row.title,
        "dim": row.dim,
        "ms_per_cell": round(row.ms_per_cell, 4),
        "knn": {"macro_f1": shares(numbers.knn), "f1": by_type(numbers.knn_types)},
        "linear": {
            "macro_f1": shares(numbers.linear),
            "f1": by_type(numbers.linear_types),
            "strength": {str(share): chosen for share, chosen in row.strengths.items()},
            "confusion": row.linear[1.0].sum((0, 1)).tolist(),
        },
        "retrieval": {"1": _plain(numbers.first), str(FAR): _plain(numbers.ten), "chance": _plain(numbers.chance)},
        "same_image": {str(FAR): _plain(numbers.leak), "chance": _plain(numbers.leak_chance)},
        "finetuned": {"macro_f1": shares(numbers.finetuned)},
        "first_row_minus_this": {
            "linear": shares(numbers.behind),
            "knn": shares(numbers.behind_knn),
            "finetuned": shares(numbers.behind_finetuned),
        },
    }


def _plain(number: Number) -> dict[str, Any]:
    def safe(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else round(value, 5)

    return {
        "value": safe(number.value),
        "low": safe(number.low),
        "high": safe(number.high),
        "each": [safe(value) for value in number.each],
    }


def short(number: Number, sign: str = "") -> str:
    """``.812 (.790–.833)``."""

    def digits(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:{sign}.3f}".replace("0.", ".", 1)

    if number.low is None or number.high is None:
        return digits(number.value)
    separator = " to " if sign else "–"
    return f"{digits(number.value)} ({digits(number.low)}{separator}{digits(number.high)})"


def _finetuned(numbers: list[RowNumbers]) -> list[float]:
    """The shares of types that something was fine-tuned with, the largest first."""
    return sorted({share for row in numbers for share in row.finetuned}, reverse=True)


def _headings(numbers: list[RowNumbers]) -> list[str]:
    return [*MEASURED, *(f"fine-tuned, {100 * share:g} %" for share in _finetuned(numbers)), *NEIGHBOURHOOD]


def _cells(numbers: RowNumbers, finetuned: Sequence[float]) -> list[str]:
    linear, tuned = numbers.linear, numbers.finetuned
    return [
        str(numbers.row.dim),
        f"{numbers.row.ms_per_cell:.3g}",
        short(numbers.knn[1.0]),
        *(short(linear[share]) for share in sorted(SHARES, reverse=True)),
        *(short(tuned[share]) if share in tuned else "–" for share in finetuned),
        short(numbers.first),
        short(numbers.ten),
        f"{numbers.leak.value:.3f}".replace("0.", ".", 1) if not math.isnan(numbers.leak.value) else "–",
    ]


def show_table(numbers: list[RowNumbers], context: Context) -> Table:
    """The main table, to be printed by a rich console."""
    from rich.table import Table

    table = Table(title=f"{context.dataset}, {context.train_split} to {context.test_split}: macro F1 at true boxes")
    table.add_column("", no_wrap=True)
    for heading in _headings(numbers):
        table.add_column(heading, justify="right")
    for each in numbers:
        table.add_row(each.row.name, *_cells(each, _finetuned(numbers)))
    return table


def as_markdown(numbers: list[RowNumbers], context: Context) -> str:
    """The report as text."""
    lines = [f"# Embeddings at true boxes: {context.dataset}", "", _about(numbers, context), ""]
    tuned = _finetuned(numbers)
    lines += _table(_headings(numbers), [(row.row.name, _cells(row, tuned)) for row in numbers])
    lines += ["", f"Retrieval by chance: {numbers[0].chance.value:.3f}; leak by chance: ", ""]
    lines[-2] += f"{numbers[0].leak_chance.value:.3f}."
    lines += [f"- `{row.row.name}`: {row.row.title}" for row in numbers]
    lines += [f"- `{name}` **{warning}**" for name, warning in context.warnings().items()]
    if len(numbers) > 1:
        kinds = {"linear": SHARES, "kNN": SHARES, "fine-tuned": tuned}
        headings = [f"{kind}, {100 * share:g} %" for kind, shares in kinds.items() for share in shares]
        told = []
        for n in numbers[1:]:
            differences = zip((n.behind, n.behind_knn, n.behind_finetuned), kinds.values(), strict=True)
            cells = [short(d[share], "+") if share in d else "–" for d, shares in differences for share in shares]
            told.append((n.row.name, cells))
        lines += ["", f"## {numbers[0].row.name} minus the others, macro F1", "", *_table(headings, told)]
    lines += ["", "## F1 of each type, linear probe, all labels", ""]
    lines += _table(context.type_names, [(n.row.name, [short(v) for v in n.linear_types]) for n in numbers])
    lines += ["", "## F1 of each type, kNN, all labels", ""]
    lines += _table(context.type_names, [(n.row.name, [short(v) for v in n.knn_types]) for n in numbers])
    pictures = {
        "macro_f1": "Macro F1 of all rows",
        "labels": "Macro F1 over the share of labels",
        "confusion": "Confusion matrix of the linear probe",
        "neighbours": "Cells and their nearest neighbours in other images",
    }
    if context.test.n_units < 2:
        del pictures["neighbours"]
    lines += ["", *(f"![{text}]({name}.png)" for name, text in pictures.items()), ""]
    return "\n".join(lines)


def _about(numbers: list[RowNumbers], context: Context) -> str:
    train, test = context.train, context.test
    counts = np.bincount(test.types, minlength=len(context.type_names))
    kinds = ", ".join(f"{name} {count}" for name, count in zip(context.type_names, counts, strict=True))
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
        f"{kinds}.{boxes} Vectors are frozen. kNN: {NEIGHBOURS} neighbours by cosine. Linear: logistic regression, its "
        f"strength chosen in cross-validation on training cells. {context.seeds} seeds; shares of labels below 100 % "
        f"are drawn {context.seeds * DRAWS} times. In brackets 95 % intervals, bootstrapped over patients or images "
        f"and seeds. {tuned}Retrieval: share of the nearest cells of other patients or images that has the cell's "
        f"type, mean over types. Leak: share of the {FAR} nearest cells of the same type that is from the same image. "
        f"ms a cell: processor time of one thread on {context.device}, measured here; finding the boxes is in none."
    )


def _table(headings: tuple[str, ...] | list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    lines = [f"| | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    return lines + [f"| `{name}` | {' | '.join(cells)} |" for name, cells in rows]
