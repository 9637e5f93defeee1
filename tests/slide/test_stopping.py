"""However a run is stopped, what is there is whole, and going on gives what an undisturbed run gives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.blobs import blob_image, scattered
from helpers.children import start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

HEIGHT, WIDTH = 420, 610
OPTIONS = ["--mpp", 0.5, "--tile", 128, "--overlap", 32, "--batch-size", 3, "-f", "geojson", "-f", "csv", "-q"]
OUTPUTS = {"cells.parquet", "run.json", "overview.png", "summary.html", "cells.geojson.gz", "cells.csv"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "blobs.png"
    Image.fromarray(blob_image(scattered(500, HEIGHT, WIDTH), HEIGHT, WIDTH)).save(path)
    return path


@pytest.fixture(scope="module")
def whole(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    child = start(["predict", image, "-o", folder, *OPTIONS], folder / "errors")
    child.join()
    assert child.exitcode == 0, (folder / "errors").read_text()
    return folder / "blobs"


def same(directory: Path, whole: Path) -> None:
    """What must be as if nothing had happened."""
    assert {path.name for path in directory.iterdir()} == OUTPUTS
    for name in ("cells.parquet", "cells.geojson.gz", "cells.csv", "overview.png"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes(), name
    runs = [json.loads((path / "run.json").read_text()) for path in (directory, whole)]
    for key in ("status", "cells", "tiles", "read_mm2", "tissue_mm2", "failed_tiles", "warnings"):
        assert runs[0][key] == runs[1][key]


def whole_files(directory: Path) -> None:
    """What bears its final name at any moment can be read to the end."""
    if (directory / "cells.parquet").exists():
        pq.read_table(directory / "cells.parquet")
    if (directory / "run.json").exists():
        json.loads((directory / "run.json").read_text())
    for band in (directory / "parts").glob("found-*.npz"):
        with np.load(band) as file:
            assert all(len(file[name]) >= 0 for name in file)


@pytest.mark.slow
def test_killed_at_ten_moments_from_the_first_file_to_the_last(image: Path, whole: Path, tmp_path: Path) -> None:
    # Ten of the moments at which the disk changes, a random one of each tenth of a run: while tiles become bands, bands
    # the table, and the table everything else. Resuming is killed, too, before it may end.
    moments, log = random.Random(7), tmp_path / "log"

    def run(out: Path, die_at: int | None) -> list[str]:
        command = ["predict", image, "-o", out, *OPTIONS, "--resume"]
        child = start(command, tmp_path / "errors", delay=0, watch=(str(out), log, die_at))
        child.join()
        done = log.read_text().splitlines()
        killed = die_at is not None and len(done) == die_at + 1
        assert child.exitcode == (-signal.SIGKILL if killed else 0), (tmp_path / "errors").read_text()
        return done

    total = len(run(tmp_path / "whole", None))
    died = set()
    for tenth in range(10):
        out = tmp_path / str(tenth)
        at = int(total * (tenth + moments.random()) / 10)
        done = run(out, at)
        assert len(done) == at + 1
        died.add(done[-1].split("/")[-1].split(".")[0].split("-")[0])
        whole_files(out / "blobs")
        if tenth % 4 == 0:
            run(out, moments.randrange(total))
            whole_files(out / "blobs")
        run(out, None)
        same(out / "blobs", whole)
    assert {"found", "cells", "run"} <= died
    assert died & {"overview", "summary"}


def first_band(out: Path) -> list[Path]:
    return list((out / "blobs" / "parts").glob("found-*-000000.npz"))


def wait_for(child: BaseProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert child.exitcode is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_can_be_resumed_and_says_how(
    image: Path, whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = ["predict", image, "-o", tmp_path, *OPTIONS]
    child = start(command, tmp_path / "errors", delay=0.1)
    wait_for(child, lambda: bool(first_band(tmp_path)))
    os.kill(child.pid or 0, number)
    child.join()
    assert child.exitcode == code
    said = (tmp_path / "errors").read_text()
    assert said == "interrupted; what is finished is kept, run again with --resume to continue\n"
    run = json.loads((tmp_path / "blobs" / "run.json").read_text())
    assert (run["status"], run["error"]) == ("interrupted", f"interrupted by {number.name}")
    assert not (tmp_path / "blobs" / ".lock").exists()
    child = start([*command, "--resume"], tmp_path / "errors")
    child.join()
    assert child.exitcode == 0
    same(tmp_path / "blobs", whole)


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_loses_nothing(image: Path, whole: Path, tmp_path: Path) -> None:
    numbers = signal.SIGTERM, signal.SIGINT
    command = ["predict", image, "-o", tmp_path, *OPTIONS]
    child = start(command, tmp_path / "errors", delay=0.1)
    wait_for(child, lambda: bool(first_band(tmp_path)))
    for number in numbers:
        os.kill(child.pid or 0, number)
        time.sleep(random.Random(number).uniform(0, 0.01))  # into the tidying up
    child.join()
    assert child.exitcode in (128 + numbers[0], 128 + numbers[1])
    whole_files(tmp_path / "blobs")
    assert "Traceback" not in (tmp_path / "errors").read_text()
    child = start([*command, "--resume"], tmp_path / "errors")
    child.join()
    assert child.exitcode == 0
    same(tmp_path / "blobs", whole)


@pytest.mark.slow
def test_a_slide_that_a_living_process_holds_is_not_touched(image: Path, tmp_path: Path) -> None:
    command = ["predict", image, "-o", tmp_path, *OPTIONS]
    first = start(command, tmp_path / "first", stay_at=3)
    wait_for(first, lambda: bool(first_band(tmp_path)))
    files = [tmp_path / "blobs" / ".lock", tmp_path / "blobs" / "run.json", *first_band(tmp_path)]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    for option in ("--resume", "--overwrite"):
        second = start([*command, option], tmp_path / "second")
        second.join()
        assert second.exitcode == 2
    said = (tmp_path / "second").read_text()
    assert said.count(f"in use by another run (process {first.pid} on ") == 2
    assert before == [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    first.kill()
    first.join()
    third = start([*command, "--resume"], tmp_path / "third")
    third.join()
    assert third.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("limit", [8_000, 60_000])
def test_a_disk_that_takes_no_more_stops_the_run_cleanly(image: Path, whole: Path, tmp_path: Path, limit: int) -> None:
    # A file may not grow beyond the limit: the smaller that is, the earlier something fails, and every time another.
    command = ["predict", image, "-o", tmp_path, *OPTIONS]
    child = start(command, tmp_path / "errors", delay=0, limit=limit)
    child.join()
    said = (tmp_path / "errors").read_text()
    assert child.exitcode == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert "cannot be written" in said
    left = tmp_path / "blobs"
    assert not list(left.rglob("*.tmp"))
    whole_files(left)
    child = start([*command, "--resume"], tmp_path / "errors", delay=0)
    child.join()
    assert child.exitcode == 0
    same(left, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of a given size; called again, it gets another."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: str) -> Path:
        again = ["-o", f"remount,size={size}"] if folder.is_mount() else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        if os.geteuid() or subprocess.run(["mount", *again, folder], capture_output=True).returncode:
            pytest.skip("only root makes file systems")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
@pytest.mark.parametrize("size", ["12k", "64k"])
def test_a_disk_that_is_full(
    image: Path, whole: Path, tmp_path: Path, small_disk: Callable[[str], Path], size: str
) -> None:
    out = small_disk(size)
    command = ["predict", image, "-o", out, *OPTIONS]
    child = start(command, tmp_path / "errors", delay=0)
    child.join()
    said = (tmp_path / "errors").read_text()
    assert child.exitcode == 2, said
    assert said.startswith("error: ")
    assert said.endswith("the disk is full; free some space and run again\n")
    assert said.count("\n") == 1, said
    assert not list(out.rglob("*.tmp"))
    whole_files(out / "blobs")
    small_disk("8m")
    child = start([*command, "--resume"], tmp_path / "errors", delay=0)
    child.join()
    assert child.exitcode == 0, (tmp_path / "errors").read_text()
    same(out / "blobs", whole)
