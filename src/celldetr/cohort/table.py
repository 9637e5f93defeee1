"""``cohort.parquet``: a row a slide of a run, also of one that failed.

| column | unit | meaning |
|---|---|---|
| slide, path | | name of the folder of its results; the file |
| status, reason | | complete, partial (damaged in places) or failed; why |
| width_px, height_px | level-0 px | of the slide |
| mpp | um | per level-0 pixel |
| tissue_mm2, read_mm2 | mm2 | of tissue; owned by the tiles that were read |
| tiles, failed_tiles | | read; of which not decoded, or not all |
| cells, cells_per_mm2 | per mm2 of tissue | of all types |
| n_<type>, density_<type> | per mm2 of tissue | of each type |
| seconds, seconds_read, seconds_model | s | from begin to end; waiting for pixels, in the model: over all workers |
| warnings | | what is doubtful, a sentence each |
| started, ended | UTC | |

What is not known of a slide that failed is null, as is a density where there is no tissue.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from celldetr.cells.schema import RUN
from celldetr.cohort.request import Outcome
from celldetr.io.files import output_errors, read_json, replacing
from celldetr.io.safe_io import shown_path
from celldetr.report.cohort import COHORT_KEY
from celldetr.slide.provenance import now, package_version

COHORT = "cohort.parquet"


def cohort_table(outcomes: Sequence[Outcome], seconds: float) -> pa.Table:
    """The rows of all slides of a run that took so many ``seconds``, sorted by name."""
    runs = [(read_json(outcome.summary.directory / RUN) or {}) if outcome.summary else {} for outcome in outcomes]
    types: dict[str, None] = {}
    for outcome in outcomes:
        types |= dict.fromkeys(outcome.summary.counts if outcome.summary else ())
    rows = [_row(outcome, run, list(types)) for outcome, run in zip(outcomes, runs, strict=True)]
    rows.sort(key=lambda row: str(row["slide"]))
    about = {
        "version": package_version("celldetr"),
        "model": next((run["model"] for run in runs if "model" in run), None),
        "seconds": round(seconds, 1),
        "host": platform.node(),
        "ended": now(),
    }
    schema = _schema(list(types)).with_metadata({COHORT_KEY: json.dumps(about).encode()})
    return pa.Table.from_pylist(rows, schema=schema)


def write_cohort(out: Path, outcomes: Sequence[Outcome], seconds: float) -> Path:
    """Write ``cohort.parquet`` into ``out``, replacing an older one."""
    path = out / COHORT
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pq.write_table(cohort_table(outcomes, seconds), temporary, compression="zstd")
    return path


def _schema(types: Sequence[str]) -> pa.Schema:
    text, count, real = pa.string(), pa.int64(), pa.float64()
    kinds = {
        **dict.fromkeys(("slide", "path", "status", "reason"), text),
        **dict.fromkeys(("width_px", "height_px"), count),
        **dict.fromkeys(("mpp", "tissue_mm2", "read_mm2"), real),
        **dict.fromkeys(("tiles", "failed_tiles", "cells"), count),
        "cells_per_mm2": real,
        **{f"n_{name}": count for name in types},
        **{f"density_{name}": real for name in types},
        **dict.fromkeys(("seconds", "seconds_read", "seconds_model"), real),
        "warnings": pa.list_(text),
        **dict.fromkeys(("started", "ended"), text),
    }
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()])


def _row(outcome: Outcome, run: dict[str, Any], types: Sequence[str]) -> dict[str, Any]:
    slide, summary = outcome.slide, outcome.summary
    row: dict[str, Any] = {
        "slide": shown_path(Path(slide.name)),
        "path": shown_path(slide.path),
        "status": outcome.status,
    }
    if summary is None:
        return row | {"reason": outcome.reason}
    area, seconds = summary.tissue_mm2, run.get("seconds", {})
    counts = {name: summary.counts.get(name, 0) for name in types}
    first = summary.failed_tiles[0].reason if summary.failed_tiles else None
    return row | {
        "reason": first,
        "width_px": run.get("width"),
        "height_px": run.get("height"),
        "mpp": run.get("mpp"),
        "tissue_mm2": area,
        "read_mm2": run.get("read_mm2"),
        "tiles": run.get("tiles", {}).get("read"),
        "failed_tiles": len(summary.failed_tiles),
        "cells": summary.cells,
        "cells_per_mm2": summary.cells / area if area else None,
        **{f"n_{name}": count for name, count in counts.items()},
        **{f"density_{name}": count / area if area else None for name, count in counts.items()},
        "seconds": summary.seconds,
        "seconds_read": seconds.get("read"),
        "seconds_model": seconds.get("model"),
        "warnings": list(summary.warnings),
        "started": run.get("started"),
        "ended": run.get("ended"),
    }
