"""``celldetr explain`` as a user meets it: the figure, which cells are in it, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from celldetr.errors import InputError
from celldetr.explain import choose_cells, run_cells
from celldetr.model.hub import DEFAULT_MODEL
from celldetr.report.attention import Attention, CellRow, attention_figure
from celldetr.slide.reader import open_slide
from helpers.cli import call
from helpers.sample_crop import MPP, crop, save


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An image and its finished run."""
    folder = tmp_path_factory.mktemp("explained")
    image = save(crop(), folder / "crop.png")
    assert call("predict", image, "-o", folder / "out", "--mpp", MPP, "--device", "cpu", "-q") == 0
    return image, folder / "out" / "crop"


@pytest.mark.slow
def test_a_finished_run_is_explained_as_it_was_typed(run, tmp_path, capsys) -> None:
    image, cells = run
    frame = open_and_read(image, cells)
    number = int(frame.sort_values("type_score")["cell_id"].iloc[-1])
    out = tmp_path / "two.png"
    options = ("--cells", cells, "--cell", number, "--cell", 0, "--mpp", MPP, "--device", "cpu", "-q")
    assert call("explain", image, *options, "-o", out) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in told[:2]] == [str(number), "0"]
    row = frame[frame["cell_id"] == number].iloc[0]
    said = told[0].split(": ")[1].split(",")[0].split()  # the image is one tile, in the run as here
    assert said[0] == row["type"]
    assert float(said[1]) == pytest.approx(row["type_score"], abs=0.02)  # the run may be in bfloat16
    assert matplotlib.image.imread(out).shape[0] > 300
    before = out.read_bytes()
    assert call("explain", image, *options, "-o", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_cells_are_found_in_a_region(run, tmp_path, capsys) -> None:
    image, _ = run
    out = tmp_path / "region.svg"
    region = ("--region", 100, 120, 120, 100)
    assert call("explain", image, *region, "--cell", 1, "--mpp", MPP, "-o", out, "--device", "cpu", "-q") == 0
    assert f"cell 1  {DEFAULT_MODEL}: " in capsys.readouterr().out
    assert out.read_text().startswith("<?xml")


def open_and_read(image: Path, cells: Path) -> pd.DataFrame:
    with open_slide(image, MPP) as reader:
        return run_cells(cells, reader)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cells", "RUN", "--cell", 99999, "--mpp", MPP), "99999"),
        (("--cells", "RUN"), "--mpp"),
        (("--cells", "RUN", "--mpp", MPP, "--region", 0, 0, 10, 10), "--region"),
        (("--mpp", MPP, "--region", 290, 0, 20, 20), "300 x 300 px"),
        (("--mpp", MPP, "-o", "figure.jpg"), ".pdf, .png, .svg"),
    ],
)
def test_mistakes_are_one_line(run, options, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    image, cells = run
    given = [{"RUN": cells}.get(option, option) for option in options]
    assert call("explain", image, *given, "--device", "cpu", "-q") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert says in said.err
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_slide_is_refused(run, tmp_path) -> None:
    other = save(crop(width=200), tmp_path / "other.png")
    with pytest.raises(InputError, match="give the run of this slide"):
        open_and_read(other, run[1])
    with open_slide(run[0], MPP / 2) as reader, pytest.raises(InputError, match=rf"resolution of the run, `mpp={MPP}`"):
        run_cells(run[1], reader)


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"cell_id": range(60), "type": rng.choice(["b", "a", "c"], 60)})
    return frame.assign(type_score=rng.integers(0, 8, 60) / 8, type=frame["type"].astype("category"))


def test_default_cells_are_the_surest_and_the_median_of_each_type() -> None:
    frame = table()
    expected = []
    for kind in "abc":
        cells = [(-s, i) for i, t, s in frame[["cell_id", "type", "type_score"]].itertuples(index=False) if t == kind]
        cells.sort()
        expected += [cells[0][1], cells[(len(cells) - 1) // 2][1]]
    assert choose_cells(frame, ())["cell_id"].tolist() == expected
    assert choose_cells(frame.sample(frac=1, random_state=1), ())["cell_id"].tolist() == expected
    assert choose_cells(frame, (7, 3))["cell_id"].tolist() == [7, 3]
    assert choose_cells(frame[frame["cell_id"] == 5], ())["cell_id"].tolist() == [5]
    with pytest.raises(InputError, match="near ones are 57, 58, 59"):
        choose_cells(frame, (60,))
    with pytest.raises(InputError, match="no cell here"):
        choose_cells(frame[:0], ())


def test_dots_have_the_areas_and_places_of_the_points() -> None:
    points = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])
    seen = Attention("t", points, np.array([0.5, 0.1, 0.4]), np.array([4, 16, 4]))
    outline = np.array([[-2.0, 0], [0, -1.5], [1, 1]])
    row = CellRow("cell", np.zeros((8, 8, 3), np.uint8), (6.0, 4.0), (seen, seen), outline)
    figure = attention_figure([row], 16.0, ["one", "two"], {16: "coarse", 4: "fine"})
    assert len(figure.axes) == 3
    dots = figure.axes[2].collections[0]
    sizes, places = dots.get_sizes(), dots.get_offsets()
    assert np.allclose(sizes / sizes.sum(), [0.5, 0.4, 0.1])
    assert np.allclose(places, points[[0, 2, 1]])
    colours = dots.get_facecolors()
    assert (colours[0] == colours[1]).all()
    assert (colours[0] != colours[2]).any()
    tissue, *others = (axes.patches[0].get_xy() for axes in figure.axes)
    assert np.array_equal(tissue[:-1], outline)
    for box in others:  # attention is held to the box
        assert (box.min(0).tolist(), box.max(0).tolist()) == ([-3, -2], [3, 2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fine", "coarse"]
