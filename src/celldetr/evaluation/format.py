"""A report, and the rotations of a cross-validation, as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from celldetr.evaluation.metrics import DetectionCounts
from celldetr.evaluation.report import Report, TissueRow
from celldetr.evaluation.rotations import Rotations, Spread
from celldetr.evaluation.threshold import ThresholdChoice


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


def show_threshold(choice: ThresholdChoice, own: float, counts: DetectionCounts) -> tuple[str, str]:
    """What was chosen, and what the threshold that a model comes with reaches on the same images."""

    def line(threshold: float, counts: DetectionCounts) -> str:
        values = [number(value) for value in (counts.f1, counts.precision, counts.recall)]
        return f"{threshold:.3f}: detection F1 {values[0]}, precision {values[1]}, recall {values[2]}"

    cells = f"{choice.counts.tp + choice.counts.fn:,} cells"
    return f"threshold {line(choice.threshold, choice.counts)} ({cells})", f"the model's own, {line(own, counts)}"


def show_rotations(rotated: Rotations) -> RenderableType:
    """Each number in each fold with mean and standard deviation; then, where there are tissues, F1 of each."""
    table = Table(title=f"{rotated.dataset}, {rotated.protocol}: each test fold")
    table.add_column("", no_wrap=True)
    for heading in (*(fold.split for fold in rotated.folds), "mean", "SD"):
        table.add_column(heading, justify="right")
    for name, values in rotated.numbers.items():
        table.add_row(name, *map(number, (*values.folds, values.mean, values.sd)))
    if not rotated.tissues:
        return table
    by_tissue = _tissue_table(
        "F1 by tissue: mean ± SD over the test folds that have it", ["detection", "mean of types", *rotated.type_names]
    )
    last = list(rotated.tissues)[-1]
    for name, numbers in rotated.tissues.items():
        by_tissue.add_row(name or "not told", *map(_with_sd, numbers.values()), end_section=name == last)
    by_tissue.add_row("mean of tissues", *map(_with_sd, rotated.mean_of_tissues.values()))
    return Group(table, by_tissue)


def _with_sd(values: Spread) -> str:
    return _short(values.mean) if values.sd is None else f"{_short(values.mean)} ±{_short(values.sd)}"


def number(value: float | None, digits: int = 3) -> str:
    """A metric as people read it; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(report: Report, name: str) -> str:
    bounds = report.intervals.get(name)
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else ""


def _scores(report: Report) -> Table:
    title = f"{report.protocol.name}: pairs within {report.protocol.radius_um:g} µm, threshold {report.threshold:.3f}"
    table = Table(title=title)
    table.add_column("", no_wrap=True)
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
    table = Table(title="Beside F1", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("average precision, centres within the radius", number(report.curve.average_precision))
    if report.box_ap:
        table.add_row("average precision, boxes at IoU .5", number(report.box_ap.detection))
        for name, ap in zip(report.type_names, report.box_ap.types, strict=True):
            table.add_row(f"    {name}", number(ap))
        table.add_row("    mean of types", number(report.box_ap.mean))
    boxes = "boxes derived from points" if report.derived_boxes else "annotated boxes"
    table.add_row(f"IoU of pairs with {boxes}, median", number(report.median_iou))
    table.add_row(f"IoU of pairs with {boxes}, mean", number(report.mean_iou))
    table.add_row("expected calibration error of scores", number(report.calibration.objectness.error))
    table.add_row("expected calibration error of types", number(report.calibration.types.error))
    return table


def _tissues(type_names: Sequence[str], rows: Sequence[TissueRow]) -> Table:
    table = _tissue_table("F1 by tissue", ["images", "cells", "detection", "mean of types", *type_names])
    for row in rows:
        f1 = [row.totals.detection.f1, row.totals.mean_f1, *(counts.f1 for counts in row.totals.types)]
        table.add_row(row.tissue or "not told", str(row.n_images), str(row.n_cells), *map(_short, f1))
    return table


def _tissue_table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title)
    table.add_column("tissue", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _short(value: float | None) -> str:
    """Without the zero, so that ten columns fit a terminal."""
    text = number(value)
    return text.removeprefix("0") if text.startswith("0.") else text


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
