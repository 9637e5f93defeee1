"""Which library should keep the nearest-neighbour index: faiss (IVF, HNSW), usearch or hnswlib?

    python benchmarks/neighbour_index.py --cells 1000000 -o benchmarks/results/neighbour_index.txt

Embeddings are synthetic: float16 vectors of length 128 around 300 centres, spread in 12 directions of each centre's own
and a little in all. Queries are drawn anew from the same. Each library builds, and then searches from disk, in a
process of its own, so that its peak memory is its own: memory-mapped where the library can, one query at a time, k 10.
Truth is exact cosine similarity. One thread unless ``--threads`` says otherwise.

hnswlib has no wheels on PyPI and needs a compiler; a library that is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DIM, CENTRES, DIRECTIONS, BLOCK, K = 128, 300, 12, 50_000, 10
LIBRARIES = ("faiss-ivf", "faiss-hnsw", "usearch", "hnswlib")
CONNECTIVITY, BUILD_EFFORT, SEARCH_EFFORT = 8, 100, 100  # of the three HNSW graphs: M, efConstruction, ef
PROBES = 32


def embeddings(count: int, seed: int) -> NDArray[np.float16]:
    """(count, 128) unit vectors around centres that do not depend on the seed."""
    fixed = np.random.default_rng(7)
    centres = fixed.normal(size=(CENTRES, DIM)).astype(np.float32)
    spread = fixed.normal(size=(CENTRES, DIRECTIONS, DIM)).astype(np.float32)
    rng = np.random.default_rng(seed)
    out = np.empty((count, DIM), np.float16)
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        which = rng.integers(0, CENTRES, n)
        weights = 0.35 * rng.normal(size=(n, DIRECTIONS)).astype(np.float32)
        some = centres[which] + 0.15 * rng.normal(size=(n, DIM)).astype(np.float32)
        for centre in range(CENTRES):
            mine = which == centre
            some[mine] += weights[mine] @ spread[centre]
        out[start : start + n] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return out


def exact(vectors: NDArray[np.float16], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """(Q, K) rows of the most similar vectors."""
    best = np.full((len(queries), K), -2.0, np.float32)
    rows = np.zeros((len(queries), K), np.int64)
    for start in range(0, len(vectors), BLOCK):
        likeness = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        top = np.argpartition(-likeness, K, axis=1)[:, :K]
        both = np.concatenate([best, np.take_along_axis(likeness, top, 1)], 1)
        at = np.concatenate([rows, top + start], 1)
        order = np.argsort(-both, axis=1)[:, :K]
        best, rows = np.take_along_axis(both, order, 1), np.take_along_axis(at, order, 1)
    return rows


def build(library: str, vectors: NDArray[np.float16], path: str, threads: int) -> None:
    if library.startswith("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)
        if library == "faiss-ivf":
            lists = int(2 * len(vectors) ** 0.5)
            index = faiss.IndexIVFScalarQuantizer(
                faiss.IndexFlatIP(DIM), DIM, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
            )
            sample = np.random.default_rng(0).choice(len(vectors), min(len(vectors), 64 * lists), replace=False)
            index.cp.niter = 10
            index.train(vectors[np.sort(sample)].astype(np.float32))
        else:
            index = faiss.IndexHNSWSQ(DIM, faiss.ScalarQuantizer.QT_fp16, CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILD_EFFORT
            index.train(vectors[:BLOCK].astype(np.float32))
        for start in range(0, len(vectors), BLOCK):
            index.add(vectors[start : start + BLOCK].astype(np.float32))
        faiss.write_index(index, path)
    elif library == "usearch":
        from usearch.index import Index

        index = Index(ndim=DIM, metric="ip", dtype="f16", connectivity=CONNECTIVITY, expansion_add=BUILD_EFFORT)
        for start in range(0, len(vectors), BLOCK):
            some = np.asarray(vectors[start : start + BLOCK])
            index.add(np.arange(start, start + len(some)), some, threads=threads)
        index.save(path)
    else:
        import hnswlib

        index = hnswlib.Index("ip", DIM)
        index.init_index(len(vectors), ef_construction=BUILD_EFFORT, M=CONNECTIVITY)
        for start in range(0, len(vectors), BLOCK):
            some = vectors[start : start + BLOCK].astype(np.float32)
            index.add_items(some, np.arange(start, start + len(some)), num_threads=threads)
        index.save_index(path)


def searcher(library: str, path: str, count: int):
    """A function from one (1, d) query to its neighbours' rows, on an index just opened."""
    if library.startswith("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
        if library == "faiss-ivf":
            index.nprobe = PROBES
        else:
            index.hnsw.efSearch = SEARCH_EFFORT
        return lambda query: index.search(query, K)[1][0]
    if library == "usearch":
        from usearch.index import Index

        index = Index.restore(path, view=True)
        index.expansion_search = SEARCH_EFFORT
        return lambda query: index.search(query[0].astype(np.float16), K).keys
    import hnswlib

    index = hnswlib.Index("ip", DIM)
    index.load_index(path, max_elements=count)
    index.set_ef(SEARCH_EFFORT)
    index.set_num_threads(1)
    return lambda query: index.knn_query(query, K)[0][0]


def peak_mb() -> float:
    """Of this process; Linux hands ru_maxrss down from parent to child, so it is asked elsewhere there."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(next(line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(step: str, library: str, folder: Path, threads: int) -> None:
    """One step in this process; prints JSON."""
    path = str(folder / library)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    start = time.perf_counter()
    if step == "build":
        build(library, vectors, path, threads)
        told = {"seconds": time.perf_counter() - start, "mb": Path(path).stat().st_size / 1e6}
    else:
        queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
        search = searcher(library, path, len(vectors))
        told = {"open_ms": 1e3 * (time.perf_counter() - start)}
        times, hits = [], 0
        for query, right in zip(queries, truth, strict=True):
            start = time.perf_counter()
            found = search(query[None])
            times.append(1e3 * (time.perf_counter() - start))
            hits += len(set(np.asarray(found).tolist()) & set(right.tolist()))
        told |= {"ms": float(np.median(times)), "p95_ms": float(np.quantile(times, 0.95)), "recall": hits / truth.size}
    told["peak_mb"] = peak_mb()
    print(json.dumps(told))


def run(step: str, library: str, folder: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, library, str(folder), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="that build")
    parser.add_argument("--libraries", nargs="*", default=LIBRARIES)
    parser.add_argument("-o", "--out", type=Path, help="log to write")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        worker(args.step[0], args.step[1], Path(args.step[2]), args.threads)
        return
    lines = [
        f"{args.cells:,} x {DIM} float16, {args.queries} queries, k {K}, {args.threads} thread(s) to build, 1 to "
        "search",
        f"{'library':<12}{'build s':>9}{'peak MB':>9}{'disk MB':>9}{'open ms':>9}{'query ms':>10}{'p95 ms':>8}"
        f"{'recall@10':>11}{'peak MB':>9}",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors = embeddings(args.cells, 1)
        queries = embeddings(args.queries, 2).astype(np.float32)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", exact(vectors, queries))
        del vectors
        print("\n".join(lines), flush=True)
        for library in args.libraries:
            try:  # the vectors are mapped too: pages of them that were read count to the peak
                made = run("build", library, folder, args.threads)
                told = run("search", library, folder, 1)
            except RuntimeError as error:
                lines.append(f"{library:<12} left out: {error}")
            else:
                lines.append(
                    f"{library:<12}{made['seconds']:>9.1f}{made['peak_mb']:>9.0f}{made['mb']:>9.0f}"
                    f"{told['open_ms']:>9.1f}{told['ms']:>10.2f}{told['p95_ms']:>8.2f}{told['recall']:>11.3f}"
                    f"{told['peak_mb']:>9.0f}"
                )
            print(lines[-1], flush=True)
            (folder / library).unlink(missing_ok=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
