"""The engine's promises: no seam shows, a run can be interrupted anywhere, nothing half-written passes for whole."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from celldetr import sample_slide
from celldetr.cells.reader import read_cells, read_embeddings
from celldetr.config import parse
from celldetr.errors import InputError
from celldetr.model.output import TileCells
from celldetr.slide.array import predict_array
from celldetr.slide.band_cache import BandCache
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.engine import RunSummary, SlideProgress
from celldetr.slide.grid import lay_grid
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import read_ahead, usable_threads
from celldetr.slide.reader import from_array, open_slide
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.runs import run_slide

HEIGHT, WIDTH = 420, 610
POINTS = scattered(500, HEIGHT, WIDTH)
IMAGE = blob_image(POINTS, HEIGHT, WIDTH)
SMALL = PredictOptions(tile=128, overlap=32, batch_size=3)


def slide(name: str = "blobs") -> SlideReader:
    return from_array(IMAGE, 0.5, name)


def centres(frame: pd.DataFrame) -> NDArray[np.float64]:
    found = frame[["x_px", "y_px"]].to_numpy()
    return found[np.lexsort(found.T)]


def expected(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.lexsort(points.T)]


# Seams


@given(st.integers(60, 200), st.integers(24, 48), st.integers(0, 300), st.integers(40, WIDTH), st.integers(40, HEIGHT))
@settings(deadline=None, max_examples=12)
def test_any_grid_over_any_size_finds_each_blob_once(tile: int, overlap: int, offset: int, w: int, h: int) -> None:
    inside = POINTS[([w - 8, h - 8] > POINTS).all(1)]
    image = blob_image(inside, h, w)
    options = PredictOptions(tile=tile, overlap=min(overlap, tile // 2), offset=offset, tissue=False)
    frame = predict_array(image, 0.5, BlobModel(), options)
    np.testing.assert_array_equal(centres(frame), expected(inside))
    assert (frame["w_px"] == 10).all()


def test_blobs_exactly_on_the_lines_and_crossings_appear_once() -> None:
    # Tiles of 128 with overlap 32 over 610 px: lines at 112, 208, ... and, pushed back, one in the middle of a wide
    # overlap, where a fixed margin would count twice.
    xs = np.array([112, 208, 304, 400, 490, 545, 593.0])
    ys = np.array([112, 208, 300, 338.0])
    points = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    frame = predict_array(blob_image(points, HEIGHT, WIDTH), 0.5, BlobModel(), SMALL)
    np.testing.assert_array_equal(centres(frame), expected(points))


@pytest.mark.parametrize("mpp", [0.092, 0.2738, 0.75])
def test_any_resolution_puts_cells_where_they_are(mpp: float) -> None:
    scale = 0.5 / mpp
    h, w = round(220 * scale), round(300 * scale)
    model_points = scattered(120, 220, 300, gap=22)
    image = blob_image(model_points * scale, h, w, radius=6 * scale)
    frames = [
        predict_array(image, mpp, BlobModel(), PredictOptions(tile=96, overlap=32, tissue=False, offset=offset))
        for offset in (0, 17.3)
    ]
    for frame in frames:
        found = frame[["x_px", "y_px"]].to_numpy()
        gap = np.abs(found[:, None] - (model_points * scale)[None]).max(2)
        assert sorted(gap.argmin(1)) == list(range(len(model_points)))
        assert gap.min(1).max() < 0.8 * scale
        np.testing.assert_allclose(frame["w_px"], 12 * scale, atol=2.5 * scale)
        np.testing.assert_allclose(frame["x_um"], frame["x_px"] * mpp)


def test_a_region_gives_the_cells_inside_it_and_no_other() -> None:
    region = (130.0, 77.0, 256.0, 190.0)
    frame = predict_array(IMAGE, 0.5, BlobModel(), SMALL.model_copy(update={"region": region, "tissue": False}))
    x, y, w, h = region
    low, high = np.array([x, y]), np.array([x + w, y + h])
    deep = POINTS[((low + 5 < POINTS) & (high - 5 > POINTS)).all(1)]
    found = centres(frame)
    assert ((found >= low) & (found <= high)).all()
    assert {tuple(p) for p in deep} <= {tuple(p) for p in found}
    with pytest.raises(InputError, match=r"700,0,10,10.*610 x 420 px"):
        predict_array(IMAGE, 0.5, BlobModel(), PredictOptions(region=(700, 0, 10, 10)))


@pytest.mark.parametrize("size", [(1, 1), (7, 300)])
def test_images_smaller_than_a_tile(size: tuple[int, int]) -> None:
    model = BlobModel()
    assert len(predict_array(np.full((*size, 3), 255, np.uint8), 0.5, model, PredictOptions(tissue=False))) == 0
    assert model.tiles_seen == 1


# The run directory


def test_a_run_on_disk_equals_the_run_in_memory(tmp_path: Path) -> None:
    summary = run_slide(slide(), BlobModel(), tmp_path, SMALL)
    frame = read_cells(summary.directory)
    pd.testing.assert_frame_equal(frame, predict_array(IMAGE, 0.5, BlobModel(), SMALL))
    assert summary.directory == tmp_path / "blobs"
    assert sorted(p.name for p in summary.directory.iterdir()) == ["cells.parquet", "run.json"]
    assert summary.cells == len(frame) == len(POINTS)
    assert summary.counts == {"red": len(POINTS) // 2, "blue": len(POINTS) - len(POINTS) // 2, "green": 0}
    assert frame["cell_id"].tolist() == list(range(len(frame)))
    assert frame["type"].cat.categories.tolist() == ["red", "blue", "green"]
    np.testing.assert_array_equal(np.stack(frame["embedding"]), read_embeddings(summary.directory))


def test_run_json_says_what_was_done(whole: RunSummary) -> None:
    run = json.loads((whole.directory / "run.json").read_text())
    assert list(run) == [
        "status", "version", "slide", "format", "bytes", "width", "height", "mpp", "mpp_x", "mpp_y", "mpp_source",
        "bounds_px", "model", "types", "options",
        "warnings", "sessions", "started", "ended", "seconds", "speed", "versions", "platform", "tissue_mm2",
        "read_mm2", "tiles", "cells", "failed_tiles",
    ]  # fmt: skip
    assert (run["status"], run["slide"], run["mpp"], run["mpp_source"]) == ("complete", "blobs", 0.5, "given")
    assert run["options"] == SMALL.model_dump(mode="json")
    assert run["cells"] == {"total": len(POINTS), "by_type": whole.counts}
    assert run["tiles"] == {"grid": 35, "read": 35, "failed": 0}
    assert run["read_mm2"] == pytest.approx(HEIGHT * WIDTH * 0.25e-6)
    assert set(run["seconds"]) == {"tissue", "read", "model", "write", "total"}
    assert run["warnings"] == []


def test_progress_starts_at_nothing_and_ends_at_all(tmp_path: Path) -> None:
    seen: list[SlideProgress] = []
    run_slide(slide(), BlobModel(), tmp_path, SMALL, seen.append)
    assert seen[0] == SlideProgress(0, 35, 0.0, 0)
    assert (seen[-1].tiles, seen[-1].cells) == (35, len(POINTS))
    assert seen[-1].mm2 == pytest.approx(HEIGHT * WIDTH * 0.25e-6)
    assert all(a.tiles < b.tiles and a.cells <= b.cells for a, b in pairwise(seen))


def test_tiles_without_tissue_are_not_read(tmp_path: Path) -> None:
    image = np.full((900, 1200, 3), 244, np.uint8)
    image[600:860, 20:280] = blob_image(POINTS[(POINTS < 250).all(1)], 260, 260)
    model = BlobModel()
    summary = run_slide(from_array(image, 0.5), model, tmp_path, SMALL)
    run = json.loads((summary.directory / "run.json").read_text())
    assert run["tiles"]["read"] == model.tiles_seen < run["tiles"]["grid"] / 3
    everything = predict_array(image, 0.5, BlobModel(), SMALL.model_copy(update={"tissue": False}))
    np.testing.assert_array_equal(centres(read_cells(summary.directory)), centres(everything))
    assert summary.tissue_mm2 == pytest.approx(260 * 260 * 0.25e-6, rel=0.1)


def test_windows_cut_to_the_tissue_lose_no_cell() -> None:
    image = np.full((900, 1300, 3), 255, np.uint8)
    for top, left in ((40, 60), (500, 700), (300, 1100)):
        part = image[top : top + 250, left : left + 190]
        part[:] = blob_image(scattered(80, *part.shape[:2], seed=top), *part.shape[:2])
    pixels = []

    class Model(BlobModel):
        def predict_tiles(
            self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None
        ) -> list[TileCells]:
            pixels.append(sum(tile.shape[0] * tile.shape[1] for tile in tiles))
            return super().predict_tiles(tiles)

    options = PredictOptions(tile=256, overlap=64, tissue=True)
    whole = predict_array(image, 0.5, Model(), options.model_copy(update={"tissue": False}))
    read_without = sum(pixels)
    pixels.clear()
    found = predict_array(image, 0.5, Model(), options)
    assert len(found) > 100
    np.testing.assert_array_equal(centres(found), centres(whole))
    assert sum(pixels) < 0.5 * read_without


def test_a_model_of_one_size_of_image_sees_no_other(tmp_path: Path) -> None:
    image = np.full((400, 500, 3), 255, np.uint8)
    image[:150, :330] = IMAGE[:150, :330]
    shapes = set()

    class Model(BlobModel):
        def predict_tiles(
            self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None
        ) -> list[TileCells]:
            shapes.update(tile.shape for tile in tiles)
            return super().predict_tiles(tiles)

    reader, model = from_array(image, 0.5), Model(image_px=160)
    summary = run_slide(reader, model, tmp_path / "fits", PredictOptions())
    assert shapes == {(160, 160, 3)}  # not trimmed to the tissue either
    assert any("tiles are of 160 px" in warning for warning in summary.warnings)
    assert json.loads((summary.directory / "run.json").read_text())["options"]["tile"] == 160
    asked = run_slide(reader, model, tmp_path / "asked", PredictOptions(tile=256))
    assert any("tile=256: this model measures" in warning for warning in asked.warnings)
    with pytest.raises(
        InputError, match=r"`overlap=96` must not exceed half of a tile, which has 160 px .* 80 or less"
    ):
        run_slide(reader, model, tmp_path / "wide", PredictOptions(overlap=96))
    plain = run_slide(reader, BlobModel(), tmp_path / "plain", PredictOptions())
    assert json.loads((plain.directory / "run.json").read_text())["options"]["tile"] == 768
    assert plain.warnings == ()


def test_an_empty_slide_gives_a_valid_empty_table(tmp_path: Path, whole: RunSummary) -> None:
    model = BlobModel()
    summary = run_slide(from_array(np.full((500, 700, 3), 255, np.uint8), 0.5), model, tmp_path, SMALL)
    assert (summary.cells, summary.counts) == (0, {"red": 0, "blue": 0, "green": 0})
    assert "no tissue was found" in summary.warnings[0]
    assert model.calls == 0
    empty, other = (pq.read_schema(s.directory / "cells.parquet") for s in (summary, whole))
    assert empty.remove_metadata() == other.remove_metadata()
    assert read_embeddings(summary.directory).shape == (0, 4)
    assert len(read_cells(summary.directory)) == 0


def test_a_coarse_slide_is_warned_about(tmp_path: Path) -> None:
    part = IMAGE[:100, :100]
    summary = run_slide(from_array(part, 1.2), BlobModel(), tmp_path, SMALL)
    assert "1.2 um per pixel" in summary.warnings[0]
    assert run_slide(from_array(part, 0.7, "fine"), BlobModel(), tmp_path, SMALL).warnings == ()


# Memory


def test_rows_leave_memory_as_bands_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = BandCache.write

    def spy(self: BandCache, band: int, tiles: Any) -> None:
        write(self, band, tiles)
        written.append(sum(len(tile.cells) for tile in tiles))

    monkeypatch.setattr(BandCache, "write", spy)
    held: list[int] = []
    run_slide(slide(), BlobModel(), tmp_path, SMALL, lambda p: held.append(p.cells - sum(written)))
    assert len(written) == 5
    assert sum(written) >= len(POINTS)
    assert max(held) <= max(written)


def test_reading_ahead_is_bounded_and_in_order() -> None:
    class Counting:
        started = 0

        def read_region(self, x: float, y: float, w: float, h: float, ow: int, oh: int) -> NDArray[np.uint8]:
            Counting.started += 1
            return np.full((1, 1, 3), int(x), np.uint8)

    grid = lay_grid((0, 0, 2400, 100), (1.0, 1.0), 64, 0)
    tiles = [grid.tile(0, column) for column in range(len(grid.columns))]
    images = read_ahead(Counting(), tiles, (0.1, 0.1), 5, 2)  # type: ignore[arg-type]
    for i in range(30):
        assert next(images)[0, 0, 0] == int(i * 6.4)
        assert Counting.started <= i + 6
    images.close()
    assert Counting.started <= 36


def test_threads_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert usable_threads() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_threads() == 8


# Interruption


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A run that nothing interrupted."""
    return run_slide(slide(), BlobModel(), tmp_path_factory.mktemp("whole"), SMALL)


