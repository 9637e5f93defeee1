"""How much faster the Numba kernel of the deformable attention is than the PyTorch reference and than C++, on the CPU.

    python benchmarks/deformable_attention.py | tee benchmarks/results/deformable_attention.txt

Encoder self-attention: every pixel of every level is a query that looks around itself. The two backends take turns, so
that a busy moment of the machine hits both; median (minimum-maximum) over the turns. Wall time is what a user waits.
CPU time, summed over the threads, is what to read if other work runs on the machine, with ``--threads 1``: a thread of
the reference that spins while it waits for another counts as busy.

The C++ of ``deformable_attention.cpp`` does what the fused kernel does, which inference uses: point by point, compiled
by g++ for this very processor. Both run on one thread and in float32. Without g++ that part is left out.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import torch
from torch import Tensor

from celldetr.model.deformable import deformable_attention
from celldetr.model.deformable_cpu import fused

BACKENDS: tuple[Literal["reference", "numba"], ...] = ("reference", "numba")


@dataclass(frozen=True)
class Setting:
    name: str
    batch: int
    levels: tuple[int, ...]  # sides of square levels
    width: int  # d, over all heads
    heads: int = 8
    points: int = 4


SETTINGS = (
    Setting("paper", batch=2, levels=(64, 32, 16, 8), width=256),
    Setting("small", batch=4, levels=(32, 16, 8), width=128),
)


@dataclass(frozen=True)
class Timing:
    wall: list[float]
    cpu: list[float]


def make_inputs(setting: Setting) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Value, shapes, locations (each pixel's own place and a normal offset of 2 pixels) and softmax weights."""
    torch.manual_seed(0)
    sides = setting.levels
    centres = [(torch.arange(side) + 0.5) / side for side in sides]
    own = torch.cat([torch.cartesian_prod(centre, centre).flip(-1) for centre in centres])  # (S, 2) as (x, y)
    size = (setting.batch, len(own), setting.heads, len(sides), setting.points)
    offsets = 2 * torch.randn(*size, 2) / torch.tensor(sides)[:, None, None]
    value = torch.randn(setting.batch, len(own), setting.heads, setting.width // setting.heads)
    weights = torch.randn(size).flatten(3).softmax(-1).view(size)
    return value, [(side, side) for side in sides], own[:, None, None, None] + offsets, weights


def measure(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, Timing]:
    """Times of each call in seconds, the calls taking turns, after one of each that compiles and warms up."""
    for call in calls.values():
        call()
    timings = {name: Timing([], []) for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
    return timings


def report(title: str, timings: dict[str, Timing]) -> None:
    def spread(seconds: list[float]) -> str:
        low, middle, high = (1000 * f(seconds) for f in (min, statistics.median, max))
        return f"{middle:8.1f} ms ({low:.1f}-{high:.1f})"

    for name, timing in timings.items():
        print(f"  {title:18} {name:10} wall {spread(timing.wall):32} cpu {spread(timing.cpu)}", flush=True)
    reference, kernel = (timings[backend] for backend in BACKENDS)
    ratios = [
        statistics.median(getattr(reference, clock)) / statistics.median(getattr(kernel, clock))
        for clock in ("wall", "cpu")
    ]
    print(
        f"  {title:18} the kernel is {ratios[0]:.1f} times faster by wall time, {ratios[1]:.1f} by CPU time", flush=True
    )


def run(setting: Setting, runs: int) -> None:
    value, shapes, locations, weights = make_inputs(setting)
    batch, pixels, heads, channels = value.shape
    print(
        f"{setting.name}: batch {batch}, levels {'-'.join(map(str, setting.levels))}, d {heads * channels}, "
        f"{heads} heads, {setting.points} points, {pixels} queries"
    )
    outputs = [deformable_attention(value, shapes, locations, weights, backend=backend) for backend in BACKENDS]
    print(f"  largest difference of the results {(outputs[0] - outputs[1]).abs().max():.1e}")
    upstream = torch.randn_like(outputs[0])
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]

    def forward(backend: Literal["reference", "numba"]) -> None:
        with torch.no_grad():
            deformable_attention(value, shapes, locations, weights, backend=backend)

    def both_ways(backend: Literal["reference", "numba"]) -> None:
        out = deformable_attention(value, shapes, locations, weights, backend=backend)
        torch.autograd.grad(out, leaves, upstream)

    report("forward", measure({name: partial(forward, name) for name in BACKENDS}, runs))
    report("forward+backward", measure({name: partial(both_ways, name) for name in BACKENDS}, runs))


FLAGS = ("-O3", "-march=native", "-ffast-math")


def compile_cpp() -> Callable[..., np.ndarray] | None:
    """``fused`` in C++ with the arguments of ``celldetr.model.deformable_cpu.fused``, or None without a compiler."""
    if shutil.which("g++") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(__file__).with_suffix(".cpp"), Path(folder) / "fused.so"
        subprocess.run(["g++", *FLAGS, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        function = ctypes.CDLL(str(library)).fused
    array, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    function.argtypes = [array] * 6 + [ctypes.c_float, array, long, long, *[number] * 5, long, long]

    def call(*arguments: Any) -> np.ndarray:
        *arrays, margin, _ = arguments
        (batch, pixels, heads, channels), (queries, _, levels, points) = arrays[0].shape, arrays[3].shape[1:]
        out = np.empty((batch, queries, heads, channels), np.float32)
        sizes = pixels, queries, heads, levels, points, channels, arrays[4].shape[2]
        if function(*(x.ctypes.data for x in arrays), margin, out.ctypes.data, *sizes, 0, batch * queries):
            raise ValueError(f"{channels} channels a head were not compiled")
        return out

    return call


def against_cpp(runs: int) -> None:
    """The fused kernel as encoder, detection decoder and representation decoder of a batch of four tiles call it."""
    cpp = compile_cpp()
    if cpp is None:
        print("fused kernel: no g++ here, C++ is left out")
        return
    print(f"fused kernel, float32, one thread, against C++ (g++ {' '.join(FLAGS)})")
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    for setting in SETTINGS:
        sides = setting.levels
        centres = [np.stack(np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2), -1).reshape(-1, 2) for side in sides]
        own = np.tile(np.concatenate(centres).astype(np.float32), (setting.batch, 1, 1))
        boxes = np.concatenate(
            [rng.random((setting.batch, 300, 2)), rng.random((setting.batch, 300, 2)) / 20 + 0.03], 2
        )
        cases = {"encoder": (own, 0.0), "detect": (boxes, 0.0), "represent": (boxes[:, :70].copy(), 1.0)}
        for name, (reference, margin) in cases.items():
            size = setting.batch, reference.shape[1], setting.heads, len(sides), setting.points
            arrays = (
                normal(setting.batch, own.shape[1], setting.heads, setting.width // setting.heads),
                np.array([(side, side) for side in sides]),
                2 * normal(*size, 2),
                normal(*size),
                reference.astype(np.float32),
                np.ones((setting.batch, len(sides), 2), np.float32),
            )
            calls = {"C++": partial(cpp, *arrays, margin, 1), "Numba": partial(fused, *arrays, margin, 1)}
            difference = np.abs(calls["C++"]() - calls["Numba"]()).max()
            timings = measure(calls, 3 * runs)
            c, n = (1000 * statistics.median(timings[key].cpu) for key in calls)
            print(
                f"  {setting.name:6} {name:10} C++ {c:6.2f} ms  Numba {n:6.2f} ms  C++ / Numba {c / n:.2f}"
                f"  largest difference {difference:.0e}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of both backends (default 2)")
    parser.add_argument("--runs", type=int, default=9, help="turns of each backend (default 9)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("$ python benchmarks/deformable_attention.py", *sys.argv[1:])
    versions = f"torch {torch.__version__}, numba {numba.__version__}, Python {platform.python_version()}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average at the start {os.getloadavg()[0]:.1f}"
    print(f"{versions}, {machine}, {options.threads} threads")
    for setting in SETTINGS:
        run(setting, options.runs)
    against_cpp(options.runs)


if __name__ == "__main__":
    main()
