"""The scores of a split, and the rotations of a cross-validation, as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from celldetr.evaluation.metrics import DetectionCounts
from celldetr.evaluation.panoptic import MaskScores
from celldetr.evaluation.report import Report
from celldetr.evaluation.rotations import MASK_SCORES, Rotations, Spread
from celldetr.evaluation.threshold import SetChoice, ThresholdChoice
from celldetr.outlines import RADII

FOLD = 10  # characters of a heading
ACROSS = 5  # columns of such headings beside a name, in 80
UNNAMED = "not told"  # the tissue of images of which no tissue is known


def show_report(report: Report, others: Sequence[Report] = ()) -> RenderableType:
    """Tables of a report, to be printed by a rich console.

    Args:
        report: shown in full: detection, each type, each tissue where the set has several, boxes, calibration, and
            what they were measured on.
        others: the same split under other protocols, one line each.
    """
    parts: list[RenderableType] = [_scores(report), _facts(report), _beside(report)]
    if report.masks is not None:
        parts.append(_masks(report, report.masks))
    if len(report.tissues) > 1:
        parts += _by_tissue(report)
    if others:
        each = (report, *others)
        headings = ["", *(one.protocol.name for one in each)]
        table = number_table("F1 of the same predictions under each protocol", headings, fold=FOLD)
        table.add_row("detection", *(_short(one.totals.detection.f1) for one in each))
        table.add_section()
        for k, name in enumerate(report.type_names):
            table.add_row(name, *(_short(one.totals.types[k].f1) for one in each))
        table.add_section()
        table.add_row("mean of types", *(_short(one.totals.mean_f1) for one in each))
        parts.append(table)
    return Group(*parts)


def show_threshold(choice: ThresholdChoice, own: float, sets: Sequence[SetChoice]) -> list[str]:
    """What was chosen, and what it and the threshold that a model comes with reach on each set."""

    def line(threshold: float, counts: DetectionCounts) -> str:
        f1, precision, recall = (number(value) for value in (counts.f1, counts.precision, counts.recall))
        return f"{threshold:.3f}: detection F1 {f1}, precision {precision}, recall {recall}"

    cells = f"{choice.counts.tp + choice.counts.fn:,} cells"
    before = sum((each.own for each in sets), DetectionCounts())
    lines = [f"threshold {line(choice.threshold, choice.counts)} ({cells})", f"the model's own, {line(own, before)}"]
    width = max(len(each.name) for each in sets)
    lines.append(f"{'set':{width}}   cells  best at   F1  here  own  calibration error")
    for each in sets:
        error = number(each.calibration_error)
        f1 = (number(counts.f1) for counts in (each.best.counts, each.chosen, each.own))
        cells = f"{each.chosen.tp + each.chosen.fn:7,}"
        lines.append(f"{each.name:{width}} {cells}  {each.best.threshold:7.3f} {'  '.join(f1)}  {error}")
    return lines


def show_rotations(rotated: Rotations) -> RenderableType:
    """Each number in each fold with mean and standard deviation; then, where there are tissues, F1 of each."""
    splits = [fold.split for fold in rotated.folds]
    table = number_table(f"{rotated.dataset}, {rotated.protocol}: each test fold", ["", *splits, "mean", "SD"])
    for name, values in rotated.numbers.items():
        table.add_row(name, *map(number, (*values.folds, values.mean, values.sd)))
    if not rotated.tissues:
        return table
    every = [*((name or UNNAMED, numbers) for name, numbers in rotated.tissues.items())]
    parts, f1 = [table], [name for name in rotated.mean_of_tissues if name not in MASK_SCORES]
    for title, keys, headings in (
        ("F1", f1, ["detection", "mean of types", *rotated.type_names]),
        ("Masks", MASK_SCORES, ["bPQ", "mPQ"]),
    ):
        if keys[0] not in rotated.mean_of_tissues:
            continue
        by_tissue = number_table(
            f"{title} by tissue: mean ± SD over the test folds that have it", ["tissue", *headings]
        )
        for name, numbers in every:
            by_tissue.add_row(name, *(_with_sd(numbers[key]) for key in keys))
        by_tissue.add_section()
        by_tissue.add_row("mean of tissues", *(_with_sd(rotated.mean_of_tissues[key]) for key in keys))
        parts.append(by_tissue)
    return Group(*parts)


def number(value: float | None, digits: int = 3) -> str:
    """A metric as people read it; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def _short(value: float | None) -> str:
    """Without the zero, so that ten columns fit a terminal."""
    text = number(value)
    return text.removeprefix("0") if text.startswith("0.") else text


def _with_sd(values: Spread) -> str:
    return _short(values.mean) if values.sd is None else f"{_short(values.mean)} ±{_short(values.sd)}"


def number_table(title: str, headings: Iterable[str], *, fold: int | None = None) -> Table:
    """A table of numbers with names in its first column, to be printed by a rich console.

    ``fold``: without lines, with headings folded to so many characters, and names where it is narrow; numbers never.
    """
    first, *rest = headings
    if fold is None:
        table = Table(title=title)
        table.add_column(first, no_wrap=True)
    else:
        table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(first, overflow="fold")
    for heading in rest:
        shown = heading if fold is None else "\n".join(wrap(heading, fold))
        table.add_column(shown, justify="right", overflow="fold", no_wrap=fold is not None)
    return table


