"""What ``celldetr index``, ``similar``, ``cluster``, ``export``, teaching and ``retype`` cost: seconds, peak memory.

    python benchmarks/million_cells.py --cells 1000000 -o benchmarks/results/million_cells.txt
    python benchmarks/million_cells.py --slides 1000 --steps index query        # of many small tables
    python benchmarks/million_cells.py --steps teach retype -o benchmarks/results/million_cells_taught.txt

The table has a real one's columns and the synthetic embeddings of ``neighbour_index.py``; each step is a process of its
own. Queries are asked in one process through an open index: the first opens the file, the others do not. Teaching: 100
labels of each type, learned and cross-validated, all cells typed, 24 proposed, the last three once more after a label.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.export import FORMATS, export_cells
from celldetr.cells.rows import box_points, polygons
from celldetr.cells.schema import cell_schema
from celldetr.io.files import write_json
from celldetr.search.nearest import Best
from neighbour_index import embeddings, peak_mb

TYPES = ("lymphocyte", "epithelial", "stromal")
SIDE = 60_000  # px of the slide
BLOCK = 32_768


def write_tables(folder: Path, count: int, slides: int) -> None:
    """``count`` cells of ``slides`` slides, in turn; of one, ``folder`` is that slide's."""
    vectors = embeddings(count, 1)
    for i in range(slides):
        write_table(folder / f"slide{i:04d}" if slides > 1 else folder, vectors[i::slides])


def write_table(folder: Path, vectors: NDArray[np.float16]) -> None:
    """Cells with these (N, 128) embeddings, scattered over a slide."""
    folder.mkdir(parents=True)
    count, rng = len(vectors), np.random.default_rng(0)
    schema = cell_schema(TYPES, vectors.shape[1])
    with pq.ParquetWriter(folder / "cells.parquet", schema, compression="zstd") as writer:
        for start in range(0, count, BLOCK):
            n = min(BLOCK, count - start)
            xy = rng.uniform(20, SIDE - 20, (n, 2))
            p = rng.dirichlet(np.full(3, 0.3), n).astype(np.float32)
            size = np.full(n, 14, np.float32)
            columns = {
                "cell_id": np.arange(start, start + n),
                "x_px": xy[:, 0],
                "y_px": xy[:, 1],
                "w_px": size,
                "h_px": size,
                "x_um": xy[:, 0] * 0.5,
                "y_um": xy[:, 1] * 0.5,
                "score": np.full(n, 0.9, np.float32),
                "type": pa.DictionaryArray.from_arrays(pa.array(p.argmax(1).astype(np.int32)), pa.array(TYPES)),
                "type_score": p.max(1),
                **{f"p_{name}": p[:, i] for i, name in enumerate(TYPES)},
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors[start : start + n].reshape(-1)), 128),
                "geometry": polygons(box_points(np.concatenate([xy - 7, xy + 7], 1))),
            }
            columns |= {name: pa.nulls(n, schema.field(name).type) for name in schema.names if name not in columns}
            writer.write_table(pa.table(columns, schema=schema))
    write_json(
        folder / "run.json", {"status": "complete", "slide": "big.svs", "mpp": 0.5, "width": SIDE, "height": SIDE}
    )


def cells_of(best: Best, query: int) -> set[tuple[int, int]]:
    """Slide and row of what was found for a query."""
    return set(zip(best.slide[query].tolist(), best.row[query].tolist(), strict=True))


