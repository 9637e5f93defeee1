"""A cohort on a cluster: the same files as in one process, whatever becomes of the workers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from celldetr.cohort.coordinator import move_results
from celldetr.cohort.request import Outcome, Request
from celldetr.cohort.run import predict_slides
from celldetr.config import InferenceOptions
from celldetr.errors import InputError
from celldetr.slide.find import Slide, find_slides
from celldetr.slide.options import PredictOptions
from helpers.blobs import blob_image, scattered
from helpers.children import SlowModel, start
from helpers.cluster_children import Cluster, cluster

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

OPTIONS = PredictOptions(tile=128, overlap=32, batch_size=3, mpp=0.5)
OUTPUTS = {"cells.parquet", "run.json", "overview.png", "summary.html", "cells.csv"}
SIZES = [(420, 610), (700, 260), (130, 150), (560, 560)]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    folder = tmp_path_factory.mktemp("slides")
    for i, (height, width) in enumerate(SIZES):
        image = blob_image(scattered(height * width // 500, height, width, seed=i), height, width)
        Image.fromarray(image).save(folder / f"blobs {i}.png")
    return find_slides([folder])


@pytest.fixture(autouse=True)
def discs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in this process is done with discs too."""
    monkeypatch.setattr("celldetr.model.inference.TilePredictor.load", lambda options: SlowModel())
    monkeypatch.setattr("celldetr.report.summary.map_embeddings", lambda table: None)
    monkeypatch.setattr("celldetr.cohort.schedulers.ANSWER", "10s")


def request(out: Path, resume: bool = False, overwrite: bool = False) -> Request:
    return Request(out, InferenceOptions(), OPTIONS, ("csv",), resume, overwrite, task_tiles=4)


