"""What a run leaves to look at: ``log.jsonl`` (one JSON object a line), TensorBoard events, and ``curves.png``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from celldetr.io.figures import save_figure
from celldetr.io.files import replacing

LOG_FILE, CURVES_FILE, TENSORBOARD_FOLDER = "log.jsonl", "curves.png", "tensorboard"
LOG_EVERY = 10  # steps
WATCHED = "embedding/"  # begins the names of numbers that are no losses


class RunLog:
    """Appends rows of numbers to the JSONL file and to TensorBoard."""

    def __init__(self, folder: Path, start: int) -> None:
        """Open the log of a run that goes on at step ``start``; rows of later steps, from before a cut, are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG_FILE
        kept = [row for row in read_log(folder) if row["step"] < start]
        with replacing(self.path) as unfinished:
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.board = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=start)

    def write(self, kind: str, step: int, values: dict[str, float | None]) -> None:
        """Record numbers.

        Args:
            kind: ``train`` or ``validation``.
            step: counted from 0.
            values: by name; None and NaN are kept in the file as null and left out of TensorBoard.
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
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
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
    steps = [row["step"] for row in training]
    contrastive = "contrastive/nce" in training[-1]
    named = "contrastive/nce" if contrastive else "loss"  # what validation has, too, if it has a loss
    left.plot(steps, [row[named] for row in training], color="#333333", label="training")
    judged = [(row["step"], row["loss"]) for row in validation if row.get("loss") is not None]
    if judged:
        left.plot(*zip(*judged, strict=True), color="#d95f02", marker=".", label="validation (averaged weights)")
        left.legend(fontsize=7)
    left.set(title="Contrastive loss" if contrastive else "Training loss", xlabel="step", yscale="log")
    for name in [key for key in training[-1] if "/" in key and not key.startswith(WATCHED)]:
        pairs = [(row["step"], row[name]) for row in training if row.get(name) is not None]
        middle.plot(*zip(*pairs, strict=True), label=name, linewidth=0.9)
    middle.set(title="Its terms", xlabel="step", yscale="log")
    middle.legend(fontsize=5, ncol=2)
    shown = ("f1", "found", "slide_")
    for name in [key for key in (validation[-1] if validation else {}) if key.startswith(shown)]:
        pairs = [(row["step"], row[name]) for row in validation if row.get(name) is not None]
        if pairs:
            right.plot(*zip(*pairs, strict=True), marker=".", label=name)
    right.set(title="Validation (averaged weights)", xlabel="step", ylim=(0, 1))
    if validation:
        right.legend(fontsize=7)
    for axis in (left, middle, right):
        axis.grid(alpha=0.25)
    path = folder / CURVES_FILE
    save_figure(figure, path, dpi=120)
    return path
