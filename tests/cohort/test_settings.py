"""What --cluster may say, and what a queue is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from celldetr.cohort.options import ClusterSettings
from celldetr.cohort.schedulers import connect, queue_arguments, read_cluster, visible_gpus
from celldetr.errors import InputError


def test_places() -> None:
    assert read_cluster("tcp://10.0.0.1:8786") == "tcp://10.0.0.1:8786"
    assert read_cluster("local") == ClusterSettings(kind="local")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: slrm\njobs: 2", "kind"),
        ("kind: slurm", "exactly one of jobs and adaptive"),
        ("kind: slurm\njobs: 2\nadaptive: {maximum: 3}", "exactly one of jobs and adaptive"),
        ("kind: slurm\njobs: 0", "jobs"),
        ("kind: slurm\njob: 2", "did you mean 'jobs'?"),
        ("kind: local\narguments: {queue: gpu}", "not queue"),
        ("- slurm", "expected a mapping"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_cluster(str(path))


def test_where_jobs_cannot_be_handed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "slurm.yaml"
    path.write_text("kind: slurm\njobs: 2\narguments: {cores: 4, memory: 16GB}\n")
    with pytest.raises(InputError, match="kind slurm needs sbatch, which is not here"):
        read_cluster(str(path))


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"not installed: .* -m pip install .*\[cluster\]'"):
        read_cluster("local")


@pytest.mark.slow
def test_dask_is_loaded_for_a_cluster_only() -> None:
    code = (
        "import sys, celldetr.api, celldetr.cli, celldetr.cohort.run, celldetr.cohort.forecast, celldetr.cohort.table\n"
        "print(*(name for name in ('dask', 'distributed', 'dask_jobqueue') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_worker_is_one_thread_with_all_cores() -> None:
    settings = ClusterSettings(
        kind="slurm", jobs=2, arguments={"cores": 8, "processes": 2, "job_script_prologue": ["module load x"]}
    )
    arguments = queue_arguments(settings)
    assert arguments["worker_extra_args"] == ["--nthreads", "1"]
    assert arguments["job_script_prologue"] == ["export OMP_NUM_THREADS=4", "export MKL_NUM_THREADS=4", "module load x"]


@pytest.mark.parametrize(("kind", "name"), [("slurm", "SLURMCluster"), ("pbs", "PBSCluster"), ("lsf", "LSFCluster")])
def test_the_script_of_a_job(kind: str, name: str) -> None:
    import dask_jobqueue

    memory = {"slurm": {}, "pbs": {}, "lsf": {"lsf_units": "mb"}}[kind]
    settings = ClusterSettings(
        kind=kind,  # type: ignore[arg-type]
        jobs=2,
        arguments={"queue": "gpu", "cores": 8, "memory": "32GB", "walltime": "12:00", "python": "python3", **memory},
    )
    arguments = queue_arguments(settings) | {"scheduler_options": {"dashboard": False, "host": "127.0.0.1"}}
    with getattr(dask_jobqueue, name)(**arguments) as cluster:
        script = cluster.job_script()
    assert "export OMP_NUM_THREADS=8" in script
    command = next(line for line in script.splitlines() if line.startswith("python3"))
    assert command.rstrip().endswith("--nthreads 1")  # the last one counts
    assert "--nworkers" not in command  # one process
    assert "gpu" in script


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, MIG-7")
    assert visible_gpus("auto") == ["2", "MIG-7"]
    assert visible_gpus("cpu") == visible_gpus("cuda:1") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus("cuda") == []


def test_a_worker_that_is_slow_to_end_undoes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    class Slow(distributed.LocalCluster):
        def close(self, timeout: float | None = None) -> None:
            super().close(timeout)
            raise TimeoutError

    started = Slow(n_workers=0, processes=False, dashboard_address=None)
    monkeypatch.setattr("celldetr.cohort.schedulers._start_local", lambda *_: started)
    with connect(ClusterSettings(kind="local")) as client:
        assert client.status == "running"
    assert started.status.name == "closed"
