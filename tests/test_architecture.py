"""Holds the arrows of docs/design.md, and what no source file may do, by reading the code rather than running it.

Each rule is a function from a source tree to sentences that name file, line and import. It is run on ``src/celldetr``,
where it must say nothing, and on a small tree made to break it, where it must speak.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "celldetr"
MAX_LINES = 400

# What the modules of each subpackage may import of ours, besides their own subpackage. A name allows what is inside it.
BASE = {"assignment", "boxes", "config", "errors", "io"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "assignment": set(),
    "boxes": {"errors"},
    "io": {"errors"},
    "config": {"errors", "io"},
    "model": BASE,
    "data": BASE | {"slide.reader", "slide.roi"},  # labels drawn on slides
    "training": BASE | {"data", "model", "evaluation", "report.embedding_map"},  # pictures of embeddings
    "evaluation": BASE | {"data", "model", "api"},
    "slide": BASE | {"model.output", "cells"},
    "cells": BASE | {"model.output", "slide"},
    "report": {"config", "errors", "io", "slide", "cells"},
    "search": {"config", "errors", "io", "slide", "cells", "report"},
    "sampling": BASE | {"data", "slide", "model.output", "report"},
    "spatial": BASE | {"data", "slide", "cells", "model.output", "model.hub", "api", "report"},
    "probe": BASE | {"data", "model", "evaluation", "api", "training", "recipes"},
    "cohort": BASE | {"slide", "cells", "report", "api", "model.cpu_caches", "model.device", "model.hub"},
}
# A table is exported, searched and looked at on machines that have no use for a network.
WITHOUT_TORCH = ("cells", "report", "search")
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numba",
    "matplotlib",
    "pandas",
    "scanpy",
    "anndata",
    "skimage",
    "sklearn",
    "scipy",
    "dask",
    "faiss",
    "igraph",
    "distributed",
    "spatialdata",
    "spatialdata_io",
    "tacco",
    "geopandas",
)
FORBIDDEN_MODULES = {
    **dict.fromkeys(("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"), "runs code that a file brings"),
    **dict.fromkeys(
        ("requests", "httpx", "httpx2", "aiohttp", "urllib.request", "http.client", "socket", "ftplib"),
        "uses the network",
    ),
}
FORBIDDEN_CALLS = {
    **dict.fromkeys(("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"), "use yaml.safe_load"),
    **dict.fromkeys(("eval", "exec"), "runs text as code"),
    **dict.fromkeys(("pandas.read_pickle", "torch.save"), "pickles; use safetensors or Parquet"),
}


@dataclass(frozen=True)
class Import:
    """One imported module: dotted name, line, and whether importing the file is enough to run it."""

    name: str
    line: int
    eager: bool


def sources(package: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """Dotted name inside the package ("" for its __init__), path and syntax tree of each module."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree: ast.Module, name: str, path: Path, package: Path) -> list[Import]:
    """All imports of a file, in functions too; relative ones made absolute, ``from a import module`` as a.module."""
    found: list[Import] = []
    here = [package.name, *name.split(".")] if name else [package.name]
    parent = here if path.name == "__init__.py" else here[:-1]

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = (node.module or "").split(".") if node.module else []
            if node.level:
                origin = parent[: len(parent) - node.level + 1] + origin
            for alias in node.names:
                target = package.parent.joinpath(*origin, alias.name)
                is_module = target.with_suffix(".py").is_file() or target.is_dir() or origin in (["urllib"], ["http"])
                # A name of the public API stands for the modules behind it, so it is kept: celldetr.predict.
                is_public = origin == [package.name]
                found.append(
                    Import(".".join([*origin, alias.name] if is_module or is_public else origin), node.lineno, eager)
                )
        inner = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(tree, True)
    return found


def within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