@pytest.mark.parametrize(
    ("fail_at", "error"),
    [(0, KeyboardInterrupt()), (1, RuntimeError("x")), (3, KeyboardInterrupt()), (8, RuntimeError("x"))],
)
def test_resuming_gives_the_same_bytes(tmp_path: Path, whole: RunSummary, fail_at: int, error: BaseException) -> None:
    out = tmp_path / "broken"
    with pytest.raises(type(error)):
        run_slide(slide(), BlobModel(fail_at=fail_at, error=error), out, SMALL)
    assert not (out / "blobs" / "cells.parquet").exists()
    assert not (out / "blobs" / ".lock").exists()
    bands_done = fail_at // 3  # seven tiles a band make three batches
    if bands_done == 0:
        assert not (out / "blobs").exists()  # nothing to resume, so nothing is left
    else:
        run = json.loads((out / "blobs" / "run.json").read_text())
        assert run["status"] == ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        assert len(list((out / "blobs" / "parts").iterdir())) == bands_done
        with pytest.raises(InputError, match="not finished"):
            read_cells(out / "blobs")
    model, seen = BlobModel(), []
    resumed = run_slide(slide(), model, out, SMALL, seen.append, resume=True)
    assert seen[0].tiles == 7 * bands_done
    assert model.tiles_seen == 35 - 7 * bands_done
    assert (resumed.directory / "cells.parquet").read_bytes() == (whole.directory / "cells.parquet").read_bytes()
    assert (resumed.cells, resumed.counts) == (whole.cells, whole.counts)
    assert sorted(p.name for p in resumed.directory.iterdir()) == ["cells.parquet", "run.json"]


