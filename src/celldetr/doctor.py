"""What ``celldetr doctor`` says of an installation: what is there, and whether the parts that matter work together.

Presence proves little (a torchvision built for another torch imports well and fails at its first operation), so each
essential part is used once: an operation of torchvision's, the compiled attention against the plain one, a region of
the sample slide, the weights' own hashes. No check may end the others: a failure is a line of the report.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

from celldetr.version import describe

ESSENTIAL = (
    "celldetr", "torch", "torchvision", "timm", "numba", "numpy", "scipy", "scikit-image", "pandas", "pyarrow",
    "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "pillow", "safetensors", "pydantic", "anndata",
)  # fmt: skip
EXTRAS = {
    "pretrained": "ImageNet weights, to train from",
    "onnx": "export of models as ONNX",
    "cluster": "predict on a cluster",
    "search": "celldetr index",
    "cluster-cells": "celldetr cluster",
    "view": "celldetr view",
    "spatialdata": "export as SpatialData",
    "umap": "UMAP in the figures of pretraining",
    "spatial": "celldetr spatial",
}
GIB = 2**30
LITTLE_DISK_GIB = 1.0  # a slide of a million cells needs about half of it
LITTLE_MEMORY_GIB = 2.0  # what prediction is built to stay under
AGREEMENT = 1e-4  # largest difference of compiled and plain attention, float32 values of order 1


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: the part of the report it belongs to.
        name: what was looked at.
        value: what was found, or what failed.
        state: ``ok``; ``note``, worth knowing and no obstacle; ``broken``, celldetr will not do its work.
    """

    topic: str
    name: str
    value: str
    state: str = "ok"


def collect() -> list[Finding]:
    """Examine this installation; takes seconds, most of them to import torch and, once, to compile the attention."""
    findings: list[Finding] = []
    for topic, check in CHECKS:
        try:
            for finding in check():  # one at a time: what was found before a failure is kept
                findings.append(finding)  # noqa: PERF402
        except Exception as error:  # whatever is wrong with a machine must be reported, not end the report
            findings.append(Finding(topic, "check failed", _one_line(error), "broken"))
    return findings


def report(findings: Sequence[Finding], *, colour: bool = False) -> str:
    """The findings as one table, and a last line that says whether all is well."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "note": "yellow", "broken": "bold red"}
    table = Table("", "", "", "", show_header=False, box=None, pad_edge=False)
    for topic, group in groupby(findings, lambda finding: finding.topic):
        for place, finding in enumerate(group):
            state = Text(finding.state, styles[finding.state])
            table.add_row(Text("" if place else topic, "bold"), finding.name, state, Text(finding.value))
        table.add_section()
    broken = sum(finding.state == "broken" for finding in findings)
    verdict = f"\n{broken} problem{'s' * (broken > 1)}: see 'broken' above" if broken else "\nAll is well"
    buffer = StringIO()
    console = Console(file=buffer, width=110, force_terminal=colour, no_color=not colour, highlight=False)
    console.print(table, Text(verdict, "bold"))
    # Rich pads each line to the full width, which wraps when the report is pasted into an issue.
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def versions() -> Iterator[Finding]:
    """Python and the packages the work depends on, by their metadata: nothing is imported."""
    supported = sys.version_info >= (3, 11)
    yield Finding("versions", "python", platform.python_version(), "ok" if supported else "broken")
    for name in ESSENTIAL:
        try:
            yield Finding("versions", name, describe() if name == "celldetr" else version(name))
        except PackageNotFoundError:
            yield Finding("versions", name, "not installed", "broken")


def extras() -> Iterator[Finding]:
    """The extras of the package: which are there, and how to install one that is not."""
    from celldetr.errors import install

    lacking = []
    for extra, purpose in EXTRAS.items():
        missing = sorted(name for name in _packages(extra) if not _is_installed(name))
        lacking += [extra] * bool(missing)
        value = f"{purpose}; not installed: {', '.join(missing)}" if missing else purpose
        yield Finding("extras", extra, value, "note" if missing else "ok")
    if lacking:
        yield Finding("extras", "to install them", install(",".join(lacking)), "note")


def _packages(extra: str) -> Iterator[str]:
    """Names of the packages that an extra brings, without those of the package itself."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires("celldetr") or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.marker.evaluate({"extra": extra}):
            if requirement.name == "celldetr":
                for other in requirement.extras:
                    yield from _packages(other)
            else:
                yield requirement.name


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def machine() -> Iterator[Finding]:
    """System, processor, threads and memory."""
    import torch

    yield Finding("machine", "system", f"{platform.platform()}, {platform.machine()}")
    present = os.cpu_count() or 1
    # A container or a queue often gives fewer cores than the machine has; macOS and Windows do not tell.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    fewer = f" of {present} (this process may not use the others)" if usable < present else ""
    yield Finding("machine", "cores", f"{usable}{fewer}")
    threads = torch.get_num_threads()
    # Half is right where each core counts twice (hyper-threading); torch then takes the real ones.
    unbalanced = threads > usable or threads * 2 < usable
    advice = "; OMP_NUM_THREADS sets it" if unbalanced else ""
    yield Finding("machine", "torch threads", f"{threads}{advice}", "note" if unbalanced else "ok")
    yield Finding("machine", "vector instructions", torch.backends.cpu.get_cpu_capability())
    yield Finding("machine", "bfloat16 in hardware", _bfloat16())
    memory = _available_memory()
    if memory is not None:
        yield Finding("machine", "free memory", f"{memory:.1f} GiB", "ok" if memory >= LITTLE_MEMORY_GIB else "note")


