"""What no source file may do: load torch where a table is read, unpickle, use the network, grow past 400 lines.

Which package may import which is a matter of import-linter (``[tool.importlinter]`` in pyproject.toml).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "celldetr"
MAX_LINES = 400
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
        ("requests", "httpx", "aiohttp", "urllib.request", "http.client", "socket", "ftplib"), "uses the network"
    ),
}
FORBIDDEN_CALLS = {
    **dict.fromkeys(("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"), "use yaml.safe_load"),
    **dict.fromkeys(("eval", "exec"), "runs text as code"),
    **dict.fromkeys(("pandas.read_pickle", "torch.save"), "pickles; use safetensors or Parquet"),
}


def forbidden(tree: ast.Module) -> Iterator[str]:
    """Imports and calls of a file that run code which a data file brings, or use the network."""
    full_names: dict[str, str] = {}  # of what is imported, by its name in the file
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full_names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full_names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for name in full_names.values():
        for module, reason in FORBIDDEN_MODULES.items():
            if f"{name}.".startswith(f"{module}."):
                yield f"imports {name}: {reason}"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, *rest = ast.unparse(call.func).split(".")
        name = ".".join([full_names.get(first, first), *rest])
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in FORBIDDEN_CALLS:
            yield f"line {call.lineno} calls {name}: {FORBIDDEN_CALLS[name]}"
        if name == "torch.load" and options.get("weights_only") != "True":
            yield f"line {call.lineno} calls torch.load without weights_only=True"
        if name == "numpy.load" and options.get("allow_pickle", "False") != "False":
            yield f"line {call.lineno} calls numpy.load with allow_pickle"


def test_no_pickles_no_network_no_long_file() -> None:
    complaints = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        complaints += [f"{name}: {line}" for line in forbidden(ast.parse(text))]
        if (lines := len(text.splitlines())) > MAX_LINES:
            complaints.append(f"{name}: {lines} lines, more than {MAX_LINES}")
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import pickle", "imports pickle"),
        ("from urllib import request", "imports urllib.request"),
        ("import urllib.request as r", "imports urllib.request"),
        ("import torch as t\nt.load('x')", "line 2 calls torch.load"),
        ("import torch\ntorch.load('x', weights_only=False)", "calls torch.load"),
        ("from yaml import load\nload('x')", "calls yaml.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "calls numpy.load"),
    ],
)
def test_a_forbidden_import_or_call_is_seen(code: str, complaint: str) -> None:
    (line,) = forbidden(ast.parse(code))
    assert complaint in line


def loaded_after(code: str) -> list[str]:
    """Heavy packages that a fresh interpreter has loaded after running ``code``."""
    code = f"{code}\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_import_is_light() -> None:
    # Everything that starts the package (the command line's help, a worker process) pays for what its import loads.
    assert loaded_after("import celldetr") == []


def test_tables_are_read_without_torch() -> None:
    paths = (path for part in WITHOUT_TORCH for path in (PACKAGE / part).rglob("*.py"))
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    code = "import importlib\nfor name in {!r}: importlib.import_module(name)".format(
        [name.removesuffix(".__init__") for name in names]
    )
    assert not {"torch", "torchvision", "timm"} & set(loaded_after(code))


def test_imports_follow_the_layers() -> None:
    pytest.importorskip("importlinter")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
