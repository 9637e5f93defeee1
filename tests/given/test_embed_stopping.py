"""However ``embed`` is stopped, going on gives what an undisturbed run gives, and finished bands are not done again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celldetr.given import embed as given_embed
from celldetr.given.options import EmbedOptions
from celldetr.given.run import embed_slide
from celldetr.model.at_boxes import cells_at_boxes
from helpers.blobs import blob_image, scattered
from helpers.children import start
from helpers.networks import predictor

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")]
MPP, HEIGHT, WIDTH = 0.5, 2600, 300  # four bands of a tile each
OPTIONS = EmbedOptions(mpp=MPP)
OUTPUTS = ("cells.parquet", "cells.csv", "overview.png")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A slide, and the boxes of its cells."""
    folder = tmp_path_factory.mktemp("given")
    points = scattered(700, HEIGHT, WIDTH)
    Image.fromarray(blob_image(points, HEIGHT, WIDTH)).save(folder / "blobs.png")
    points = np.random.default_rng(0).permutation(points)  # the order of the file is not that of the tiles
    lines = ["xmin,ymin,xmax,ymax", *(f"{x - 5},{y - 5},{x + 6},{y + 6}" for x, y in points)]
    (folder / "cells.csv").write_text("\n".join(lines))
    return folder / "blobs.png", folder / "cells.csv"


@pytest.fixture(scope="module")
def whole(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    return embed_slide(
        *given, tmp_path_factory.mktemp("whole"), predictor(), formats=["csv"], options=OPTIONS
    ).directory


def same(folder: Path, whole: Path) -> None:
    assert not (folder / "parts").exists()
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    mine, other = (json.loads((path / "run.json").read_text()) for path in (folder, whole))
    for key in ("status", "cells", "tiles", "warnings", "options"):
        assert mine[key] == other[key]


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_finished_bands_are_not_done_again(
    given: tuple[Path, Path], whole: Path, tmp_path: Path, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == finished + 1 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return cells_at_boxes(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(given_embed, "cells_at_boxes", counted)

    def run() -> Path:
        return embed_slide(*given, tmp_path, predictor(), OPTIONS, formats=["csv"], resume=True).directory

    with pytest.raises(KeyboardInterrupt):
        run()
    record = tmp_path / "blobs" / "run.json"
    assert record.exists() == (finished > 0)  # nothing is left of a run in which nothing was done
    assert not finished or json.loads(record.read_text())["status"] == "interrupted"
    (tmp_path / "again").touch()
    calls.clear()
    same(run(), whole)
    assert len(calls) == 4 - finished


def command(given: tuple[Path, Path], out: Path) -> list[object]:
    return ["embed", given[0], "--cells", given[1], "-o", out, "--mpp", MPP, "-f", "csv", "-q"]


def test_killed_at_any_moment_it_goes_on(given: tuple[Path, Path], tmp_path: Path) -> None:
    # One of the moments at which the disk changes in each sixth of a run: bands, then the table, then all else.
    moments, log = random.Random(3), tmp_path / "log"

    def run(out: Path, die_at: int | None) -> int:
        child = start([*command(given, out), "--resume"], tmp_path / "errors", delay=0, watch=(str(out), log, die_at))
        child.join()
        killed = -signal.SIGKILL if die_at is not None else 0
        assert child.exitcode == killed, (tmp_path / "errors").read_text()
        return len(log.read_text().splitlines())

    total = run(tmp_path / "whole", None)
    for sixth in range(6):
        out = tmp_path / str(sixth)
        run(out, int(total * (sixth + moments.random()) / 6))
        run(out, None)
        same(out / "blobs", tmp_path / "whole" / "blobs")


def test_ctrl_c_says_how_to_go_on(given: tuple[Path, Path], tmp_path: Path) -> None:
    child = start(command(given, tmp_path), tmp_path / "errors", delay=1)
    records, deadline = tmp_path / "blobs" / "parts" / "given.bin", time.monotonic() + 60
    while not (records.exists() and records.stat().st_size and any(records.read_bytes())):
        assert child.exitcode is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # the first band is done, and the second under way
    os.kill(child.pid or 0, signal.SIGINT)
    child.join()
    assert child.exitcode == 130
    said = (tmp_path / "errors").read_text()
    assert said == "interrupted; what is finished is kept, run again with --resume to continue\n"
    run = json.loads((tmp_path / "blobs" / "run.json").read_text())
    assert (run["status"], run["error"]) == ("interrupted", "interrupted by SIGINT")
