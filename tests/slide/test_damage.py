"""A slide that is damaged in places: the places are named everywhere, and all the rest is found."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from celldetr import cli, sample_slide
from celldetr.cells.reader import read_cells
from celldetr.errors import InputError
from celldetr.report.marks import HATCH
from celldetr.report.overview import write_overview
from celldetr.slide.band_cache import BandCache, DetectedTile
from celldetr.slide.damage import TILE_SMALLEST, DamageError, read_around
from celldetr.slide.engine import RunSummary
from celldetr.slide.grid import Tile
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import open_slide
from celldetr.slide.seams import REACH_UM
from celldetr.slide.tissue import find_tissue
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.runs import run_slide

HEIGHT, WIDTH = 420, 610
IMAGE = blob_image(scattered(500, HEIGHT, WIDTH), HEIGHT, WIDTH)
SMALL = PredictOptions(tile=128, overlap=32, batch_size=3)
COLUMNS = ["x_px", "y_px", "w_px", "h_px", "type"]


def scratch(path: Path, *tiles: int) -> Path:
    """Overwrite tiles of the first page of a TIFF, all of them if none is named."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for tile in tiles or range(len(places)):
        offset, count = places[tile]
        content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    return path


def tiled(path: Path, compression: str = "jpeg", **options: Any) -> Path:
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression=compression, tile=(64, 64), **options)
    return path


def predict(path: Path, out: Path, **options: Any) -> RunSummary:
    with open_slide(path, 0.5) as slide:
        return run_slide(slide, BlobModel(), out, SMALL, **options)


