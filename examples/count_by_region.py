"""Where are which cells? Counts and densities by type in squares of 100 um, as a table.

python examples/count_by_region.py OUT/SLIDE --out squares.csv
"""

from __future__ import annotations

import argparse
import tempfile

import celldetr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", nargs="?", help="what celldetr predict wrote for a slide; default: the sample slide's")
parser.add_argument("--side", type=float, default=100.0, help="of a square, micrometres")
parser.add_argument("--out", help="CSV to write; default: none")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    run = args.run or celldetr.predict_slide(celldetr.sample_slide(), folder).directory
    cells = celldetr.read_cells(run, columns=["x_um", "y_um", "type"])

cells["column"] = (cells["x_um"] // args.side).astype(int)
cells["row"] = (cells["y_um"] // args.side).astype(int)
counts = cells.groupby(["row", "column", "type"], observed=False).size().unstack("type", fill_value=0)
counts.columns = counts.columns.astype(str)  # pandas 2 cannot join categorical columns since Python 3.12
counts = counts[counts.sum(axis=1) > 0]  # squares with cells
per_mm2 = (counts / (args.side / 1000) ** 2).add_suffix("_per_mm2")
print(per_mm2.describe().loc[["mean", "50%", "max"]].round(0))
if args.out:
    counts.join(per_mm2).to_csv(args.out)