def step(name: str, folder: Path, sample: int) -> dict[str, object]:
    """One step in this process."""
    start = time.perf_counter()
    if name == "index":
        from celldetr.search.index import build_index

        build_index(folder, overwrite=True)
        told = {"mb": sum(path.stat().st_size for path in (folder / "neighbours").iterdir()) / 1e6}
    elif name == "query":
        from celldetr.search.collection import find_cells, gather, sample_rows
        from celldetr.search.index import NeighbourIndex
        from celldetr.search.nearest import Query, search_all

        cells = find_cells([folder])
        tables = time.perf_counter() - start
        queries = [Query("", vector) for vector in gather(cells, sample_rows(cells, 100, 5))]
        start = time.perf_counter()
        index = NeighbourIndex(folder / "neighbours", cells)
        index.search(queries[:1], 20)
        first, times, found = time.perf_counter() - start, [], []
        for query in queries:
            begun = time.perf_counter()
            found.append(cells_of(index.search([query], 20), 0))
            times.append(1e3 * (time.perf_counter() - begun))
        opened = peak_mb()
        begun = time.perf_counter()
        right = search_all(cells, queries, 20)
        exact = time.perf_counter() - begun
        hits = sum(len(one & cells_of(right, i)) for i, one in enumerate(found))
        told = {
            "tables_ms": 1e3 * tables,
            "first_ms": 1e3 * first,
            "median_ms": float(np.median(times)),
            "p95_ms": float(np.quantile(times, 0.95)),
            "recall_20": hits / right.row.size,
            "peak_mb_of_index": opened,
            "exact_s_100_queries": exact,
        }
    elif name == "teach":
        told = teach(folder)
    elif name == "retype":
        from celldetr.teach.retype import retype

        told = {"typed": sum(retype(folder, folder / "head").counts.values())}
    elif name in FORMATS:
        out = export_cells(folder, name)
        files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
        told = {"mb": sum(path.stat().st_size for path in files) / 1e6}
    else:
        from celldetr.search.clustering import ClusterOptions, cluster_cells

        done = cluster_cells(folder, options=ClusterOptions(sample=sample), overwrite=True)
        told = {"clusters": len(done.counts), "sampled": done.sampled, "agreement": done.agreement}
    cpu = time.process_time()
    return {"step": name, "seconds": time.perf_counter() - start, "cpu_s": cpu, "peak_mb": peak_mb(), **told}


def teach(folder: Path) -> dict[str, object]:
    """Seconds of learning, typing all cells of the first slide, and proposing: at first, and after one more label."""
    from celldetr.search.collection import find_cells
    from celldetr.teach.session import Teaching

    told: dict[str, object] = {}
    with Teaching(find_cells([folder]), folder / "teach") as teaching:
        table = teaching.collection.slides[0].table
        codes = table.type_codes(table.read(["type"]))
        for number, kind in enumerate(TYPES):
            teaching.define(kind, "#102030", base=teaching.state.revision, client="benchmark")
            rows = np.flatnonzero(codes == number)[:101]
            cells = [(0, int(row)) for row in rows]
            teaching.label(cells[:100], number, base=teaching.state.revision, client="benchmark")
        for time_of in ("first", "again"):
            for what, ask in (
                ("learn", teaching.learn),
                ("type", lambda: teaching.typed(0)),
                ("propose", lambda: teaching.propose(24)),
            ):
                begun = time.perf_counter()
                ask()
                told[f"{what}_{time_of}_s"] = time.perf_counter() - begun
            teaching.label(cells[100:], 2, base=teaching.state.revision, client="benchmark")
        teaching.save(folder / "head")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--slides", type=int, default=1, help="that these are of")
    parser.add_argument("--sample", type=int, default=50_000, help="cells that are clustered")
    parser.add_argument("--steps", nargs="*", default=["index", "query", "cluster"], help="or a format")
    parser.add_argument("-o", "--out", type=Path, help="log to write")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(step(args.one[0], Path(args.one[1]), args.sample)))
        return
    lines = [f"{args.cells:,} cells of {args.slides:,} slide(s), embeddings of 128 float16, {args.sample:,} clustered"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "big"
        write_tables(folder, args.cells, args.slides)
        lines.append(f"cells.parquet: {sum(p.stat().st_size for p in folder.rglob('*.parquet')) / 1e6:,.0f} MB")
        print("\n".join(lines), flush=True)
        for name in args.steps:
            command = [sys.executable, __file__, "--one", name, str(folder), "--sample", str(args.sample)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            told = json.loads(done.stdout) if not done.returncode else {"step": name, "failed": done.stderr[-300:]}
            values = "  ".join(f"{k} {v:,.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in told.items())
            lines.append(values)
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
