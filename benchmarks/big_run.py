"""Is memory flat, and the rate constant, from the first tile of a very large slide to the last?

python benchmarks/big_slide.py --side 60000 -o runs/big.tif
python benchmarks/big_run.py runs/big.tif -o runs/big | tee benchmarks/results/big_run.txt

Runs the slide, exports it to GeoJSON and AnnData, each in a process of its own whose memory is watched, and draws cells
a second and resident memory against the area read (docs/images/big_run.png). An interrupted run goes on where it was;
of one that is finished only the exports are made again.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from celldetr.model.cpu_caches import limit_caches

limit_caches()  # as `celldetr predict` does, before PyTorch is loaded

from celldetr.api import load_model  # noqa: E402
from celldetr.cells.export import export_cells  # noqa: E402
from celldetr.slide.engine import SlideProgress, run_slide  # noqa: E402
from celldetr.slide.options import PredictOptions  # noqa: E402
from celldetr.slide.reader import open_slide  # noqa: E402

EVERY = 10.0  # seconds between two lines of the log


def memory(key: str) -> float:
    """A line of /proc/self/status in MB: VmRSS now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def record(path: Path) -> tuple[list[list[float]], object]:
    """Rows of the log so far, and a listener that appends to it."""
    rows: list[list[float]] = []
    if path.exists():
        with path.open(encoding="utf-8") as file:
            rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
    before = rows[-1][:2] if rows else [0.0, 0.0]
    start, last = (time.perf_counter(), time.process_time()), [-EVERY]

    def listener(progress: SlideProgress) -> None:
        wall = time.perf_counter() - start[0]
        if wall - last[0] < EVERY:
            return
        last[0] = wall
        cpu = time.process_time() - start[1]
        rows.append([before[0] + wall, before[1] + cpu, progress.mm2, progress.cells, memory("VmRSS"), memory("VmHWM")])
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["wall_s", "cpu_s", "mm2", "cells", "rss_mb", "peak_mb"])
            writer.writerows([[f"{value:.1f}" for value in row] for row in rows])

    return rows, listener


def draw(rows: list[list[float]], path: Path) -> None:
    """Cells a second of CPU and wall time, and memory, against the area read."""
    from matplotlib.figure import Figure

    wall, cpu, mm2, cells, rss, _ = np.array(rows).T
    step = max(1, len(rows) // 60)
    figure = Figure(figsize=(8, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for seconds, name in ((wall, "wall"), (cpu, "CPU")):
        spent = np.diff(seconds[::step])
        top.plot(mm2[::step][1:], np.diff(cells[::step]) / spent, label=f"per second of {name} time")
    top.set_ylabel("cells")
    top.set_ylim(0)
    top.legend()
    bottom.plot(mm2, rss)
    bottom.set(xlabel="mm² read", ylabel="resident memory, MB", ylim=(0, 2048))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run, export, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/big_run.png"))
    parser.add_argument("--export", help=argparse.SUPPRESS)  # of the processes that export
    arguments = parser.parse_args()
    if arguments.export:
        print(export_cells(arguments.out, arguments.export, None, overwrite=True))
        print(memory("VmHWM"))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = load_model(None, "cpu")
    rows, listener = record(arguments.out / "log.csv")
    with open_slide(arguments.slide) as slide:
        print(f"{slide.width} x {slide.height} px at {slide.mpp} um, {arguments.slide.stat().st_size / 1e6:.0f} MB")
        with run_slide(slide, model, arguments.out, PredictOptions(), listener, resume=True) as summary:  # type: ignore[arg-type]
            pass
    table = summary.directory / "cells.parquet"
    print(
        f"{summary.cells} cells, {summary.tissue_mm2:.1f} mm2 of tissue, {table.stat().st_size / 1e6:.0f} MB of table"
    )
    print(f"{summary.seconds:.0f} s, {summary.tissue_mm2 / summary.seconds * 3600:.0f} mm2 of tissue an hour")
    print(f"peak resident memory {max(row[-1] for row in rows):.0f} MB")
    quarters = np.array_split(np.array(rows), 4)
    shown = [f"{(q[-1, 3] - q[0, 3]) / (q[-1, 1] - q[0, 1]):.0f}" for q in quarters]
    print(f"cells a second of CPU time, by quarters of the run: {', '.join(shown)}")
    for kind in ("geojson", "h5ad"):
        start = time.perf_counter()
        command = [sys.executable, __file__, str(arguments.slide), "-o", str(summary.directory), "--export", kind]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        seconds, size = time.perf_counter() - start, Path(made[0]).stat().st_size / 1e6
        print(f"{kind}: {size:.0f} MB in {seconds:.0f} s, peak resident memory {float(made[1]):.0f} MB")
    draw(rows, arguments.plot)


if __name__ == "__main__":
    main()
