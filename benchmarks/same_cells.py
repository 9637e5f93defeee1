"""Do two source trees find the same cells? The table of the sample slide, column by column.

python benchmarks/same_cells.py BEFORE AFTER [-- SLIDE --option ...]

BEFORE and AFTER are checkouts; each predicts the sample slide (or SLIDE, with options of ``celldetr predict``) in a
process of its own, on the CPU in float32. Exit code 1 if the tables differ in anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SLIDE = Path("src") / "celldetr" / "assets" / "CMU-1-Small-Region.svs"


def predict(tree: Path, out: Path, arguments: list[str]) -> pa.Table:
    """The cell table that a checkout writes.

    Raises:
        subprocess.CalledProcessError: it fails; what it says is on standard error.
    """
    source = tree / "src"
    slide, *options = arguments or [str(tree / SLIDE)]
    command = ["-m", "celldetr", "predict", slide, "-o", str(out), "--precision", "32", "--device", "cpu", *options]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    place = subprocess.run(
        [sys.executable, "-c", "import celldetr; print(celldetr.__file__)"],
        env=environment,
        cwd=out.parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    if source.resolve() not in Path(place).resolve().parents:
        raise SystemExit(f"{tree}: {place} is imported instead of its own package")
    subprocess.run([sys.executable, *command], env=environment, cwd=out.parent, check=True, stdout=subprocess.DEVNULL)
    (table,) = out.glob("*/cells.parquet")
    return pq.read_table(table)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) or (N, d) float64 of a column of numbers or vectors."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return np.asarray(values.flatten()).astype(np.float64).reshape(-1, values.type.list_size)
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.float64)


def differences(before: pa.Table, after: pa.Table) -> list[str]:
    """One line for every column that differs, and for the number of cells; none if the tables are the same."""
    if before.schema.names != after.schema.names:
        return [f"columns: {before.schema.names} before, {after.schema.names} after"]
    if len(before) != len(after):
        return [f"cells: {len(before):,} before, {len(after):,} after"]
    lines = []
    for name in before.schema.names:
        one, two = before[name], after[name]
        if one.type != two.type:
            lines.append(f"{name}: {one.type} before, {two.type} after")
        elif not one.equals(two) and one.to_pylist() != two.to_pylist():
            if pa.types.is_dictionary(one.type) or pa.types.is_binary(one.type):
                other = sum(a != b for a, b in zip(one.to_pylist(), two.to_pylist(), strict=True))
                lines.append(f"{name}: {other:,} cells differ")
            else:
                lines.append(f"{name}: differs by up to {np.abs(numbers(one) - numbers(two)).max():.3g}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("predict", nargs="*", help="slide and options of celldetr predict, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, after = (
            predict(tree.resolve(), Path(folder) / name, arguments.predict)
            for tree, name in ((arguments.before, "before"), (arguments.after, "after"))
        )
    lines = differences(before, after)
    print(*(lines or [f"the same {len(before):,} cells in all {len(before.schema.names)} columns"]), sep="\n")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
