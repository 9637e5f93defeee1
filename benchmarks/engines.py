"""The network as CellDETR runs it, as plain PyTorch, and as an ONNX file in ONNX Runtime and OpenVINO: time by stage.

python benchmarks/engines.py --openvino .venv-openvino/bin/python | tee benchmarks/results/engines.txt

Four 256 x 256 px tiles of the sample slide, uint8 pixels in, all queries with boxes, types and embeddings out. Each
engine is a process of its own with one or two threads; they take turns, so that a busy moment of the machine hits all.
Milliseconds a tile, medians. CPU time is summed over the threads, what each engine does to wait included. Stages: wall
time between them (PyTorch), or the time of the operators of a stage by the engine's own profile. int8: linear layers
in int8, their inputs quantised as they come, the one kind that needs no calibration. ``--openvino`` names a Python that
has openvino and numpy; without it, or without g++ for torch.compile, those rows are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TILES, SIDE = 4, 256
STAGES = ("backbone", "project+encode", "detect", "represent")
TORCH = ("celldetr bf16", "celldetr fp32", "plain PyTorch", "torch.compile")
OPENVINO = ("OpenVINO fp32", "OpenVINO bf16")
INT8 = "ONNX RT int8"
Run = Callable[[], object]
Stages = Callable[[], dict[str, float]]


def stage_of(operator: str) -> str:
    """The stage of an operator, by the name that the exporter gave it."""
    for prefix, stage in (
        ("/backbone", "backbone"),
        ("/projections", "project+encode"),
        ("/encoder", "project+encode"),
        ("/detector", "detect"),
        ("/representer", "represent"),
    ):
        if prefix in operator:
            return stage
    return "rest"


def torch_engine(name: str, tiles: np.ndarray, threads: int) -> tuple[Run, Stages]:
    import torch

    from celldetr.model import layers
    from celldetr.model.checkpoint import load_checkpoint
    from celldetr.model.folding import for_inference
    from celldetr.model.hub import find_model

    torch.set_num_threads(threads)
    network = load_checkpoint(find_model("small-20x")).network
    images = torch.from_numpy(tiles)
    sizes = torch.full((len(tiles), 2), float(SIDE))
    if name.startswith("celldetr"):
        network = for_inference(network)
    else:
        for module in network.modules():
            if isinstance(module, layers.DeformableAttention):
                module.fused = False

    def encode(pixels: Any) -> Any:
        return network.encode(network.normalise(pixels), sizes, None)

    steps: list[Any] = [encode, network.detect, network.represent, network.backbone]
    if name == "torch.compile":
        steps = [torch.compile(step) for step in steps]
    memorise, detect, represent, backbone = steps
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=name.endswith("bf16"))

    def run() -> dict[str, float]:
        with torch.inference_mode(), half:
            times = [time.perf_counter()]
            memories = memorise(images)
            times.append(time.perf_counter())
            found = detect(memories).last
            order = found.logits.sort(dim=1, descending=True).indices[..., None]
            boxes = found.boxes.gather(1, order.expand(-1, -1, 4))
            times.append(time.perf_counter())
            represent(memories, boxes)
            times.append(time.perf_counter())
        return dict(zip(STAGES[1:], np.diff(times), strict=True))

    def stages() -> dict[str, float]:
        normal = network.normalise(images)
        with torch.inference_mode(), half:
            backbone(normal)
            start = time.perf_counter()
            backbone(normal)
            first = time.perf_counter() - start
        rest = run()
        return {"backbone": first} | rest | {"project+encode": rest["project+encode"] - first}

    return run, stages


def int8_file(path: str) -> str:
    """The quantised copy of an ONNX file, made beside it if it is not there."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised = Path(path).with_suffix(".int8.onnx")
    if not quantised.exists():
        quantize_dynamic(path, str(quantised), op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    return str(quantised)


def onnx_engine(path: str, tiles: np.ndarray, threads: int) -> tuple[Run, Stages]:
    import onnxruntime

    def session(profile: str | None) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    plain = session(None)

    def stages() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            profiled = session(str(Path(folder) / "profile"))
            for _ in range(3):
                profiled.run(None, {"images": tiles})
            events = json.loads(Path(profiled.end_profiling()).read_text())
        times: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times.setdefault(event["name"], []).append(event["dur"] / 1e6)
        spent = dict.fromkeys((*STAGES, "rest"), 0.0)
        for name, seconds in times.items():
            spent[stage_of(name)] += statistics.median(seconds)
        return spent

    return lambda: plain.run(None, {"images": tiles}), stages


def openvino_engine(name: str, path: str, tiles: np.ndarray, threads: int) -> tuple[Run, Stages]:
    import openvino

    kind = {"OpenVINO fp32": "f32", "OpenVINO bf16": "bf16"}[name]
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({"images": list(tiles.shape)})  # its best case: sizes fixed at compilation
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def stages() -> dict[str, float]:
        profiled = core.compile_model(model, "CPU", settings | {"PERF_COUNT": True}).create_infer_request()
        for _ in range(3):
            profiled.infer({"images": tiles})
        spent = dict.fromkeys((*STAGES, "rest"), 0.0)
        for entry in profiled.get_profiling_info():
            spent[stage_of(entry.node_name)] += entry.real_time.total_seconds()
        return spent

    return lambda: request.infer({"images": tiles}), stages


def work(name: str, path: str, tiles_file: str, threads: int) -> None:
    """A worker: answers each line it is sent with wall and CPU seconds of a run, or "stages" with those."""
    tiles = np.load(tiles_file)
    if name in TORCH:
        run, stages = torch_engine(name, tiles, threads)
    elif name in OPENVINO:
        run, stages = openvino_engine(name, path, tiles, threads)
    else:
        run, stages = onnx_engine(int8_file(path) if name == INT8 else path, tiles, threads)
    for _ in range(3):
        run()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        if line.strip() == "stages":
            print(json.dumps(stages()), flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


class Worker:
    """An engine in its own process."""

    def __init__(self, python: str, name: str, path: str, tiles: str, threads: int) -> None:
        command = [python, __file__, "--worker", name, "--onnx", path, "--tiles", tiles, "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment
        )
        self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "it ended without a word")
        return json.loads(line)

    def ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.answer()

    def end(self) -> None:
        self.process.communicate()
        self.errors.close()


def compare(threads: int, engines: dict[str, str], path: str, tiles: str, runs: int) -> None:
    """Print a table."""
    workers: dict[str, Worker] = {}
    notes = []
    for name, python in engines.items():
        try:
            workers[name] = Worker(python, name, path, tiles, threads)
        except RuntimeError as error:
            notes.append(f"{name}: left out, {error}")
    times: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(runs):
        for name, worker in workers.items():
            times[name].append(worker.ask("run"))
    print(f"\n{threads} thread{'s' * (threads > 1)}, milliseconds a tile")
    print(f"{'':16}  {'wall':>6}  {'cpu':>6}  {'x ours':>6}  {'  '.join(STAGES)}  rest")
    ours = 0.0
    for name, worker in workers.items():
        wall, cpu = 1000 / TILES * np.median(times[name], axis=0)
        ours = ours or wall
        each = [worker.ask("stages") for _ in range(5)]
        spent = [1000 / TILES * statistics.median(one.get(stage, 0.0) for one in each) for stage in (*STAGES, "rest")]
        shown = "  ".join(f"{ms:{len(stage)}.1f}" for ms, stage in zip(spent, (*STAGES, "rest"), strict=True))
        print(f"{name:16}  {wall:6.1f}  {cpu:6.1f}  {wall / ours:6.2f}  {shown}", flush=True)
        worker.end()
    for note in notes:
        print(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openvino", help="a Python that has openvino and numpy")
    parser.add_argument("--runs", type=int, default=15, help="turns of each engine (default 15)")
    parser.add_argument("--threads", type=int, help="only this number")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes to begin")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--onnx", help="the exported file (default: made anew)")
    parser.add_argument("--tiles", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.onnx, options.tiles, options.threads)
        return
    import onnxruntime
    import torch

    from celldetr.model.onnx import export_onnx
    from tile_speed import tissue

    engines = {name: sys.executable for name in TORCH if name != "torch.compile" or options.compile}
    engines |= dict.fromkeys(("ONNX Runtime", INT8), sys.executable)
    if options.openvino:
        engines |= dict.fromkeys(OPENVINO, options.openvino)
        command = [options.openvino, "-c", "import openvino; print(openvino.__version__)"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print("$ python benchmarks/engines.py", *(f"--{name}" for name in ("compile",) if options.compile))
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
        f"{f', openvino {version}' if options.openvino else ''}, {platform.machine()},"
        f" {torch.backends.cpu.get_cpu_capability()}, load average at the start {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = options.onnx or str(export_onnx("small-20x", Path(folder) / "small-20x.onnx"))
        tiles = Path(folder) / "tiles.npy"
        np.save(tiles, np.stack(tissue(TILES, SIDE)).transpose(0, 3, 1, 2))
        for threads in (options.threads,) if options.threads else (1, 2):
            compare(threads, engines, path, str(tiles), options.runs)


if __name__ == "__main__":
    main()
