"""A region of interest takes exactly the cells that filtering the whole slide would leave; what is none is refused."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.reader import read_cells
from celldetr.errors import DataWarning, InputError
from celldetr.model.output import TileCells
from celldetr.slide.array import predict_array
from celldetr.slide.grid import lay_grid
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import from_array, open_slide
from celldetr.slide.roi import join_areas, read_roi, share_of_pixels
from celldetr.slide.seams import REACH_UM, influence
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.runs import run_slide
from helpers.synthetic import SCN_OFFSET, CentroidModel, draw, scn

HEIGHT, WIDTH = 420, 610
POINTS = scattered(500, HEIGHT, WIDTH)
IMAGE = blob_image(POINTS, HEIGHT, WIDTH)
SMALL = PredictOptions(tile=128, overlap=32, batch_size=3)


class Unsteady(BlobModel):
    """Sees each blob up to a pixel away from where it is, differently in every tile, but the same in the same tile."""

    def _find(self, tile: NDArray[np.uint8]) -> TileCells:
        cells = super()._find(tile)
        rng = np.random.default_rng(zlib.crc32(tile.tobytes()))
        shift = rng.uniform(-1, 1, (len(cells), 2)).astype(np.float32)
        return TileCells(cells.boxes + np.tile(shift, 2), cells.scores, cells.probabilities, cells.embeddings)


def even_odd(rings: list[list[tuple[float, float]]], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Crossings of a ray to the right with all rings are odd: the definition, edge by edge."""
    inside = np.zeros(len(points), dtype=bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            if y0 == y1:
                continue
            between = (points[:, 1] >= min(y0, y1)) & (points[:, 1] < max(y0, y1))
            at = x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0)
            inside ^= between & (points[:, 0] < at)
    return inside


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without what is allowed to differ."""
    return frame.drop(columns="cell_id").reset_index(drop=True)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def feature(coordinates: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "5d0b9f0e-3c1f-5c58-9d0a-6a1f3f1f7f0a",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", **properties},
    }


SQUARE = [[100, 100], [300, 100], [300, 250], [100, 250], [100, 100]]
HOLE = [[150, 140], [220, 140], [220, 200], [150, 200], [150, 140]]
FAR = [[400, 300], [500, 310], [450, 400], [400, 300]]


coordinate = st.one_of(
    st.floats(-20, 400).map(lambda value: round(value, 3)),
    # On the lines between tiles of 128 with overlap 32, where two tiles see a blob at two places.
    st.sampled_from([112.0, 208.0, 304.0, 112.4, 207.6, 300.0]),
)
ring = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9, unique=True)


# A lattice with a column and a row on each line between tiles of 128 with overlap 32.
LINES = np.array([16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272, 288, 304.0])
ON_LINES = blob_image(np.stack(np.meshgrid(LINES, LINES), -1).reshape(-1, 2), HEIGHT, WIDTH)
LINED = PredictOptions(tile=128, overlap=32, batch_size=3, tissue=False)


def with_roi(roi: shapely.Geometry, options: PredictOptions) -> PredictOptions:
    return PredictOptions(**options.model_dump() | {"roi": roi})


# Exactly the cells inside


@given(
    st.lists(ring, min_size=1, max_size=3),
    st.sampled_from([(128, 32), (104, 40), (200, 50)]),
    st.integers(0, 90),
    st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_a_roi_is_the_whole_slide_filtered(
    rings: list[list[tuple[float, float]]], tiling: tuple[int, int], offset: int, tissue: bool
) -> None:
    try:
        roi = join_areas([shapely.Polygon(points) for points in rings], "here")
    except InputError:  # no area
        return
    options = PredictOptions(tile=tiling[0], overlap=tiling[1], offset=offset, tissue=tissue)
    part = IMAGE[:250, :330].copy()
    part[60:, 150:300] = 255  # glass, so that tiles are left out or cut to their tissue
    whole = predict_array(part, 0.5, Unsteady(), options)
    wish = with_roi(roi, options)
    if not roi.intersects(shapely.box(0, 0, 330, 250)):
        with pytest.raises(InputError, match="outside the slide"):
            predict_array(part, 0.5, Unsteady(), wish)
        return
    inside = predict_array(part, 0.5, Unsteady(), wish)
    xy = whole[["x_px", "y_px"]].to_numpy()
    wanted = np.any([even_odd([points], xy) for points in rings], axis=0)
    pd.testing.assert_frame_equal(rows(inside), rows(whole[wanted]))


@pytest.mark.parametrize("gap", [0.0, 0.3, 0.6])
def test_edges_along_the_lines_between_tiles(gap: float) -> None:
    # Blobs on the lines themselves: the tile before one may see it outside and keep it, the tile after it inside. The
    # first must be read although it owns nothing of the ROI, or the second would report what the whole slide does not.
    whole = predict_array(ON_LINES, 0.5, Unsteady(), LINED)
    xy = whole[["x_px", "y_px"]].to_numpy()
    close = 0
    for low in (112 + gap, 208 + gap):
        for box in ((low, 0, WIDTH, HEIGHT), (0, low, WIDTH, HEIGHT), (low, low, WIDTH, HEIGHT)):
            inside = predict_array(ON_LINES, 0.5, Unsteady(), with_roi(shapely.box(*box), LINED))
            wanted = (xy >= box[:2]).all(1)
            close += int((np.abs(xy - low).min(1) < 1).sum())
            pd.testing.assert_frame_equal(rows(inside), rows(whole[wanted]))
    assert close > 100


def test_a_hole_is_left_out_and_only_tiles_near_are_read(tmp_path: Path) -> None:
    roi = read_roi(write(tmp_path / "a.geojson", feature([SQUARE, HOLE])))
    model = BlobModel()
    inside = predict_array(IMAGE, 0.5, model, SMALL.model_copy(update={"roi": roi.wkt}))
    whole = predict_array(IMAGE, 0.5, BlobModel(), SMALL)
    wanted = even_odd([[tuple(p) for p in SQUARE], [tuple(p) for p in HOLE]], whole[["x_px", "y_px"]].to_numpy())
    assert 20 < wanted.sum() < 100
    pd.testing.assert_frame_equal(rows(inside), rows(whole[wanted]))
    assert model.tiles_seen < 16
    assert inside["cell_id"].tolist() == list(range(len(inside)))


def test_outlines_belong_to_the_roi() -> None:
    # Blobs lie on whole pixels: some on the outline, some on the edge of the hole.
    points = np.array([[100.0, 60.0], [60.0, 100.0], [80.0, 80.0], [120.0, 120.0], [40.0, 40.0], [141.0, 60.0]])
    image = blob_image(points, 200, 200)
    square, hole = [(40, 40), (140, 40), (140, 140), (40, 140)], [(80, 80), (120, 80), (120, 120), (80, 120)]
    options = PredictOptions(roi=shapely.Polygon(square, [hole]), tissue=False)
    found = predict_array(image, 0.5, BlobModel(), options)
    assert {tuple(p) for p in found[["x_px", "y_px"]].to_numpy()} == {tuple(p) for p in points[:5]}


def test_a_roi_and_a_region_take_what_is_in_both() -> None:
    region = (130.0, 77.0, 256.0, 190.0)
    options = SMALL.model_copy(update={"region": region, "tissue": False})
    whole = predict_array(IMAGE, 0.5, Unsteady(), options)
    roi = shapely.Polygon([(0, 0), (300, 0), (300, 200), (0, 150)])
    both = predict_array(IMAGE, 0.5, Unsteady(), with_roi(roi, options))
    wanted = even_odd([list(roi.exterior.coords)], whole[["x_px", "y_px"]].to_numpy())
    assert 0 < wanted.sum() < len(whole)
    pd.testing.assert_frame_equal(rows(both), rows(whole[wanted]))


@pytest.mark.parametrize(("tile", "width"), [(128, 610), (128, 700), (200, 1500)])
def test_influence_covers_the_longest_chain_of_tiles(tile: int, width: int) -> None:
    grid = lay_grid((0, 0, 2 * width, 3 * width), (2.0, 3.0), tile, tile // 2, 3)
    x, y = influence(grid, 0.5)
    reach = REACH_UM / 0.5
    links = round(x / 2 / reach)
    assert (x, y) == (pytest.approx(links * reach * 2), pytest.approx(links * reach * 3))

    def near(cuts: NDArray[np.float64]) -> int:  # tiles that may keep cells within links * reach of a point
        points = np.linspace(-20, 1640, 16601)
        low, high = cuts[:-1] - reach, cuts[1:]
        return int(((low < points[:, None] + links * reach) & (high > points[:, None] - links * reach)).sum(1).max())

    assert near(grid.columns.cuts) * near(grid.rows.cuts) <= links


# On disk


def test_an_interrupted_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    # The upper edge runs along a line between two bands: what the first keeps outside must be known to the second.
    slide = from_array(ON_LINES, 0.5, "blobs")
    options = with_roi(shapely.Polygon([(30, 112.3), (250, 112.6), (250, 260), (30, 208.4)]), LINED)
    calls = Unsteady()
    whole = run_slide(slide, calls, tmp_path / "whole", options)
    assert whole.cells > 50
    for fail_at in range(1, calls.calls):
        out = tmp_path / str(fail_at)
        with pytest.raises(RuntimeError):
            run_slide(slide, Unsteady(fail_at=fail_at), out, options)
        done = run_slide(slide, Unsteady(), out, options, resume=True)
        assert (done.directory / "cells.parquet").read_bytes() == (whole.directory / "cells.parquet").read_bytes()


def test_resuming_compares_areas_not_files(tmp_path: Path) -> None:
    slide = from_array(IMAGE, 0.5, "blobs")
    first = read_roi(write(tmp_path / "a.geojson", feature([SQUARE])))
    turned = read_roi(write(tmp_path / "b.geojson", [feature([SQUARE[2:4] + SQUARE[:3]], name="x")]))
    other = read_roi(write(tmp_path / "c.geojson", feature([FAR])))
    chosen = {roi: with_roi(roi, SMALL) for roi in (first, turned, other)}
    assert chosen[first] == chosen[turned]
    run_slide(slide, BlobModel(), tmp_path / "out", chosen[first])
    assert run_slide(slide, BlobModel(), tmp_path / "out", chosen[turned], resume=True).cells > 0
    for options in (chosen[other], SMALL):
        with pytest.raises(InputError, match=r"cannot be resumed, the run there differs \(options.roi: 'MULTIPOLYGON"):
            run_slide(slide, BlobModel(), tmp_path / "out", options, resume=True)
    run = json.loads((tmp_path / "out" / "blobs" / "run.json").read_text())
    # What run.json holds makes the same options again.
    assert PredictOptions(**run["options"]) == chosen[first]


def test_messages_about_long_outlines_stay_short(tmp_path: Path) -> None:
    circle = shapely.Point(200, 200).buffer(100, quad_segs=500)
    options = [with_roi(roi, SMALL) for roi in (circle, circle.buffer(1))]
    run_slide(from_array(IMAGE, 0.5, "blobs"), BlobModel(), tmp_path, options[0])
    with pytest.raises(InputError, match=r"options.roi") as error:
        run_slide(from_array(IMAGE, 0.5, "blobs"), BlobModel(), tmp_path, options[1], resume=True)
    assert len(str(error.value)) < 400


def test_tissue_is_measured_inside(tmp_path: Path) -> None:
    image = np.full((900, 1200, 3), 244, np.uint8)
    image[200:800, 300:900] = blob_image(POINTS[(POINTS < 400).all(1)], 600, 600)
    circle = shapely.Point(300, 500).buffer(150, quad_segs=64)  # half of it lies on tissue
    options = with_roi(circle, SMALL)
    summary = run_slide(from_array(image, 0.5), BlobModel(), tmp_path, options)
    assert summary.tissue_mm2 == pytest.approx(circle.area / 2 * 0.25e-6, rel=0.06)  # a mask pixel is 14 px here
    run = json.loads((summary.directory / "run.json").read_text())
    assert run["tiles"]["read"] < run["tiles"]["grid"] / 4
    everywhere = PredictOptions(**options.model_dump() | {"tissue": False})
    area = run_slide(from_array(image, 0.5, "b"), BlobModel(), tmp_path, everywhere).tissue_mm2
    assert area == pytest.approx(circle.area * 0.25e-6, abs=1e-6)
    glass = PredictOptions(**SMALL.model_dump() | {"roi": shapely.box(1090, 100, 1190, 300)})
    empty = run_slide(from_array(image, 0.5, "c"), BlobModel(), tmp_path, glass)
    assert (empty.cells, empty.tissue_mm2) == (0, 0)
    assert "no tissue was found in the ROI" in empty.warnings[0]


@given(st.lists(ring, min_size=1, max_size=1), st.tuples(st.integers(1, 40), st.integers(1, 60)))
@settings(deadline=None, max_examples=25)
def test_shares_of_pixels_add_up_to_the_area(rings: list[list[tuple[float, float]]], shape: tuple[int, int]) -> None:
    try:
        geometry = join_areas([shapely.Polygon(rings[0])], "here")
    except InputError:
        return
    scale = (WIDTH / shape[1], HEIGHT / shape[0])
    share = share_of_pixels(geometry, shape, scale)
    on_slide = shapely.intersection(geometry, shapely.box(0, 0, WIDTH, HEIGHT)).area
    assert float(share.sum() * scale[0] * scale[1]) == pytest.approx(on_slide, rel=1e-3, abs=1e-2)
    centres = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1).reshape(-1, 2) * scale
    settled = (share == 0) | (share == 1)
    assert (even_odd([rings[0]], centres)[settled.ravel()] == (share[settled] == 1)).all()


def test_qupaths_origin_is_the_corner_of_the_bounds(tmp_path: Path) -> None:
    image, centres = draw(0.5, 0.5)
    path = scn(tmp_path / "slide", image, 0.5, 0.5)["path"]
    roi = shapely.box(50, 40, 260.5, 190.5)
    wanted = centres[shapely.intersects_xy(roi, *centres.T)]
    assert len(wanted) >= 5
    for origin, geometry in [("bounds", roi), ("slide", shapely.transform(roi, lambda p: p + SCN_OFFSET))]:
        with open_slide(path) as slide:
            options = PredictOptions(tile=192, roi=geometry, roi_origin=origin)
            summary = run_slide(slide, CentroidModel(), tmp_path / origin, options)
        found = read_cells(summary.directory)[["x_px", "y_px"]].to_numpy() - SCN_OFFSET
        assert len(found) == len(wanted)
        assert np.abs(found[:, None] - wanted[None]).max(2).min(1).max() < 0.5


# Files


@pytest.mark.parametrize(
    "content",
    [
        feature([SQUARE, HOLE]),
        [feature([SQUARE, HOLE])],
        {"type": "FeatureCollection", "features": [feature([SQUARE, HOLE])]},
        {"type": "Polygon", "coordinates": [SQUARE, HOLE]},
        {
            **feature([]),
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [SQUARE, HOLE]}],
            },
        },
        feature([[[*point, 3.5] for point in SQUARE], HOLE[:-1]]),  # z, and a ring left open
        [feature([SQUARE, HOLE]), feature([[[0, 0], [9, 0], [0, 9]]], objectType="detection")],
    ],
)
def test_every_form_that_qupath_writes(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "a.geojson", content)
    expected = shapely.MultiPolygon([shapely.Polygon(SQUARE, [HOLE])])
    assert shapely.equals_exact(read_roi(path), expected, normalize=True)


def test_annotations_are_chosen_by_name_or_class(tmp_path: Path) -> None:
    content = [
        feature([SQUARE], name="left", classification={"name": "Tumor", "color": [200, 0, 0]}),
        feature([FAR], classification={"names": ["Stroma", "Positive"]}),
        feature([HOLE], name="left"),
    ]
    path = write(tmp_path / "a.geojson", content)
    areas = {name: shapely.Polygon(ring).area for name, ring in (("square", SQUARE), ("far", FAR))}
    for name, area in [
        (None, areas["square"] + areas["far"]),  # the hole lies in the square: joined, not counted twice
        ("left", areas["square"]),
        ("Tumor", areas["square"]),
        ("Stroma: Positive", areas["far"]),
        ("Stroma", areas["far"]),
    ]:
        assert read_roi(path, name).area == pytest.approx(area)
    with pytest.raises(InputError, match=r"'Tumour'.*'Tumor'"):
        read_roi(path, "Tumour")


@given(st.lists(ring, min_size=1, max_size=3))
@settings(deadline=None, max_examples=60)
def test_outlines_that_cross_themselves_are_filled_even_odd(
    tmp_path_factory: pytest.TempPathFactory, rings: list[list[tuple[float, float]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "crossing.geojson"
    write(path, feature([[list(point) for point in points] for points in rings]))
    points = np.random.default_rng(0).uniform(-30, 650, (400, 2))
    try:
        roi = read_roi(path)
    except InputError:  # no area
        assert not even_odd(rings, points).any()
        return
    assert shapely.is_valid(roi)
    np.testing.assert_array_equal(shapely.contains_xy(roi, *points.T), even_odd(rings, points))
    # What a run keeps of it is kept for ever.
    text = PredictOptions(roi=roi).roi
    assert text is not None
    assert PredictOptions(roi=text).roi == text
    assert shapely.equals_exact(shapely.from_wkt(text), roi)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not GeoJSON"),
        ("[]", "no annotation"),
        (json.dumps([feature([SQUARE], objectType="cell")]), "1 cells"),
        (json.dumps(feature([1, 2], "Point")), "object 1 is a Point"),
        (json.dumps(feature([[[0, 0], [5, 5], [9, 9]]])), "no area"),
    ],
)
def test_what_is_no_roi_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_roi(path)
    assert "bad.geojson" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.geojson: no such file"):
        read_roi(tmp_path / "none.geojson")
    with pytest.raises(InputError, match="cannot be read"):
        read_roi(tmp_path)
    (tmp_path / "cut.geojson.gz").write_bytes(gzip.compress(b"{}" * 500)[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read_roi(tmp_path / "cut.geojson.gz")


def test_a_roi_of_another_slide_is_refused() -> None:
    options = PredictOptions(roi=shapely.box(5000, 6000, 5100, 6200))
    with pytest.raises(InputError, match=r"5000 to 5100, y 6000 to 6200.*610 x 420 px"):
        predict_array(IMAGE, 0.5, BlobModel(), options)


@pytest.mark.parametrize("roi", ["annotations.geojson", shapely.Point(1, 2)])
def test_options_take_a_geometry_or_its_text(roi: Any) -> None:
    with pytest.raises(ValueError, match="roi"):
        PredictOptions(roi=roi)


def test_the_outline_is_drawn(tmp_path: Path) -> None:
    from celldetr.report.overview import write_overview

    roi = shapely.box(100, 100, 300, 250)
    slide = from_array(IMAGE, 0.5, "blobs")
    pictures = []
    for name, options in (("plain", SMALL), ("roi", with_roi(roi, SMALL))):
        summary = run_slide(slide, BlobModel(), tmp_path / name, options)
        pictures.append(np.asarray(Image.open(write_overview(summary.directory, slide)).convert("RGB")).astype(int))
    # The title of the second is as high, so the same pixel shows the same place.
    scale = pictures[0].shape[1] / WIDTH
    dark = (np.abs(pictures[1] - (20, 20, 24)).sum(-1) < 20) & (np.abs(pictures[0] - (20, 20, 24)).sum(-1) > 60)
    xs = np.flatnonzero(dark.sum(0) > 100 * scale) / scale
    assert xs.min() == pytest.approx(100, abs=3)
    assert xs.max() == pytest.approx(300, abs=3)


def test_tiles_too_close_for_a_roi_are_told() -> None:
    grid = lay_grid((0, 0, 60_000, 60_000), (1.0, 1.0), 80, 40, 0)
    with pytest.raises(InputError, match="`tile"):
        influence(grid, 0.4)
    wide = lay_grid((0, 0, 60_000, 60_000), (1.0, 1.0), 128, 64, 0)
    assert influence(wide, 0.4)[0] < 100


def test_a_roi_beside_the_region_is_an_error() -> None:
    options = SMALL.model_copy(update={"region": (0, 0, 100, 100)})
    options = PredictOptions(**options.model_dump() | {"roi": shapely.box(300, 300, 350, 350)})
    with pytest.raises(InputError, match="`region=0 0 100 100"):
        predict_array(IMAGE, 0.5, BlobModel(0.5), options)


def test_annotations_in_others_and_what_is_to_be_ignored(tmp_path: Path) -> None:
    def annotation(area: shapely.Geometry, name: str, **extra: Any) -> dict[str, Any]:
        properties = {"objectType": "annotation", "classification": json.dumps({"name": name})}
        return {"type": "Feature", "geometry": json.loads(shapely.to_geojson(area)), "properties": properties, **extra}

    hole = annotation(shapely.box(20, 20, 40, 40), "Ignore*")
    inner = annotation(shapely.box(150, 0, 200, 50), "Tumor", childObjects=[hole])
    root = annotation(
        shapely.box(0, 0, 900, 900), "none", childObjects=[annotation(shapely.box(0, 0, 100, 100), "Tumor"), inner]
    )
    root["properties"]["objectType"] = "root"
    path = tmp_path / "roi.json"
    path.write_bytes(json.dumps([root]).encode("utf-16"))
    with pytest.warns(DataWarning, match="1 annotations of the class Ignore"):
        roi = read_roi(path)
    assert roi.area == 100 * 100 + 50 * 50 - 20 * 20
    assert read_roi(path, "Tumor").area == 100 * 100 + 50 * 50


@pytest.mark.parametrize("side", [0.4, 1e-3])
def test_shares_of_the_picture_and_degrees_are_no_region(tmp_path: Path, side: float) -> None:
    area = shapely.box(0.1, 0.1, 0.1 + side, 0.1 + side)
    (tmp_path / "a.geojson").write_text(shapely.to_geojson(area))
    with pytest.raises(InputError, match="smaller than a pixel; expected pixels of full resolution"):
        read_roi(tmp_path / "a.geojson")
