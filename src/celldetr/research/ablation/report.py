"""Report of a study: ``report.md`` with a table for each number, ``numbers.json``, and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.errors import InputError
from celldetr.io.figures import save_figure
from celldetr.io.files import output_errors, replacing, write_json
from celldetr.research.ablation.compare import Difference, compare, holm
from celldetr.research.ablation.study import Study
from celldetr.research.ablation.trial import Result, metrics_of, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROTOCOL = "standard"


def write_report(study: Study, out: Path, finished: Path | None = None, *, resamples: int = 2000) -> Path:
    """Compare the trials that are finished and write ``report.md``, ``numbers.json``, ``variants.png``, ``time.png``.

    Args:
        study: whose trials.
        out: folder given to the trials.
        finished: another folder with results, see ``find_result``.
        resamples: of the bootstrap.

    Returns:
        the report.

    Raises:
        InputError: no trial is finished.
    """
    results = read_results(out, study, finished)
    folder = out / study.name
    if not results:
        raise InputError(f"{folder}: no finished trial of study {study.name!r}; run it first")
    types = min((result.types for result in results), key=len)  # none, if a variant was trained without
    metrics = metrics_of(types, study.test.types)
    tables = {
        name: compare(results, study.baseline, metric, PROTOCOL, resamples=resamples)
        for name, metric in metrics.items()
    }
    text = [f"# {study.title}", "", _about(study, results, types), ""]
    for name, rows in tables.items():
        text += [f"## {name}", "", *_table(study, rows), ""]
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
    write_json(folder / "numbers.json", {name: _plain(rows) for name, rows in tables.items()})
    save_figure(draw_variants(study, tables), folder / "variants.png")
    if any(len(result.curve) > 1 for result in results):
        save_figure(draw_time(study, results), folder / "time.png")
    return folder / "report.md"


def _about(study: Study, results: Sequence[Result], types: Sequence[str]) -> str:
    trials = len(study.variants) * len(study.seeds)
    which = f"; mean type F1 of {', '.join(study.test.types) or 'all types'}" if types else ""
    return (
        f"{len(results)} of {trials} trials, scored on {study.test.card}, split {study.test.split}"
        f" ({len(results[0].names)} images), protocol {PROTOCOL}{which}. Mean and standard deviation over seeds."
        f" Differences are to *{study.variants[study.baseline].title}*, on the same images and seeds; 95 %"
        " intervals for other seeds (Student's t) and other images (bootstrap); p by exact sign flips over seeds,"
        " corrected for the number of rows (Holm), where there are seeds enough for one below .05. With one seed in"
        " common the interval is for other images only."
    )


def _table(study: Study, rows: dict[str, Difference]) -> list[str]:
    corrected = holm({name: row.p for name, row in rows.items() if row.p is not None})
    lines = ["| | seeds | mean | sd | difference | seeds of it | 95 % | p |", "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        interval = "" if row.interval is None else f"{row.interval[0]:+.3f} to {row.interval[1]:+.3f}"
        compared = [_shown(row.difference, "+.3f"), str(row.common or ""), interval, _shown(corrected.get(name), ".3f")]
        own = [str(len(row.values)), _shown(row.mean, ".3f"), _shown(row.spread, ".3f")]
        cells = [study.variants[name].title, *own, *compared]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _shown(number: float | None, form: str) -> str:
    """Nothing where there is no number."""
    return "" if number is None or not math.isfinite(number) else format(number, form)


def _plain(rows: dict[str, Difference]) -> dict[str, dict[str, Any]]:
    """Rows for JSON, which has no NaN."""
    return {name: {key: _finite(each) for key, each in vars(row).items()} for name, row in rows.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_variants(study: Study, tables: dict[str, dict[str, Difference]]) -> Figure:
    """A panel for each number: seeds as dots, their mean as a line, variants from top to bottom."""
    from matplotlib.figure import Figure

    names = list(next(iter(tables.values())))
    figure = Figure(figsize=(4 * len(tables), 1.2 + 0.35 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (metric, rows) in zip(panels, tables.items(), strict=True):
        for place, name in enumerate(names):
            row = rows[name]
            axes.plot(row.values, [place] * len(row.values), "o", color="#2166ac", alpha=0.6)
            axes.plot([row.mean] * 2, [place - 0.3, place + 0.3], color="#333333")
        axes.set_xlabel(metric)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), [study.variants[name].title for name in names])
    panels[0].invert_yaxis()
    return figure


def draw_time(study: Study, results: Sequence[Result]) -> Figure:
    """Detection F1 on validation against seconds of training; one line a trial, one colour a variant."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    palette = matplotlib.colormaps["tab20"]
    colours = {name: palette(i % palette.N) for i, name in enumerate(study.variants)}
    for i, result in enumerate(results):
        is_first = all(other.variant != result.variant for other in results[:i])
        label = study.variants[result.variant].title if is_first else None
        minutes, f1 = [point[0] / 60 for point in result.curve], [point[1] for point in result.curve]
        axes.plot(minutes, np.array(f1, float), color=colours[result.variant], label=label, alpha=0.8)
    axes.set(xlabel="minutes of training", ylabel="detection F1 on validation")
    axes.legend(frameon=False, fontsize=8)
    return figure
