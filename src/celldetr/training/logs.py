"""Log of a training run: ``log.jsonl`` (one JSON object a line), TensorBoard events, and ``curves.png``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celldetr.io.figures import save_figure
from celldetr.io.files import replacing

LOG_FILE, CURVES_FILE, TENSORBOARD_FOLDER = "log.jsonl", "curves.png", "tensorboard"
LOG_EVERY = 10  # steps
DIAGNOSTICS = "embedding/"  # begins the names of numbers that are no losses
SCORES = ("f1", "found", "median_mask_iou", "slide_")  # begin the names of validation numbers that are drawn


class RunLog:
    """Appends rows of numbers to the JSONL file and to TensorBoard."""

    def __init__(self, folder: Path, start: int) -> None:
        """Open the log of a run that continues at step ``start``; rows of later steps are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG_FILE
        rows = [row for row in read_log(folder) if row["step"] < start]
        with replacing(self.path) as unfinished:
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.board = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=start)

    def write(self, kind: str, step: int, values: dict[str, float | None]) -> None:
        """Record numbers by name; None and NaN become null in the file and are left out of TensorBoard.

        Args:
            kind: ``train`` or ``validation``.
            step: counted from 0.
            values: the numbers.
        """
        finite = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **finite}) + "\n")
        for name, value in finite.items():
            if value is not None:
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush everything."""
        self.board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log; a last line that was cut short is ignored."""
    path = folder / LOG_FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def draw_curves(folder: Path) -> Path | None:
    """Draw losses and validation metrics over steps; returns the picture, or None while there is nothing to draw."""
    from matplotlib.figure import Figure

    rows = read_log(folder)
    training = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    if not training:
        return None
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    loss = "contrastive/nce" if "contrastive/nce" in training[-1] else "loss"  # which validation has, too, if any
    _plot(left, training, loss, label="training", color="#333333")
    _plot(left, validation, "loss", label="validation (averaged weights)", color="#d95f02", marker=".")
    left.set(title="Training loss" if loss == "loss" else "Contrastive loss", yscale="log")
    for name in [key for key in training[-1] if "/" in key and not key.startswith(DIAGNOSTICS)]:
        _plot(middle, training, name, linewidth=0.9)
    middle.set(title="Its terms", yscale="log")
    for name in [key for key in (validation[-1] if validation else {}) if key.startswith(SCORES)]:
        _plot(right, validation, name, marker=".")
    right.set(title="Validation (averaged weights)", ylim=(0, 1))
    for axis, size in ((left, 7), (middle, 5), (right, 7)):
        axis.set(xlabel="step")
        axis.grid(alpha=0.25)
        if axis.lines:
            axis.legend(fontsize=size, ncol=2 if axis is middle else 1)
    path = folder / CURVES_FILE
    save_figure(figure, path, dpi=120)
    return path


def _plot(axis: Any, rows: Sequence[dict[str, Any]], name: str, **style: Any) -> None:
    """Plot a number over steps, where rows have it."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), **({"label": name} | style))