def test_batch_size_may_change_on_resuming_but_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_slide(slide(), BlobModel(fail_at=5), tmp_path, SMALL)
    for options, model, message in [
        (SMALL.model_copy(update={"tile": 160}), BlobModel(), r"options.tile: 128, now 160"),
        (SMALL, BlobModel(name="other"), r"model.name: 'blobs', now 'other'"),
    ]:
        with pytest.raises(InputError, match=rf"cannot be resumed, the run there differs \({message}\); pass"):
            run_slide(slide(), model, tmp_path, options, resume=True)
    with pytest.raises(InputError, match=r"width: 610, now 600"):
        run_slide(from_array(IMAGE[:, :600], 0.5, "blobs"), BlobModel(), tmp_path, SMALL, resume=True)
    done = run_slide(slide(), BlobModel(), tmp_path, SMALL.model_copy(update={"batch_size": 1}), resume=True)
    assert done.cells == len(POINTS)


def test_a_damaged_or_half_written_band_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_slide(slide(), BlobModel(fail_at=10), tmp_path, SMALL)
    parts = tmp_path / "blobs" / "parts"
    bands = sorted(parts.glob("found-*.npz"))
    assert len(bands) == 3
    bands[1].write_bytes(b"PK half")
    bands[2].with_name(f"{bands[2].name}.tmp").write_bytes(b"half")
    model = BlobModel()
    done = run_slide(slide(), model, tmp_path, SMALL, resume=True)
    assert model.tiles_seen == 21
    assert done.cells == len(POINTS)
    assert not parts.exists()


