"""What the server answers, against the tables and images that it is from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from starlette.testclient import TestClient

from celldetr.view.app import ROUTES, build_app
from celldetr.view.cells import SQUARE_UM
from celldetr.view.embeddings import Embeddings
from celldetr.view.kin import Kin
from celldetr.view.pixels import TILE, Pyramid
from celldetr.view.run import ViewedRun
from helpers.view_runs import MPP, SIZE, ViewRun, ellipses, write_view_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ViewRun:
    return write_view_run(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="module")
def client(made: ViewRun) -> Iterator[TestClient]:
    with ViewedRun(made.out, [made.slides]) as run:
        yield TestClient(build_app(run, "t"), base_url="http://127.0.0.1/t/")


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def test_the_run_lists_its_slides(client: TestClient) -> None:
    run = client.get("run").json()
    assert [slide["name"] for slide in run["slides"]] == ["one", "two"]
    assert run["cells"] == 600


def test_a_slide_has_its_size_and_columns(client: TestClient) -> None:
    slide = client.get("slides/1").json()
    assert (slide["width"], slide["height"], slide["finest"]) == (SIZE[0] * MPP, SIZE[1] * MPP, MPP)
    assert slide["missing"] is None
    kinds = {column["name"]: column["kind"] for column in slide["columns"]}
    assert kinds["type"] == "category"
    assert kinds["area_um2"] == kinds["p_stromal"] == "number"
    assert "embedding" not in kinds


def test_tiles_together_are_the_slide(client: TestClient, made: ViewRun) -> None:
    levels = client.get("slides/0").json()["levels"]
    assert levels == 3  # 1500 px are more than two tiles, and fewer than four
    whole = np.full((3 * TILE, 3 * TILE, 3), -1)
    for row in range(3):
        for column in range(3):
            response = client.get(f"slides/0/tiles/{levels - 1}/{column}/{row}")
            whole[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = picture(response.content)
    true = np.asarray(Image.open(made.slides / "one.png")).astype(int)
    assert np.abs(whole[: SIZE[1], : SIZE[0]] - true).mean() < 3
    assert (whole[SIZE[1] + 16 :] > 250).all()  # white outside, but for what JPEG does at the edge
    coarsest = picture(client.get("slides/0/tiles/0/0/0").content)
    small = np.asarray(Image.open(made.slides / "one.png").reduce(4)).astype(int)
    assert (
        np.abs(coarsest[: SIZE[1] // 4 - 1, : SIZE[0] // 4 - 1] - small[: SIZE[1] // 4 - 1, : SIZE[0] // 4 - 1]).mean()
        < 6
    )


@pytest.mark.parametrize(
    ("size", "levels"), [((100.0, 50.0), 1), ((512.0, 10.0), 1), ((513.0, 10.0), 2), ((100_000.0, 50_000.0), 9)]
)
def test_the_coarsest_level_is_one_tile(size: tuple[float, float], levels: int) -> None:
    pyramid = Pyramid(*size, finest=1.0)
    assert pyramid.levels == levels
    assert pyramid.side(0) >= max(size)
    assert pyramid.holds(0, 0, 0)
    assert not pyramid.holds(0, 1, 0)
    assert not pyramid.holds(0, 0, 1)
    assert pyramid.side(levels - 1) == TILE


def test_centres_and_columns_are_those_of_the_table(client: TestClient, made: ViewRun) -> None:
    frame = made.cells["two"]
    centres = np.frombuffer(client.get("slides/1/centres").content, "<f4").reshape(-1, 2)
    np.testing.assert_allclose(centres, frame[["x_px", "y_px"]] * MPP, rtol=1e-6)
    area = np.frombuffer(client.get("slides/1/column?name=area_um2").content, "<f4")
    np.testing.assert_allclose(area, frame["area_um2"], rtol=1e-6)
    assert np.isnan(area).sum() == 60
    slide = client.get("slides/1").json()
    names = next(column["names"] for column in slide["columns"] if column["name"] == "type")
    codes = np.frombuffer(client.get("slides/1/column?name=type").content, "<u2")
    assert client.get("slides/1/column").content == codes.tobytes()  # the first
    assert [names[code] for code in codes] == list(frame["type"])


def test_squares_have_the_outlines_of_all_cells(client: TestClient, made: ViewRun) -> None:
    true = ellipses(made.cells["one"]) * MPP
    seen: list[int] = []
    for row in range(2):
        for column in range(2):
            content = client.get(f"slides/0/outlines/{column}/{row}").content
            n, m = np.frombuffer(content, "<u4", 2)
            rows, ends = np.frombuffer(content, "<u4", 2 * n, offset=8).reshape(2, n)
            points = np.frombuffer(content, "<f4", offset=8 + 8 * n).reshape(m, 2)
            for number, outline in zip(rows, np.split(points, ends[:-1]), strict=True):
                np.testing.assert_allclose(outline[:-1], true[number], atol=1e-3)
                assert (outline[0] == outline[-1]).all()
                centre = made.cells["one"].loc[number, ["x_px", "y_px"]].to_numpy(dtype=float) * MPP
                assert (np.floor(centre / SQUARE_UM) == (column, row)).all()
            seen += rows.tolist()
    assert sorted(seen) == list(range(300))


def test_a_cell_in_full(client: TestClient, made: ViewRun) -> None:
    frame = made.cells["one"]
    cell = client.get("slides/0/cells/7").json()
    assert cell["name"] == "one:7"
    assert cell["values"]["type"] == frame.loc[7, "type"]
    assert cell["values"]["area_um2"] == pytest.approx(frame.loc[7, "area_um2"])
    assert cell["probabilities"] == {
        name: pytest.approx(frame.loc[7, f"p_{name}"]) for name in ("lymphocyte", "epithelial", "stromal")
    }
    area = shapely.Polygon(ellipses(frame.loc[[7]])[0] * MPP).area
    assert shapely.Polygon(cell["outline"]).area == pytest.approx(area, rel=1e-2)
    assert client.get("slides/0/cells/5").json()["values"]["area_um2"] is None


def test_a_crop_shows_its_cell_in_the_middle(client: TestClient) -> None:
    crop = picture(client.get("slides/0/cells/150/crop/144").content)
    assert crop.shape == (144, 144, 3)
    assert np.abs(crop[70:74, 70:74].mean((0, 1)) - (96, 60, 130)).max() < 12


@pytest.mark.parametrize(("scope", "places"), [("all", {0, 1}), ("here", {0}), ("elsewhere", {1})])
def test_kin_are_the_nearest_by_cosine(client: TestClient, made: ViewRun, scope: str, places: set[int]) -> None:
    both = np.concatenate([made.embeddings["one"], made.embeddings["two"]]).astype(float)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    similarity = both @ both[42]
    similarity[42] = -2
    slide = np.repeat([0, 1], 300)
    similarity[~np.isin(slide, list(places))] = -2
    true = np.argsort(-similarity)[:24]
    kin = client.get(f"slides/0/cells/42/kin/{scope}").json()
    assert [(one["slide"], one["row"]) for one in kin] == [(slide[i], i % 300) for i in true]
    np.testing.assert_allclose([one["similarity"] for one in kin], similarity[true], atol=1e-4)
    first = made.cells["one" if kin[0]["slide"] == 0 else "two"].loc[kin[0]["row"]]
    assert (kin[0]["type"], kin[0]["x"]) == (first["type"], pytest.approx(first["x_px"] * MPP))


@pytest.mark.parametrize(
    "path",
    [
        "slides/2", "slides/-1", "slides/one", "slides/0/tiles/3/0/0", "slides/0/tiles/2/3/0", "slides/0/cells/300",
        "slides/0/column?name=embedding", "slides/0/column?name=geometry", "slides/9/column", "slides/9/centres",
        "slides/0/cells/300/crop/144", "slides/0/cells/0/crop/100000", "slides/0/cells/0/kin/everywhere",
        "slides/0/cells/300/kin/all", "../../etc/passwd", "..%2f..%2fapp.py", "static/../app.py", "guard.py",
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (403, 404)


def test_no_route_takes_a_path() -> None:
    assert not [path for path in ROUTES if ":path" in path]
    assert [path for path in ROUTES if ":str" in path] == ["/slides/{slide:int}/cells/{row:int}/kin/{scope:str}"]


def test_cells_are_shown_without_their_slide(made: ViewRun) -> None:
    with ViewedRun(made.out / "one") as run:
        client = TestClient(build_app(run, "t"), base_url="http://127.0.0.1/t/")
        slide = client.get("slides/0").json()
        assert "one.png" in slide["missing"]
        assert (slide["width"], slide["height"]) == (SIZE[0] * MPP, SIZE[1] * MPP)
        assert client.get("slides/0/tiles/0/0/0").status_code == 404


def test_kin_beyond_memory_are_the_same(made: ViewRun) -> None:
    with ViewedRun(made.out) as run:
        held = run.kin.nearest(1, 3, 24, "all")
        assert Kin(run.collection, Embeddings(run.collection, held=0)).nearest(1, 3, 24, "all") == held
        assert len(run.kin.nearest(1, 3, 200, "here")) == 200


def test_empty_tables(tmp_path: Path) -> None:
    made = write_view_run(tmp_path, 0, ("none",))
    with ViewedRun(made.out, [made.slides]) as run:
        client = TestClient(build_app(run, "t"), base_url="http://127.0.0.1/t/")
        assert client.get("slides/0").json()["count"] == 0
        assert client.get("slides/0/centres").content == b""
        assert client.get("slides/0/outlines/0/0").content == bytes(8)


def test_embeddings_are_read_when_the_page_asks(made: ViewRun) -> None:
    with ViewedRun(made.out) as run:
        assert run.embeddings.read()[1] == 2
        held = run.embeddings.of(1)
        assert held is not None
        np.testing.assert_array_equal(held.vectors, made.embeddings["two"])
        np.testing.assert_allclose(held.scales, 1 / np.linalg.norm(held.vectors.astype(float), axis=1), rtol=1e-3)
        assert Embeddings(run.collection, held=held.vectors.nbytes).of(1) is None  # there is room for the first only
