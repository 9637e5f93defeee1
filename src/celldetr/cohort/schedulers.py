"""Where tasks are done: processes of this machine, a scheduler that is running, or jobs of Slurm, PBS or LSF.

dask.distributed does the work and is imported here only, when a cluster is asked for.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celldetr.cohort.options import ClusterSettings
from celldetr.config import parse
from celldetr.errors import InputError, install
from celldetr.io.safe_io import read_yaml
from celldetr.model.cpu_caches import limit_caches

if TYPE_CHECKING:
    from distributed import Client

GIGABYTES = 2.5  # of memory a worker on a CPU: model, tiles, and a slide's table while it is joined
SCHEMES = ("tcp://", "tls://", "ucx://")
# Of a kind: the class of dask_jobqueue, and the program that hands in jobs.
QUEUES = {"slurm": ("SLURMCluster", "sbatch"), "pbs": ("PBSCluster", "qsub"), "lsf": ("LSFCluster", "bsub")}
ANSWER = "20s"  # in which a scheduler should answer
SILENT = logging.CRITICAL
INSTALL = install("cluster")


def read_cluster(text: str) -> str | ClusterSettings:
    """Read ``local``, the address of a scheduler (``tcp://host:8786``), or a YAML file of ``ClusterSettings``.

    Raises:
        InputError: none of these, or what it needs is not installed.
    """
    _need("distributed")
    if text.startswith(SCHEMES):
        return text
    if text == "local":
        return ClusterSettings(kind="local")
    if Path(text).suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"`cluster={text!r}`: expected local, tcp://HOST:PORT of a scheduler, or a YAML file")
    settings = parse(ClusterSettings, read_yaml(Path(text)), text)
    if settings.kind != "local":
        _need("dask_jobqueue")
        kind, program = settings.kind, QUEUES[settings.kind][1]
        if shutil.which(program) is None:
            raise InputError(f"{text}: kind {kind} needs {program}, which is not here; run where jobs are handed in")
    return settings


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"`cluster` needs {module}, which is not installed: {INSTALL}") from None


@contextmanager
def connect(cluster: str | ClusterSettings, device: str = "auto") -> Iterator[Client]:
    """A client of a cluster (``read_cluster``), which is started if need be, and then ended with it.

    ``device`` of the models decides how many processes a machine should have.

    Raises:
        InputError: no scheduler answers, or the arguments of a YAML file are wrong.
    """
    distributed = _need("distributed")
    # It warns of each worker that comes late or goes, which is provided for.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with ExitStack() as stack:
        if isinstance(cluster, str):
            try:
                client = stack.enter_context(distributed.Client(cluster, timeout=ANSWER, set_as_default=False))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"`cluster={cluster}`: no scheduler answers ({' '.join(str(error).split())})"
                ) from None
        else:
            started = _start_local(cluster, device) if cluster.kind == "local" else _start_queue(cluster)
            ending = stack.enter_context(_ending(started))
            client = stack.enter_context(distributed.Client(ending, set_as_default=False))
        yield client


@contextmanager
def _ending(cluster: Any) -> Iterator[Any]:
    """A cluster that was started, and is ended. A worker that is slow to die, on a busy machine, undoes nothing."""
    try:
        yield cluster
    finally:
        with suppress(TimeoutError):
            cluster.close()


def _start_local(settings: ClusterSettings, device: str) -> Any:
    """A process a GPU, each of which sees its own only; without GPUs, as many as cores and memory allow."""
    dask, distributed = _need("dask"), _need("distributed")

    gpus = visible_gpus(device)
    cores, memory = _need("dask.system").CPU_COUNT, _need("distributed.system").MEMORY_LIMIT  # that we may use
    fitting = max(1, min(cores, int(memory / 1e9 / GIGABYTES)))
    count = settings.jobs or len(gpus) or fitting
    threads = int(settings.arguments.get("threads") or max(1, cores // count))
    host, common = "127.0.0.1", {"nthreads": 1, "memory_limit": None, "preload": [__name__], "silence_logs": SILENT}
    workers = {}
    for i in range(count):
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        workers[i] = {"cls": distributed.Nanny, "options": {"host": host, "env": environment, **common}}
    scheduler = {"cls": distributed.Scheduler, "options": {"host": host, "port": 0, "dashboard_address": f"{host}:0"}}
    # Without this the variables of this process, which are of all cores, would win.
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):
        return distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=SILENT)


def dask_setup(worker: Any) -> None:
    """Run by dask in each worker of ``--cluster local`` before PyTorch is loaded, whose caches are bounded.

    Ctrl-C, which a terminal sends to all processes, is left to the command: it ends its workers in order.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_caches()


def visible_gpus(device: str) -> list[str]:
    """Names of the CUDA devices to share out, as ``CUDA_VISIBLE_DEVICES`` takes them; none if one was asked for."""
    if device not in ("auto", "cuda"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _start_queue(settings: ClusterSettings) -> Any:
    """Jobs of a queue. A worker takes one task at a time and uses all cores of its process for it."""
    jobqueue = _need("dask_jobqueue")
    name, _ = QUEUES[settings.kind]
    try:
        cluster = getattr(jobqueue, name)(**queue_arguments(settings))
    except (TypeError, ValueError) as error:
        raise InputError(f"`cluster`: arguments of {name}: {' '.join(str(error).split())}") from None
    if settings.adaptive is not None:
        cluster.adapt(minimum_jobs=settings.adaptive.minimum, maximum_jobs=settings.adaptive.maximum)
    else:
        cluster.scale(jobs=settings.jobs)
    return cluster


def queue_arguments(settings: ClusterSettings) -> dict[str, Any]:
    """The arguments of the file, and what makes a worker one thread of dask's and all cores of ours."""
    arguments = dict(settings.arguments)
    processes = arguments.setdefault("processes", 1)  # dask_jobqueue's default grows with the cores
    threads = max(1, int(arguments.get("cores") or 1) // int(processes))
    arguments.setdefault("scheduler_options", {"dashboard_address": ":0"})  # any port: there may be another run's
    arguments["worker_extra_args"] = ["--nthreads", "1", *arguments.get("worker_extra_args", [])]
    exports = [f"export {name}={threads}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    arguments["job_script_prologue"] = [*exports, *arguments.get("job_script_prologue", [])]
    return arguments