def test_resuming_what_is_finished_or_not_begun(tmp_path: Path) -> None:
    first = run_slide(slide(), BlobModel(), tmp_path, SMALL, resume=True)
    before = (first.directory / "cells.parquet").stat().st_mtime_ns
    model = BlobModel()
    again = run_slide(slide(), model, tmp_path, SMALL, resume=True)
    assert model.calls == 0
    assert again == first
    assert (first.directory / "cells.parquet").stat().st_mtime_ns == before


def test_existing_output_is_refused_and_replaced_only_when_asked(tmp_path: Path) -> None:
    first = run_slide(slide(), BlobModel(), tmp_path, SMALL)
    for name in ("summary.html", "cells.geojson.gz", "notes.txt"):
        (first.directory / name).write_text("from before")
    for name in ("cells.zarr", "cells.mine"):
        (first.directory / name).mkdir()
    (first.directory / "cells.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"holds a finished run; pass `overwrite=True` to replace it, or `resume=True` to keep"
    ):
        run_slide(slide(), BlobModel(), tmp_path, SMALL)
    with pytest.raises(InputError, match="contradict"):
        run_slide(slide(), BlobModel(), tmp_path, SMALL, resume=True, overwrite=True)
    run_slide(from_array(IMAGE[:200], 0.5, "blobs"), BlobModel(), tmp_path, SMALL, overwrite=True)
    assert sorted(p.name for p in first.directory.iterdir()) == ["cells.mine", "cells.parquet", "notes.txt", "run.json"]
    assert read_cells(first.directory)["y_px"].max() < 200
    with pytest.raises(RuntimeError):
        run_slide(slide("other"), BlobModel(fail_at=5), tmp_path, SMALL)
    with pytest.raises(
        InputError, match=r"holds an unfinished run; pass `overwrite=True` to replace it, or `resume=True` to cont"
    ):
        run_slide(slide("other"), BlobModel(), tmp_path, SMALL)