@pytest.mark.parametrize(("compression", "tiles"), [("jpeg", (0, 69)), ("zlib", (33, 34, 43))])
def test_all_but_the_damaged_places_is_found(tmp_path: Path, compression: str, tiles: tuple[int, ...]) -> None:
    whole = read_cells(predict(tiled(tmp_path / "a.tif", compression), tmp_path / "whole").directory, COLUMNS)
    summary = predict(scratch(tmp_path / "a.tif", *tiles), tmp_path / "out")
    found = read_cells(summary.directory, COLUMNS)
    failed = summary.failed_tiles
    lost = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for t in failed:
        lost[round(t.y_px) : round(t.y_px + t.h_px), round(t.x_px) : round(t.x_px + t.w_px)] = True
    damaged = np.zeros((640, 640), dtype=bool)  # tiles of 64 px, ten in a row
    for tile in tiles:
        damaged[64 * (tile // 10) :, 64 * (tile % 10) :][:64, :64] = True
    damaged = damaged[:HEIGHT, :WIDTH]
    assert lost[damaged].all()
    near = ndimage.binary_dilation(damaged, np.ones((3, 3)), iterations=TILE_SMALLEST)
    assert not lost[~near].any()
    assert sum(t.mm2 for t in failed) == pytest.approx(lost.sum() * 0.25e-6)
    x, y = found["x_px"].to_numpy().astype(int), found["y_px"].to_numpy().astype(int)
    deep = ndimage.binary_erosion(lost, np.ones((3, 3)), iterations=int(REACH_UM / 0.5))
    assert not deep[y, x].any()
    # What is further from the lost places than a cell is large is found as if nothing were wrong.
    x, y = whole["x_px"].to_numpy().astype(int), whole["y_px"].to_numpy().astype(int)
    far = ~ndimage.binary_dilation(lost, np.ones((3, 3)), iterations=12)
    assert len(whole[far[y, x]]) > 200
    assert len(whole[far[y, x]].merge(found, on=COLUMNS)) == len(whole[far[y, x]])
    assert len(found.merge(whole, on=COLUMNS)) == len(found)


def test_the_places_are_in_run_json_and_the_table(tmp_path: Path) -> None:
    summary = predict(scratch(tiled(tmp_path / "a.tif"), 33), tmp_path / "out")
    run = json.loads((summary.directory / "run.json").read_text())
    assert run["status"] == "partial"
    places = run["failed_tiles"]
    assert set(places[0]) == {"row", "column", "x_px", "y_px", "w_px", "h_px", "mm2", "reason"}
    assert places[0]["reason"].startswith("cannot read ")
    assert run["tiles"] == {"grid": 35, "read": 35, "failed": len(places)}
    lost = sum(place["w_px"] * place["h_px"] for place in places) * 0.25e-6
    assert run["read_mm2"] == pytest.approx(HEIGHT * WIDTH * 0.25e-6 - lost, abs=1e-6)
    assert f"in {len(places)} tiles could not be decoded" in run["warnings"][-1]
    assert read_cells(summary.directory).attrs["celldetr"]["failed_tiles"] == len(places)


def test_a_partial_run_is_finished(tmp_path: Path) -> None:
    path = scratch(tiled(tmp_path / "a.tif"), 33)
    first = predict(path, tmp_path / "out")
    assert predict(path, tmp_path / "out", resume=True) == first
    with pytest.raises(InputError, match="holds a finished run"):
        predict(path, tmp_path / "out")
    tiled(path)  # a better copy; as long as the damaged one, so only the user knows
    assert predict(path, tmp_path / "out", resume=True) == first
    assert predict(path, tmp_path / "out", overwrite=True).failed_tiles == ()


def test_failed_tiles_of_an_interrupted_run_are_kept(tmp_path: Path) -> None:
    path = scratch(tiled(tmp_path / "a.tif"), 13, 33, 66)
    whole = predict(path, tmp_path / "whole")
    with open_slide(path, 0.5) as slide, pytest.raises(KeyboardInterrupt):
        run_slide(slide, BlobModel(fail_at=6, error=KeyboardInterrupt()), tmp_path / "out", SMALL)
    resumed = predict(path, tmp_path / "out", resume=True)
    assert resumed.failed_tiles == whole.failed_tiles
    files = [summary.directory / "cells.parquet" for summary in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_slide_without_any_whole_tile_is_an_error(tmp_path: Path) -> None:
    path = scratch(tiled(tmp_path / "a.tif"))
    with pytest.raises(InputError, match=r"a.tif.*35 tiles") as error:
        predict(path, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_one_bad_strip_does_not_take_the_others_along(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="zlib", rowsperstrip=20)
    scratch(path, 10)
    with open_slide(path, 0.5) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, 200, WIDTH, 200), IMAGE[:200])
        with pytest.raises(DamageError):
            slide.read_region(0, 190, WIDTH, 20, WIDTH, 20)
        np.testing.assert_array_equal(slide.read_region(0, 220, WIDTH, 200, WIDTH, 200), IMAGE[220:])


# Reading around damage


def test_reading_around_loses_little_more_than_the_damage(tmp_path: Path) -> None:
    path = scratch(tiled(tmp_path / "a.tif", "zlib"), 33)  # column 3, row 3
    with open_slide(path, 0.5) as slide:
        pixels, lost = read_around(slide, 0, 0, WIDTH, HEIGHT, WIDTH, HEIGHT)
    damaged = np.zeros((HEIGHT, WIDTH), dtype=bool)
    damaged[192:256, 192:256] = True
    assert lost[damaged].all()
    grown = np.zeros_like(damaged)
    grown[192 - 8 : 256 + 8, 192 - 8 : 256 + 8] = True
    assert not lost[~grown].any()
    np.testing.assert_array_equal(pixels[~lost], IMAGE[~lost])
    assert (pixels[lost] == 255).all()


def test_where_the_thumbnail_is_damaged_there_may_be_tissue(tmp_path: Path) -> None:
    path = tmp_path / "glass.tif"
    tifffile.imwrite(path, np.full((640, 640, 3), 243, np.uint8), photometric="rgb", compression="jpeg", tile=(64, 64))
    with open_slide(path, 0.5) as slide:
        assert not find_tissue(slide).mask.any()
    with open_slide(scratch(path, 44), 0.5) as slide:
        tissue = find_tissue(slide)
    assert tissue.touches(np.array([[260.0, 260, 310, 310]])).all()
    assert tissue.mask.mean() < 0.2
    assert not tissue.core.any()


# The sample slide, through OpenSlide


@pytest.fixture(scope="module")
def scratched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample slide with one of its 130 tiles of 240 px (13 rows of 10) overwritten, the sixth of the fifth row."""
    path = tmp_path_factory.mktemp("scratched") / "scratched.svs"
    path.write_bytes(sample_slide().read_bytes())
    return scratch(path, 45)


def test_openslide_goes_on_after_damage(scratched: Path) -> None:
    with open_slide(scratched) as damaged, open_slide(sample_slide()) as whole:
        for _ in range(2):
            with pytest.raises(DamageError, match=r"scratched.svs.*1250, 1000"):
                damaged.read_region(1250, 1000, 100, 100, 100, 100)
            np.testing.assert_array_equal(
                damaged.read_region(900, 1000, 100, 100, 100, 100), whole.read_region(900, 1000, 100, 100, 100, 100)
            )


def test_threads_do_not_see_each_others_damage(scratched: Path) -> None:
    corners = [(x, y) for y in range(720, 1440, 120) for x in range(960, 1680, 120)] * 3
    with open_slide(scratched) as damaged, open_slide(sample_slide()) as whole, ThreadPoolExecutor(8) as pool:

        def agrees(corner: tuple[int, int]) -> bool:
            try:
                pixels = damaged.read_region(*corner, 120, 120, 120, 120)
            except DamageError:
                return 1200 <= corner[0] < 1440 and 960 <= corner[1] < 1200
            return bool((pixels == whole.read_region(*corner, 120, 120, 120, 120)).all())

        assert all(pool.map(agrees, corners))


def test_a_slide_that_vanishes_is_not_taken_for_a_damaged_one(scratched: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.svs"
    path.write_bytes(scratched.read_bytes())
    with open_slide(path) as slide:
        path.unlink()
        with pytest.raises(InputError, match="cannot be read any more") as error:
            slide.read_region(1250, 1000, 100, 100, 100, 100)
    assert not isinstance(error.value, DamageError)


@pytest.fixture
def blob_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line without the network."""
    monkeypatch.setattr("celldetr.model.inference.TilePredictor.load", lambda options: BlobModel(mpp=0.499))


@pytest.mark.slow
@pytest.mark.usefixtures("blob_weights")
def test_the_command_line_names_the_places_and_says_partial(
    scratched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celldetr.report.summary.map_embeddings", lambda table: None)  # takes longer than all the rest
    region = ["--region", "1100", "860", "400", "400"]
    command = ["celldetr", "predict", str(scratched), "-o", str(tmp_path), "--tile", "256", "-q", *region]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 3
    out, err = capsys.readouterr()
    assert "cells (" in out
    assert "0.028 mm² in 4 tiles" in err
    assert err.count("missing: ") == 4
    monkeypatch.setattr("sys.argv", [*command, "--resume"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 3
    folder = tmp_path / "scratched"
    assert {p.name for p in folder.iterdir()} == {
        "cells.parquet", "run.json", "overview.png", "summary.html",
    }  # fmt: skip
    run = json.loads((folder / "run.json").read_text())
    page = (folder / "summary.html").read_text()
    assert "<h2>Not decoded</h2>" in page
    for tile in run["failed_tiles"]:
        assert f"<td>{tile['x_px']:,.0f}</td><td>{tile['y_px']:,.0f}</td>" in page


@pytest.mark.slow
def test_the_overview_is_hatched_where_nothing_is_known(scratched: Path, tmp_path: Path) -> None:
    options = PredictOptions(tile=256, region=(1100, 860, 400, 400))
    red = []
    for path in (scratched, sample_slide()):
        with open_slide(path) as slide:
            directory = run_slide(slide, BlobModel(mpp=0.499), tmp_path, options).directory
            pixels = np.asarray(Image.open(write_overview(directory, slide)).convert("RGB"))
        red.append((pixels == HATCH).all(2).sum())
    assert red[0] > 1000
    assert red[1] == 0


def test_found_bands_remember_what_failed(tmp_path: Path) -> None:
    tiles = [Tile(0, column, 0, 0, 64, 64, (0, 0, 1, 1)) for column in range(3)]
    seen = BlobModel().predict_tiles([IMAGE[:64, :64]] * 2)
    (tmp_path / "parts").mkdir()
    cache = BandCache(tmp_path, {"options": {}})
    bands = [
        [DetectedTile(tiles[0], seen[0]), DetectedTile(tiles[1], None, (0, 0, 64, 64), "bad"),
         DetectedTile(tiles[2], seen[1], (0, 32, 64, 64), "half")],
        [DetectedTile(tile, None, (0, 0, 64, 64), "bad") for tile in tiles],
    ]  # fmt: skip
    for band, items in enumerate(bands):
        cache.write(band, items)
        back = cache.read(band, tiles)
        assert back is not None
        assert [(i.tile, i.lost, i.reason) for i in back] == [(i.tile, i.lost, i.reason) for i in items]
        for got, written in zip(back, items, strict=True):
            assert (got.cells is None) == (written.cells is None)
            if got.cells is not None and written.cells is not None:
                np.testing.assert_array_equal(got.cells.boxes, written.cells.boxes)
                np.testing.assert_array_equal(got.cells.embeddings, written.cells.embeddings)
