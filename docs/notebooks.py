"""Tutorials: notebooks that are run from top to bottom, and the pages that show what they printed and drew.

Git has them without outputs. A run is kept in .cache/tutorials under a hash of the notebook and of the package, so that
the tests and the site run each once. ``python docs/notebooks.py [NAME ...]`` runs them anew, and prints how long.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorials"
CACHE = ROOT / ".cache" / "tutorials"
SECONDS = 1200
"""After which a cell is stopped; benchmarks/results/notebooks.txt has what notebooks take."""


def notebooks() -> list[Path]:
    """The tutorials."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path) -> Any:
    """A notebook with its outputs, of this run or of an earlier one of the same code.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    kept = CACHE / f"{path.stem}-{state(path)}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = run(path)
    CACHE.mkdir(parents=True, exist_ok=True)
    for earlier in CACHE.glob(f"{path.stem}-*.ipynb"):
        earlier.unlink()
    nbformat.write(notebook, kept)
    return notebook


def run(path: Path) -> Any:
    """A notebook with its outputs, run in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    beside = str(Path(sys.executable).parent)  # where the command celldetr is
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(
            os.environ,
            {
                "OMP_WAIT_POLICY": "passive",
                "PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', '')}",
                "COLUMNS": "120",
            },
        ),
    ):
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=SECONDS, coalesce_streams=True, resources=where).execute()
    return notebook


def state(path: Path) -> str:
    """A hash of a notebook and of the package that it uses."""
    found = hashlib.sha256(path.read_bytes())
    for file in sorted((ROOT / "src").rglob("*")):
        if file.suffix in (".py", ".yaml", ".safetensors"):
            found.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return found.hexdigest()[:16]


def as_page(name: str, notebook: Any) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook with outputs, and its pictures by the names that it has for them."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines.append(cell.source)
            continue
        shell = cell.source.startswith(("!", "%%bash"))
        source = re.sub(r"^(!|%%bash\n)", "", cell.source, flags=re.MULTILINE) if shell else cell.source
        lines.append(f"```{'bash' if shell else 'python'}\n{source}\n```")
        lines += [shown(output, name, pictures) for output in cell.outputs]
    lines.insert(1, f"[Download this notebook]({name}.ipynb) and run it: it makes what it needs.")
    return "\n\n".join(line for line in lines if line) + "\n", pictures


def shown(output: Any, name: str, pictures: dict[str, bytes]) -> str:
    """An output of a cell as Markdown; a picture is added to ``pictures``."""
    if output.output_type == "stream":
        text = re.sub(r"\x1b\[[0-9;]*m", "", output.text).rstrip()  # colours of a terminal
        return f"```text\n{text}\n```" if output.name == "stdout" else ""
    data = output.get("data", {})
    for kind, ending in (("image/png", "png"), ("image/jpeg", "jpg")):
        if kind in data:
            file = f"{name}-{len(pictures) + 1}.{ending}"
            pictures[file] = base64.b64decode(data[kind])
            return f"![What the cell above draws]({file})"
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        return "\n".join(line for line in table.splitlines() if line.strip())
    return f"```text\n{''.join(data['text/plain'])}\n```" if "text/plain" in data else ""


def main() -> None:
    """Print the seconds that notebooks take: of the clock, and of the processor, with all that they start."""
    print("notebook        seconds  of the processor")
    for path in notebooks():
        if path.stem in sys.argv[1:] or len(sys.argv) == 1:
            began, before = time.monotonic(), os.times()
            run(path)
            after = os.times()
            used = sum(after[2:4]) - sum(before[2:4])
            print(f"{path.stem:<15} {time.monotonic() - began:7.0f}  {used:16.0f}", flush=True)


if __name__ == "__main__":
    main()