@pytest.fixture(scope="module")
def whole(slides: list[Slide], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celldetr.model.inference.TilePredictor.load", lambda options: SlowModel())
        patch.setattr("celldetr.report.summary.map_embeddings", lambda table: None)
        outcomes = list(predict_slides(slides, request(out)))
    assert [outcome.status for outcome in outcomes] == ["complete"] * len(slides)
    return out


def same(out: Path, whole: Path, slides: Sequence[Slide]) -> None:
    """Nothing lost, nothing twice, nothing left over: byte for byte what one process writes."""
    assert {path.name for path in out.iterdir()} == {slide.name for slide in slides}
    for slide in slides:
        directory, reference = out / slide.name, whole / slide.name
        assert {path.name for path in directory.iterdir()} == OUTPUTS
        assert pq.read_table(directory / "cells.parquet").equals(pq.read_table(reference / "cells.parquet"))
        for name in ("cells.parquet", "cells.csv", "overview.png"):
            assert (directory / name).read_bytes() == (reference / name).read_bytes(), f"{slide.name}: {name}"
        runs = [json.loads((path / "run.json").read_text()) for path in (directory, reference)]
        for key in ("status", "cells", "tiles", "read_mm2", "tissue_mm2", "failed_tiles", "warnings", "options"):
            assert runs[0][key] == runs[1][key]


def in_background(work: Callable[[], list[Outcome]]) -> Callable[[], list[Outcome]]:
    """Start work in a thread; returns how to wait for what it gives."""
    results: list[list[Outcome]] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def wait() -> list[Outcome]:
        thread.join(240)
        assert results, "the cohort was not completed"
        return results[0]

    return wait


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_worker_is_killed_and_one_is_stopped(slides: list[Slide], whole: Path, tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken.svs"
    broken.write_text("not a slide")
    with cluster(tmp_path / "cluster", 3, delay=0.08) as there:
        everything = [Slide(broken), *slides]
        wait = in_background(lambda: list(predict_slides(everything, request(out), there.address)))
        until(lambda: min(there.batches(0), there.batches(1)) >= 2)
        there.workers[0].kill()  # -9, in the middle of a region
        os.kill(there.workers[1].pid or 0, signal.SIGSTOP)
        outcomes = {outcome.slide.name: outcome for outcome in wait()}
        assert there.batches(2) > 2
        assert sorted(outcomes) == sorted(slide.name for slide in everything)
        assert (outcomes["broken"].status, outcomes.pop("broken").summary) == ("failed", None)
        assert {outcome.status for outcome in outcomes.values()} == {"complete"}
        same(out, whole, slides)
        os.kill(there.workers[1].pid or 0, signal.SIGCONT)  # wakes up when all is done, and must not touch it
        time.sleep(1.5)
    same(out, whole, slides)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(slides: list[Slide], whole: Path, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    options = ["--mpp", 0.5, "--tile", 128, "--overlap", 32, "--batch-size", 3, "-f", "csv", "-q", "--task-tiles", 4]
    with cluster(tmp_path / "cluster", 2, delay=0.15) as there:
        place = ["-o", out, "--cluster", there.address]
        child = start(["predict", slides[0].path.parent, *place, *options], errors)
        first = out / slides[0].name / "parts"
        until(lambda: len(list(first.glob("found-*.npz"))) >= 2)
        assert child.pid
        os.kill(child.pid, signal.SIGSTOP)  # alive, and does not finish its slide meanwhile, however slow we are
        [other] = predict_slides(slides[:1], request(out, resume=True), there.address)
        assert "in use by another run" in other.reason
        child.kill()
        child.join()
        tiles = sum(log_tiles(there, i) for i in range(2))
        assert 0 < tiles < all_tiles(whole, slides)
        left = len(list(first.glob("found-*.npz")))
        assert left >= 2
        refused = list(predict_slides(slides[:1], request(out), there.address))
        assert "pass `overwrite=True` to replace it, or `resume=True` to continue it" in refused[0].reason
        assert len(list(first.glob("found-*.npz"))) >= left
        outcomes = list(predict_slides(slides, request(out, resume=True), there.address))
        assert {outcome.status for outcome in outcomes} == {"complete"}
        # What was found is not found again, but for regions that were being worked on when the run was killed.
        assert sum(log_tiles(there, i) for i in range(2)) <= all_tiles(whole, slides) + 2 * 2 * 8
        same(out, whole, slides)
        (out / slides[0].name / "cells.csv").unlink()
        before = (out / slides[1].name / "cells.parquet").stat().st_mtime_ns
        again = list(predict_slides(slides, request(out, resume=True), there.address))
        assert {outcome.status for outcome in again} == {"complete"}
        same(out, whole, slides)
        assert (out / slides[1].name / "cells.parquet").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_scheduler_is_lost(
    slides: list[Slide], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with cluster(tmp_path / "cluster", 1, delay=0.1) as there:
        outcomes = predict_slides(slides, request(out), there.address)
        threading.Thread(target=lambda: (until(lambda: there.batches(0) >= 4), there.scheduler.kill())).start()
        with pytest.raises(InputError, match="`resume=True`"):
            list(outcomes)
    assert not list(out.glob("*/.lock"))
    for record in out.glob("*/run.json"):
        assert json.loads(record.read_text())["status"] in ("failed", "complete")
    assert {outcome.status for outcome in predict_slides(slides, request(out, resume=True))} == {"complete"}
    same(out, whole, slides)
    monkeypatch.setattr("celldetr.cohort.schedulers.ANSWER", "1s")
    with pytest.raises(InputError, match="no scheduler answers"):
        list(predict_slides(slides, request(out), there.address))


def log_tiles(there: Cluster, worker: int) -> int:
    """Tiles that a worker's model has seen."""
    return sum(int(line.split()[1]) for line in there.logs[worker].read_text().splitlines())


def all_tiles(whole: Path, slides: Sequence[Slide]) -> int:
    return sum(json.loads((whole / slide.name / "run.json").read_text())["tiles"]["read"] for slide in slides)


def test_a_finished_attempt_is_moved_with_its_stores(tmp_path: Path) -> None:
    attempt, directory = tmp_path / "attempt", tmp_path / "slide"
    for place, text in ((attempt, "new"), (directory, "old")):
        (place / "cells.zarr" / "tables").mkdir(parents=True)
        (place / "cells.zarr" / "zarr.json").write_text(text)
        (place / "cells.parquet").write_text(text)
    (attempt / "run.json").write_text('{"status": "complete"}')
    (directory / "parts").mkdir()
    (directory / "parts" / "band").write_text("kept")
    assert move_results(attempt, directory) == {"status": "complete"}
    assert (directory / "cells.zarr" / "zarr.json").read_text() == "new"
    assert (directory / "cells.parquet").read_text() == "new"
    assert (directory / "parts" / "band").read_text() == "kept"
    assert [path.name for path in attempt.iterdir()] == ["run.json"]
