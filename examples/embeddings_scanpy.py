"""What kinds of cells are there? The embeddings as AnnData: neighbours, UMAP and Leiden clusters with scanpy.

python examples/embeddings_scanpy.py OUT/SLIDE --out clusters.h5ad        (needs scanpy, igraph and leidenalg)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import scanpy as sc

import celldetr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", nargs="?", help="what celldetr predict wrote for a slide; default: the sample slide's")
parser.add_argument("--resolution", type=float, default=0.5, help="of Leiden; higher finds more clusters")
parser.add_argument("--out", help="h5ad to write; default: none")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    run = args.run or celldetr.predict_slide(celldetr.sample_slide(), folder).directory
    cells = sc.read_h5ad(celldetr.export_cells(run, "anndata", Path(folder) / "cells.h5ad"))

sc.pp.scale(cells)  # embedding dimensions differ in spread
sc.pp.neighbors(cells, n_neighbors=15, use_rep="X")
sc.tl.umap(cells)  # -> obsm["X_umap"]
sc.tl.leiden(cells, resolution=args.resolution, flavor="igraph", n_iterations=2, directed=False)
print(pd.crosstab(cells.obs["leiden"], cells.obs["type"]))
if args.out:
    cells.write_h5ad(args.out)