def _available_memory() -> float | None:
    """GiB that can be had without swapping, where the system says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = dict(line.split(":", 1) for line in lines if ":" in line).get("MemAvailable", "").removesuffix("kB").strip()
    return int(kib) * 1024 / GIB if kib else None


def _bfloat16() -> str:
    import torch

    from celldetr.model.device import has_bf16, onednn_limit

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    if not capabilities:
        return "not known"
    found = [name for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16") if capabilities.get(name)]
    limit = onednn_limit()
    unused = f" (unused: oneDNN is held to {limit})" if limit and found and not has_bf16(torch.device("cpu")) else ""
    return (", ".join(found) or "no") + unused


def devices() -> Iterator[Finding]:
    """Devices that torch can compute on."""
    import torch

    yield Finding("devices", "cpu", "yes")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("devices", f"cuda:{index}", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "yes")


def network() -> Iterator[Finding]:
    """The libraries of the network do what is asked of them, and the compiled attention agrees with the plain one."""
    import torch
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1]]), torch.tensor([0.9, 0.8]), 0.5)
    fits = kept.tolist() == [0]
    pair = f"torchvision {version('torchvision')} runs on torch {torch.__version__}"
    yield Finding("network", "torch and torchvision", pair if fits else f"not so: {pair}", "ok" if fits else "broken")

    for name, off in (("deformable attention (Numba)", _deformable()), ("near attention (Numba)", _near())):
        agrees = off <= AGREEMENT
        result = f"compiled, {off:.0e} from the plain one" if agrees else f"{off:.2g} from the plain one: wrong"
        yield Finding("network", name, result, "ok" if agrees else "broken")


def _deformable() -> float:
    """Largest difference of the compiled attention in boxes from the plain one."""
    import torch

    from celldetr.model.deformable import deformable_attention, deformable_attention_fused, sampling_points

    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 7), (3, 4)]
    value = torch.randn(1, 47, 2, 4, generator=generator)
    raw = torch.randn(1, 6, 2, 2, 3, 2, generator=generator), torch.randn(1, 6, 2, 2, 3, generator=generator)
    boxes, ratios = torch.rand(1, 6, 4, generator=generator), torch.ones(1, 2, 2)
    compiled = deformable_attention_fused(value, shapes, *raw, boxes, ratios, 1.0)
    points = sampling_points(*raw, shapes, boxes, ratios, 1.0, inside=False)
    return float((compiled - deformable_attention(value, shapes, *points)).abs().max())


def _near() -> float:
    """Largest difference of the attention among near queries from that with a mask."""
    import torch

    from celldetr.model.near_attention import NearQueries, near_attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 40, 8, generator=generator)
    places = torch.rand(1, 40, 2, generator=generator)
    neighbours = NearQueries.of(places, torch.full((1, 2), 400.0))
    with torch.no_grad():
        compiled = near_attention(q, k, v, 2, neighbours)
    with torch.enable_grad():  # gradients take the masked one
        plain = near_attention(q, k, v, 2, neighbours)
    return float((compiled - plain).abs().max())


def readers() -> Iterator[Finding]:
    """Slide libraries, by reading a region of the sample slide and asking for the codecs of TIFF."""
    import openslide

    yield Finding("slides", "OpenSlide", openslide.__library_version__)
    import imagecodecs

    wanted = {
        "JPEG": "JPEG8",
        "JPEG 2000": "JPEG2K",
        "LZW": "LZW",
        "Deflate": "ZLIB",
        "WebP": "WEBP",
        "Zstandard": "ZSTD",
    }
    missing = [name for name, codec in wanted.items() if not getattr(imagecodecs, codec).available]
    codecs = f"without {', '.join(missing)}" if missing else ", ".join(wanted)
    yield Finding("slides", "TIFF compressions", codecs, "note" if missing else "ok")

    from celldetr.demo_slide import sample_slide
    from celldetr.slide.reader import open_slide

    with open_slide(sample_slide()) as slide:
        # The middle of the slide is tissue; a reader that is broken in a quiet way gives white or black.
        spread = float(slide.read_level(0, slide.width // 2, slide.height // 2, 64, 64).std())
        size = f"{slide.width} x {slide.height} px"
    read = f"{size}, read" if spread > 0 else f"{size}, read as one plain colour"
    yield Finding("slides", "sample slide", read, "ok" if spread > 0 else "broken")


def models() -> Iterator[Finding]:
    """Weights that can be loaded by name, each loaded: its hash and its card are checked."""
    from celldetr.errors import InputError
    from celldetr.model.checkpoint import load_checkpoint
    from celldetr.model.hub import DEFAULT_MODEL, folders, list_models

    found = list_models()
    for name, folder in found.items():
        try:
            card = load_checkpoint(folder).card
        except InputError as error:
            yield Finding("models", name, _one_line(error), "broken")
        else:
            about = f"{len(card.config.types)} types, {card.config.mpp:g} um per pixel, {card.licence}, in {folder}"
            yield Finding("models", name, about)
    if DEFAULT_MODEL not in found:
        where = ", ".join(str(folder) for folder in folders())
        yield Finding("models", DEFAULT_MODEL, f"the default model is in none of: {where}; reinstall", "broken")


def storage() -> Iterator[Finding]:
    """Room for results, and whether what is written beside them can be."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free / GIB
    yield Finding("storage", f"free disk, {here}", f"{free:.1f} GiB", "ok" if free >= LITTLE_DISK_GIB else "note")
    yield Finding("storage", "results can be written here", *_writable(here, "name another folder with -o"))
    temporary = Path(tempfile.gettempdir())
    yield Finding("storage", "temporary files", *_writable(temporary, "TMPDIR names another folder"))
    yield Finding("storage", "compiled attention kept", *_kernel_cache())


def _kernel_cache() -> tuple[str, str]:
    """Whether Numba can keep what it compiles; else each process compiles the attention anew, which takes seconds."""
    from numba.core import caching

    from celldetr.model.deformable_kernels import fused_kernel

    advice = "NUMBA_CACHE_DIR names another folder"
    cache_of: Any = caching.FunctionCache
    try:
        return _writable(Path(cache_of(fused_kernel).cache_path), advice)
    except RuntimeError:
        return f"no folder can be written to; {advice}", "note"


def _writable(folder: Path, advice: str) -> tuple[str, str]:
    """Value and state of a folder that should take files; tried, as permissions do not tell of read-only disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return f"yes, {folder}", "ok"
    except OSError as error:
        return f"no, {folder}: {error.strerror or error}; {advice}", "note"


def _one_line(error: Exception) -> str:
    """An error as one short line, with its class unless it is a message of ours."""
    text = " ".join(str(error).split())[:300]
    from celldetr.errors import InputError

    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("versions", versions),
    ("extras", extras),
    ("machine", machine),
    ("devices", devices),
    ("network", network),
    ("slides", readers),
    ("models", models),
    ("storage", storage),
)
