"""A report, and the rotations of a cross-validation, as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from celldetr.evaluation.report import Report, TissueRow
from celldetr.evaluation.rotations import Rotations, Spread


def show_report(report: Report, others: Sequence[Report] = ()) -> RenderableType:
    """Tables of a report, to be printed by a rich console.

    Args:
        report: shown in full: detection, each type, each tissue where the set has several, boxes, calibration, and
            what they were measured on.
        others: the same split under other protocols, one line each.
    """
    parts: list[RenderableType] = [_scores(report), _facts(report), _beside(report)]
    if len(report.tissues) > 1:
        parts.append(_tissues(report.type_names, report.tissues))
    if others:
        parts.append(_protocols([report, *others]))
    return Group(*parts)


def show_rotations(rotated: Rotations) -> RenderableType:
    """Each number in each fold with mean and standard deviation; then, where there are tissues, F1 of each."""
    table = Table(title=f"{rotated.dataset}, {rotated.protocol}: each test fold")
    table.add_column("")
    for heading in (*(fold.split for fold in rotated.folds), "mean", "SD"):
        table.add_column(heading, justify="right")
    for name, values in rotated.numbers.items():
        table.add_row(name, *map(number, (*values.folds, values.mean, values.sd)))
    if not rotated.tissues:
        return table
    by_tissue = Table(title="F1 by tissue: mean ± SD over the test folds that have it")
    by_tissue.add_column("tissue")
    for heading in ("detection", "mean of types", *rotated.type_names):
        by_tissue.add_column(heading, justify="right")
    last = list(rotated.tissues)[-1]
    for name, numbers in rotated.tissues.items():
        by_tissue.add_row(name or "not told", *map(_with_sd, numbers.values()), end_section=name == last)
    by_tissue.add_row("mean of tissues", *map(_with_sd, rotated.mean_of_tissues.values()))
    return Group(table, by_tissue)


def _with_sd(values: Spread) -> str:
    return number(values.mean) if values.sd is None else f"{number(values.mean)} ± {number(values.sd)}"


def number(value: float | None, digits: int = 3) -> str:
    """A metric as people read it; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(report: Report, name: str) -> str:
    bounds = report.intervals.get(name)
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else ""


def _scores(report: Report) -> Table:
    title = f"{report.protocol.name}: pairs within {report.protocol.radius_um:g} µm, threshold {report.threshold:.3f}"
    table = Table(title=title)
    table.add_column("")
    for heading in ("true", "predicted", "precision", "recall", "F1", "95 %", "F1 class by class", "95 % "):
        table.add_column(heading, justify="right")
    detection = report.totals.detection
    table.add_row(
        "detection",
        str(report.n_cells),
        str(report.n_predicted),
        number(detection.precision),
        number(detection.recall),
        number(detection.f1),
        _interval(report, "detection.f1"),
        end_section=True,
    )
    columns = zip(*report.confusion, strict=True)
    predicted = [sum(column) for column in columns]
    for k, name in enumerate(report.type_names):
        counts, alone = report.totals.types[k], report.totals.classwise[k]
        table.add_row(
            name,
            str(sum(report.confusion[k])),
            str(predicted[k]),
            number(counts.precision),
            number(counts.recall),
            number(counts.f1),
            _interval(report, f"types.{name}.f1"),
            number(alone.f1),
            _interval(report, f"types.{name}.f1_classwise"),
            end_section=k == len(report.type_names) - 1,
        )
    table.add_row(
        "mean of types",
        *[""] * 4,
        number(report.totals.mean_f1),
        _interval(report, "mean_type_f1"),
        number(report.totals.mean_f1_classwise),
        _interval(report, "mean_type_f1_classwise"),
    )
    return table


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
    table = Table(title="Beside F1")
    table.add_column("")
    for heading in ("detection", "mean of types", *report.type_names):
        table.add_column(heading, justify="right")
    blank = [""] * len(report.type_names)
    table.add_row("average precision, centres within the radius", number(report.curve.average_precision), "", *blank)
    if report.box_ap:
        ap = report.box_ap
        table.add_row("average precision, boxes at IoU .5", *map(number, (ap.detection, ap.mean, *ap.types)))
    with_what = "boxes derived from points" if report.derived_boxes else "annotated boxes"
    iou = f"{number(report.median_iou)} / {number(report.mean_iou)}"
    table.add_row(f"IoU of pairs with {with_what}, median / mean", iou, "", *blank)
    errors = report.calibration.objectness.error, report.calibration.types.error
    table.add_row("expected calibration error of scores / of types", *map(number, errors), *blank)
    return table


def _tissues(type_names: Sequence[str], rows: Sequence[TissueRow]) -> Table:
    table = Table(title="F1 by tissue")
    table.add_column("tissue")
    for heading in ("images", "cells", "detection", "mean of types", *type_names):
        table.add_column(heading, justify="right")
    for row in rows:
        f1 = [row.totals.detection.f1, row.totals.mean_f1, *(counts.f1 for counts in row.totals.types)]
        table.add_row(row.tissue or "not told", str(row.n_images), str(row.n_cells), *map(number, f1))
    return table


def _protocols(reports: Sequence[Report]) -> Table:
    table = Table(title="The same predictions under each protocol")
    table.add_column("protocol")
    for heading in ("detection F1", "mean type F1", *reports[0].type_names):
        table.add_column(heading, justify="right")
    for report in reports:
        f1 = [counts.f1 for counts in report.totals.types]
        values = [report.detection_f1, report.mean_type_f1, *f1]
        table.add_row(report.protocol.name, *map(number, values))
    return table