def broken_arrows(package: Path) -> list[str]:
    """Imports of ours that go against the arrows; a top module that no arrow names may import all but the CLI."""
    found = []
    for name, path, tree in sources(package):
        part = name.split(".")[0]
        for item in imports(tree, name, path, package):
            if not within(item.name, package.name):
                continue
            target = item.name.removeprefix(package.name).lstrip(".")
            where = f"{path.relative_to(package.parent)}:{item.line} imports {item.name}"
            if target.split(".")[0] == "cli" and part not in ("__main__", "cli"):
                found.append(f"{where}: nothing imports the command line")
            elif (
                part in ARROWS
                and target != "__version__"
                and not any(within(target, allowed) for allowed in ARROWS[part] | {part})
            ):
                found.append(f"{where}: {part} may import only {', '.join(sorted(ARROWS[part])) or 'nothing'} of ours")
    return found


def reaches_torch(package: Path) -> list[str]:
    """Modules of ``WITHOUT_TORCH`` whose import loads torch, through whatever chain of ours."""
    modules = {name: imports(tree, name, path, package) for name, path, tree in sources(package)}

    def chain(name: str, seen: set[str]) -> list[str] | None:
        seen.add(name)
        for item in modules.get(name, []):
            if not item.eager:
                continue
            if item.name.split(".")[0] in ("torch", "torchvision", "timm"):
                return [f"line {item.line} imports {item.name}"]
            if within(item.name, package.name):
                target = item.name.removeprefix(package.name).lstrip(".")
                # Importing a.b.c runs a and a.b first.
                for step in ("", *(target[:i] for i, c in enumerate(target) if c == "."), target):
                    rest = chain(step, seen) if step not in seen else None
                    if rest is not None:
                        return [f"line {item.line} imports {item.name}", *rest]
        return None

    chains = {name: chain(name, set()) for name in modules if name.split(".")[0] in WITHOUT_TORCH}
    return [f"{package.name}.{name} loads torch: {', which '.join(steps)}" for name, steps in chains.items() if steps]


def forbidden(package: Path) -> list[str]:
    """Imports and calls that run code a file brings, or use the network."""
    found = []
    for name, path, tree in sources(package):
        where = path.relative_to(package.parent)
        for item in imports(tree, name, path, package):
            for module, why in FORBIDDEN_MODULES.items():
                if within(item.name, module):
                    found.append(f"{where}:{item.line} imports {item.name}: {why}")
        found += [f"{where}:{line} calls {call}" for line, call in forbidden_calls(tree)]
    return found


def forbidden_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    # What a local name stands for, so that `import torch as t; t.load` and `from yaml import load` are seen too.
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            origin.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            origin.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        call = ".".join([origin.get(first, first), *rest])
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if call in FORBIDDEN_CALLS:
            yield node.lineno, f"{call}: {FORBIDDEN_CALLS[call]}"
        if call == "torch.load" and options.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if call == "numpy.load" and options.get("allow_pickle", "False") != "False":
            yield node.lineno, "numpy.load with allow_pickle"


def too_long(package: Path) -> list[str]:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(package.rglob("*.py"))}
    return [
        f"{p.relative_to(package.parent)} has {n} lines, more than {MAX_LINES}"
        for p, n in lengths.items()
        if n > MAX_LINES
    ]


