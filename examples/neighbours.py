"""Who is beside whom? Lymphocytes within 20 um of an epithelial cell, and how many each epithelial cell has.

python examples/neighbours.py OUT/SLIDE --of epithelial --near lymphocyte --um 20
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from scipy.spatial import KDTree

import celldetr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", nargs="?", help="what celldetr predict wrote for a slide; default: the sample slide's")
parser.add_argument("--of", default="epithelial", help="the cells that have neighbours")
parser.add_argument("--near", default="lymphocyte", help="the neighbours")
parser.add_argument("--um", type=float, default=20.0, help="largest distance of two centres, micrometres")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    run = args.run or celldetr.predict_slide(celldetr.sample_slide(), folder).directory
    cells = celldetr.read_cells(run, columns=["x_um", "y_um", "type"])

places = {name: cells.loc[cells["type"] == name, ["x_um", "y_um"]].to_numpy() for name in (args.of, args.near)}
found = KDTree(places[args.near]).query_ball_point(places[args.of], args.um)
each = np.array([len(indices) for indices in found])
beside = len(set().union(*found))
print(f"{beside} of {len(places[args.near])} {args.near} cells are within {args.um:g} um of an {args.of} cell")
if len(each):
    print(f"{each.mean():.2f} of them for each {args.of} cell, {(each > 0).mean():.0%} have at least one")