def test_a_users_own_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "cells.csv").write_text("mine")
    run_slide(slide(), BlobModel(), tmp_path, SMALL, overwrite=True)
    assert (tmp_path / "blobs" / "cells.csv").read_text() == "mine"


def test_the_pixels_of_a_mirax_slide_are_no_place_for_results(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "Slidedat.ini").write_text("[GENERAL]")
    with pytest.raises(InputError, match="holds the pixels of a MIRAX slide; choose another folder"):
        run_slide(slide(), BlobModel(), tmp_path, SMALL)
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["Slidedat.ini"]


def test_a_region_of_a_slide_with_bounds_says_where_it_counts_from(tmp_path: Path) -> None:
    options = SMALL.model_copy(update={"region": (0.0, 0.0, 200.0, 200.0)})
    reader = slide()
    assert not any("region counts" in note for note in run_slide(reader, BlobModel(), tmp_path / "a", options).warnings)
    reader.bounds = (40, 30, 300, 300)
    notes = run_slide(reader, BlobModel(), tmp_path / "b", options).warnings
    assert any("which is at (40, 30)" in note for note in notes)


# The world goes wrong


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    class Nosy(BlobModel):
        def predict_tiles(self, tiles: Any, least_score: float | None = None) -> Any:
            with pytest.raises(InputError, match=r"in use by another run|holds an unfinished run"):
                run_slide(slide(), BlobModel(), tmp_path, SMALL, resume=True)
            return super().predict_tiles(tiles)

    assert run_slide(slide(), Nosy(), tmp_path, SMALL).cells == len(POINTS)
    assert list(tmp_path.rglob(".lock")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["cells.parquet.tmp", "run.json.tmp"])
