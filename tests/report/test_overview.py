"""The picture: its size, its scale bar, its legend, and that it appears whole or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from celldetr.cells.palette import type_colours
from celldetr.cells.reader import open_table
from celldetr.report.overview import (
    INK,
    LARGEST_ZOOM,
    LONG_SIDE,
    count_types,
    draw_overview,
    length_text,
    nice_length,
    picture_size,
    write_overview,
)
from helpers.cell_tables import ArraySlide, random_cells, random_embeddings, write_run


@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_picture_fits_and_keeps_its_shape(width: int, height: int) -> None:
    w, h, scale = picture_size(width, height)
    assert max(w, h) <= LONG_SIDE
    assert 0 < scale <= LARGEST_ZOOM
    assert abs(w - width * scale) <= 1
    assert abs(h - height * scale) <= 1
    if max(width, height) >= LONG_SIDE:
        assert max(w, h) == LONG_SIDE
    elif max(width, height) >= LONG_SIDE / 2:
        assert (w, h) == (width, height)


@given(st.floats(0.01, 1e6))
def test_scale_bars_have_round_lengths(longest: float) -> None:
    length = nice_length(longest)
    assert longest / 2.5 * 0.999 <= length <= longest * 1.001
    assert round(length / 10 ** math.floor(math.log10(length) + 1e-9), 6) in (1, 2, 5)


def test_lengths_are_read_in_their_unit() -> None:
    assert [length_text(v) for v in (0.5, 50, 1000, 2000)] == ["0.5 µm", "50 µm", "1 mm", "2 mm"]


def test_the_scale_bar_is_as_long_as_it_says(run: Path, slide: ArraySlide) -> None:
    table, scale = open_table(run), 1.0
    sheet = np.asarray(draw_overview(np.full((400, 600, 3), 255, dtype=np.uint8), scale, table))
    expected = nice_length(600 * 0.5 / scale / 5) / 0.5  # um -> px
    ink = (sheet == INK).all(axis=-1)
    longest = max(max(map(len, "".join("x" if v else " " for v in row).split()), default=0) for row in ink)
    assert longest == expected


def test_every_type_is_in_the_legend_with_its_count(run: Path, slide: ArraySlide) -> None:
    table = open_table(run)
    counts = random_cells(200, size=(600, 400))["type"].value_counts()
    assert count_types(table).tolist() == [counts[name] for name in table.types]
    picture = np.full((400, 600, 3), 255, dtype=np.uint8)
    legend = np.asarray(draw_overview(picture, 1.0, table))[-40:]
    for colour in type_colours(table.types).values():
        assert (legend == colour).all(axis=-1).sum() > 50


def test_overview_is_written_whole(run: Path, slide: ArraySlide) -> None:
    out = write_overview(run, slide)
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width == 600 * 2.5
    assert sorted(path.name for path in run.iterdir()) == ["cells.parquet", "overview.png", "run.json"]
    assert write_overview(run, slide) == out


def test_a_damaged_slide_leaves_the_old_picture(run: Path, slide: ArraySlide, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_overview(run, slide).read_bytes()

    def broken(*_: object, **__: object) -> None:
        raise OSError("damaged")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="damaged"):
        write_overview(run, slide)
    assert (run / "overview.png").read_bytes() == before
    assert len(list(run.iterdir())) == 3


def test_a_slide_without_cells_is_drawn(empty_run: Path, slide: ArraySlide) -> None:
    with Image.open(write_overview(empty_run, slide)) as image:
        pixels = np.asarray(image)
    assert (pixels[image.height // 2] == slide.pixels[0, 0]).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 4000), (2000, 5), (40, 40)])
def test_odd_slides_and_many_types(tmp_path: Path, shape: tuple[int, int]) -> None:
    types = tuple(f"a rather long name of type number {i}" for i in range(20))
    cells = random_cells(50, types, size=(100, 100))
    run = write_run(tmp_path / ("long name " * 20), cells, random_embeddings(cells, types))
    tiny = ArraySlide(np.full((*shape, 3), 200, dtype=np.uint8))
    with Image.open(write_overview(run, tiny)) as image:
        assert image.width >= 320
        assert image.height > 100