@pytest.mark.parametrize("rule", [broken_arrows, reaches_torch, forbidden, too_long])
def test_the_package_keeps(rule: Callable[[Path], list[str]]) -> None:
    assert (PACKAGE / "__init__.py").is_file()
    complaints = rule(PACKAGE)
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "file", "code", "complaint"),
    [
        (
            broken_arrows,
            "model/head.py",
            "from celldetr.data.sample import Sample",
            "head.py:1 imports celldetr.data.sample",
        ),
        (broken_arrows, "data/reader.py", "def f():\n    import celldetr.model", "reader.py:2 imports celldetr.model"),
        (broken_arrows, "data/reader.py", "from ..slide import grid", "reader.py:1 imports celldetr.slide"),
        (
            broken_arrows,
            "slide/engine.py",
            "from celldetr.model import head",
            "engine.py:1 imports celldetr.model.head",
        ),
        (broken_arrows, "slide/engine.py", "from celldetr import api", "engine.py:1 imports celldetr.api"),
        (broken_arrows, "slide/engine.py", "from celldetr import load_model", "imports celldetr.load_model"),
        (broken_arrows, "training/loop.py", "import celldetr.slide.grid", "training may import only"),
        (broken_arrows, "report/page.py", "import celldetr.data.sample", "page.py:1 imports celldetr.data.sample"),
        (
            broken_arrows,
            "config.py",
            "from celldetr.boxes import iou",
            "config may import only errors, io",
        ),
        (broken_arrows, "cohort/run.py", "import celldetr.training", "run.py:1 imports celldetr.training"),
        (broken_arrows, "slide/engine.py", "from celldetr.cohort import run", "engine.py:1 imports celldetr.cohort"),
        (broken_arrows, "api.py", "from celldetr.cli import main", "nothing imports the command line"),
        (
            reaches_torch,
            "cells/csv.py",
            "import torch.nn",
            "celldetr.cells.csv loads torch: line 1 imports torch.nn",
        ),
        (
            reaches_torch,
            "report/page.py",
            "from celldetr.slide import grid",
            "grid, which line 1 imports celldetr.boxes, which",
        ),
        (forbidden, "api.py", "import pickle", "api.py:1 imports pickle"),
        (forbidden, "api.py", "from urllib import request", "imports urllib.request"),
        (forbidden, "api.py", "import urllib.request as r", "imports urllib.request"),
        (forbidden, "api.py", "import torch as t\nt.load('x')", "api.py:2 calls torch.load"),
        (forbidden, "api.py", "import torch\ntorch.load('x', weights_only=False)", "calls torch.load"),
        (forbidden, "api.py", "from yaml import load\nload('x')", "calls yaml.load"),
        (forbidden, "api.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "calls numpy.load"),
        (too_long, "api.py", "x = 1\n" * (MAX_LINES + 1), f"api.py has {MAX_LINES + 1} lines"),
    ],
)
def test_a_broken_rule_is_named(
    rule: Callable[[Path], list[str]], file: str, code: str, complaint: str, tmp_path: Path
) -> None:
    complaints = rule(tree_with(tmp_path / "celldetr", file, code))
    assert len(complaints) == 1
    assert complaint in complaints[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("model/head.py", "from celldetr.boxes import iou\nfrom . import output\nfrom .output import TileCells"),
        (
            "training/loop.py",
            "import celldetr.evaluation\nfrom celldetr.data.sample import Sample\nimport celldetr.model",
        ),
        ("slide/engine.py", "from celldetr.model.output import TileCells\nfrom celldetr.model import output"),
        ("report/page.py", "def show():\n    import torch"),
        ("report/page.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        (
            "cli.py",
            "import celldetr.api, urllib.parse, yaml, torch\ntorch.load('x', weights_only=True)\nyaml.safe_load('x')",
        ),
        ("__main__.py", "from celldetr.cli import main"),
    ],
)
def test_what_is_allowed_is_not_complained_about(file: str, code: str, tmp_path: Path) -> None:
    package = tree_with(tmp_path / "celldetr", file, code)
    assert [
        complaint for rule in (broken_arrows, reaches_torch, forbidden, too_long) for complaint in rule(package)
    ] == []


def tree_with(package: Path, file: str, code: str) -> Path:
    """A small clean package in which one file has the code given."""
    clean = {
        f"{part}/__init__.py": "" for part in ("model", "data", "training", "evaluation", "slide", "cells", "report")
    }
    clean |= {
        "__init__.py": "",
        "errors.py": "",
        "config.py": "",
        "api.py": "",
        "cli.py": "",
        "boxes.py": "import torch",
    }
    clean |= {
        "model/output.py": "",
        "model/head.py": "",
        "slide/grid.py": "import celldetr.boxes",
        "data/sample.py": "",
    }
    for name, text in (clean | {file: code}).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_import_is_light() -> None:
    # Everything that starts the package (the command line's help, a worker process) pays for what its import loads.
    code = f"import sys, celldetr; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