def _scores(report: Report) -> Table:
    title = f"{report.protocol.name}: pairs within {report.protocol.radius_um:g} µm, threshold {report.threshold:.3f}"
    headings = ("", "true", "found", "prec.", "rec.", "F1, 95 %", "by class, 95 %")
    table = number_table(title, headings, fold=FOLD)
    detection, totals = report.totals.detection, report.totals
    scores = map(_short, (detection.precision, detection.recall))
    f1 = _with_interval(report, detection.f1, "detection.f1")
    table.add_row("detection", str(report.n_cells), str(report.n_predicted), *scores, f1)
    table.add_section()
    predicted = [sum(column) for column in zip(*report.confusion, strict=True)]
    for k, name in enumerate(report.type_names):
        counts, true = totals.types[k], sum(report.confusion[k])
        row = [
            _short(counts.precision),
            _short(counts.recall),
            _with_interval(report, counts.f1, f"types.{name}.f1"),
            _with_interval(report, totals.classwise[k].f1, f"types.{name}.f1_classwise"),
        ]
        # Of a type that the labels do not have every cell is wrong by definition.
        table.add_row(name, str(true), str(predicted[k]), *(row if true else [_short(None)] * len(row)))
    table.add_section()
    mean = _with_interval(report, totals.mean_f1, "mean_type_f1")
    classwise = _with_interval(report, totals.mean_f1_classwise, "mean_type_f1_classwise")
    table.add_row("mean of types", *[""] * 4, mean, classwise)
    return table


def _masks(report: Report, masks: MaskScores) -> Table:
    """Means over images with a nucleus; then what the counts of all images come to."""
    kind = "outlines" if masks.drawn == "outlines" else "the ellipses in the boxes"
    table = number_table(f"Masks: {kind} against the labels' pixels", ["", "score", "95 %", f"{RADII} radii"])

    def row(name: str, value: float | None, key: str, ceiling: float | None) -> None:
        table.add_row(name, _short(value), _interval(report, key), _short(ceiling))

    totals, ceiling = masks.totals, masks.ceiling
    names = {"dq": "DQ", "sq": "SQ", "bpq": "PQ of all nuclei (bPQ)", "mpq": "PQ, mean of types (mPQ)"}
    for key, name in (names | {"aji": "AJI", "dice": "Dice"}).items():
        row(name, getattr(totals, key).value, f"masks.{key}", getattr(ceiling, key).value)
    for k, name in enumerate(report.type_names if len(report.type_names) > 1 else ()):
        row(f"    PQ, {name}", totals.type_pq[k].value, f"masks.types.{name}.pq", ceiling.type_pq[k].value)
    table.add_section()
    for name, counts, most in (
        ("DQ, counts of all images", totals.nuclei.dq, ceiling.nuclei.dq),
        ("SQ, counts of all images", totals.nuclei.sq, ceiling.nuclei.sq),
    ):
        row(name, counts, "", most)
    row("PQ, counts of all images", totals.nuclei.pq, "masks.pooled.pq", ceiling.nuclei.pq)
    row("IoU of pairs by centre, median", report.median_mask_iou, "", masks.ceiling_iou)
    return table


def _by_tissue(report: Report) -> list[Table]:
    """Detection and the mean of types, then each type, so many in a table as fit a terminal."""
    names = [row.tissue or UNNAMED for row in report.tissues]
    table = number_table("F1 by tissue", ["tissue", "images", "cells", "detection", "types"], fold=FOLD)
    for name, row in zip(names, report.tissues, strict=True):
        f1 = (row.totals.detection.f1, row.totals.mean_f1)
        table.add_row(name, str(row.n_images), str(row.n_cells), *map(_short, f1))
    tables = [table]
    for first in range(0, len(report.type_names), ACROSS):
        some = slice(first, first + ACROSS)
        table = number_table("F1 by tissue and type", ["tissue", *report.type_names[some]], fold=FOLD)
        for name, row in zip(names, report.tissues, strict=True):
            table.add_row(name, *(_short(counts.f1) for counts in row.totals.types[some]))
        tables.append(table)
    return tables


def _interval(report: Report, name: str) -> str:
    bounds = report.intervals.get(name)
    return f"{_short(bounds[0])}–{_short(bounds[1])}" if bounds else ""


def _with_interval(report: Report, value: float | None, name: str) -> str:
    return f"{_short(value)} {_interval(report, name)}".strip()


def _facts(report: Report) -> Text:
    facts = [
        f"{report.n_images} images, {report.n_cells} cells ({report.n_unknown} of unknown type)",
        f"median distance {number(report.median_distance_um, 2)} µm",
    ]
    if any(report.n_added):
        facts.append(f"{report.n_added[0]} predicted and {report.n_added[1]} true points added to empty images")
    if report.n_units > 1 and any(report.intervals.values()):
        facts.append(f"intervals: bootstrap over {report.n_units} {report.interval_unit}s")
    return Text("; ".join(facts), style="dim")


def _beside(report: Report) -> Table:
    """Average precision, boxes and calibration: what F1 at one threshold does not say."""
    rows = [("average precision, centres within the radius", report.curve.average_precision)]
    if report.box_ap:
        rows.append(("average precision, boxes at IoU .5", report.box_ap.detection))
        rows += [(f"    {name}", ap) for name, ap in zip(report.type_names, report.box_ap.types, strict=True)]
        rows.append(("    mean of types", report.box_ap.mean))
    boxes = "boxes derived from points" if report.derived_boxes else "annotated boxes"
    rows += [
        (f"IoU of pairs with {boxes}, median", report.median_iou),
        (f"IoU of pairs with {boxes}, mean", report.mean_iou),
        ("expected calibration error of scores", report.calibration.objectness.error),
        ("expected calibration error of types", report.calibration.types.error),
    ]
    table = number_table("Beside F1", ["", ""], fold=FOLD)
    table.show_header = False
    for name, value in rows:
        table.add_row(name, number(value))
    return table