def test_a_full_disk_is_one_clear_line_and_can_be_resumed(tmp_path: Path, whole: RunSummary, name: str) -> None:
    trap = tmp_path / "blobs" / name

    def set_trap(progress: SlideProgress) -> None:
        if progress.tiles == 14:  # two bands are done
            trap.symlink_to("/dev/full")

    with pytest.raises(InputError, match=r"the disk is full; free some space and run again"):
        run_slide(slide(), BlobModel(), tmp_path, SMALL, set_trap)
    assert not (tmp_path / "blobs" / "cells.parquet.tmp").exists()
    trap.unlink(missing_ok=True)
    run_slide(slide(), BlobModel(), tmp_path, SMALL, resume=True)
    cells = (tmp_path / "blobs" / "cells.parquet").read_bytes()
    assert cells == (whole.directory / "cells.parquet").read_bytes()


def test_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(InputError, match="cannot be written"):
        run_slide(slide(), BlobModel(), tmp_path / "file", SMALL)


# Other input


def test_slides_from_files(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", 0.5) as png:
        summary = run_slide(png, BlobModel(), tmp_path / "out", SMALL)
    np.testing.assert_array_equal(centres(read_cells(summary.directory)), expected(POINTS))
    run = json.loads((summary.directory / "run.json").read_text())
    assert (run["slide"], run["format"], run["bytes"]) == ("a.png", "png", (tmp_path / "a.png").stat().st_size)


def test_sample_slide_shifted_grid_changes_next_to_nothing(tmp_path: Path) -> None:
    region = (900.0, 1200.0, 700.0, 700.0)
    frames = []
    for offset in (0.0, 61.0):
        options = PredictOptions(tile=256, overlap=64, region=region, offset=offset)
        with open_slide(sample_slide()) as cmu:
            summary = run_slide(cmu, BlobModel(mpp=0.499), tmp_path / str(offset), options)
        frames.append(read_cells(summary.directory))
    # Real tissue has dark patches that reach over tiles, and specks nearer to each other than nuclei can be; what is
    # between the two in size must be the same.
    size = [frame[["w_px", "h_px"]] for frame in frames]
    chosen = [f[(s.max(axis=1) < 30) & (s.min(axis=1) > 5)] for f, s in zip(frames, size, strict=True)]
    first, second = ({tuple(row) for row in f[["x_px", "y_px", "w_px", "h_px"]].to_numpy()} for f in chosen)
    assert len(first) > 100
    assert first == second


def test_mpp_in_the_options_must_be_the_slides() -> None:
    with pytest.raises(InputError, match=r"mpp=0.25 in the options, but the slide was opened with 0.5"):
        predict_array(IMAGE, 0.5, BlobModel(), PredictOptions(mpp=0.25))


@pytest.mark.parametrize("values", [{"tile": 64, "overlap": 40}, {"region": (0, 0, 0, 5)}, {"tile": 8}, {"offset": -1}])
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="options: "):
        parse(PredictOptions, values, "options")


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_slide_whose_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from celldetr.api import predict_slide

    path = tmp_path / "\udcff\udcfe.png"
    Image.fromarray(blob_image(scattered(20, 100, 100), 100, 100)).save(path)
    monkeypatch.setattr("celldetr.report.summary.map_embeddings", lambda table: None)
    monkeypatch.setattr("celldetr.model.inference.TilePredictor.load", lambda options: BlobModel())
    summary = predict_slide(path, tmp_path / "out", mpp=0.5, formats=["geojson", "csv"])
    assert summary.cells > 10
    assert summary.directory.parent == tmp_path / "out"
