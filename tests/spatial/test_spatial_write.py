"""A set says of each nucleus what its cell said: counted out one by one on a made-up section, and learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.patch_set import PatchSet
from celldetr.errors import InputError
from celldetr.slide.reader import open_slide
from celldetr.spatial.patch_grid import PatchGrid, divide, field_shares, lay_grid
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.section import Nuclei, Section
from celldetr.spatial.write import write_set

anndata = pytest.importorskip("anndata")

MPP = 0.5
AFFINE = np.array([[2.0, 0, 10], [0, 2.0, 20], [0, 0, 1]])  # level-0 px per um: 0.5 um a pixel
TYPES = ("b", "a", "c")  # in the order of the columns of probabilities
OPTIONS: dict[str, Any] = {"mpp": MPP, "px": 40, "regions": 4, "encoding": "png", "min_nuclei": 2, "shard": 7}


class Scene:
    """A section of cells on the left two thirds of an image, with nuclei everywhere, most of them paired."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.size = (420, 300)
        pixels = rng.integers(0, 256, (self.size[1], self.size[0], 3), dtype=np.uint8)
        self.pixels = pixels
        self.image = folder / "he.png"
        Image.fromarray(pixels).save(self.image)
        centres = rng.uniform(4, np.array(self.size) - 4, (700, 2))
        half = rng.uniform(2, 4, (700, 2))
        boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
        self.nuclei = Nuclei(boxes, rng.uniform(0, 1, 700).astype(np.float32), source={"from": "test"})
        inside = np.flatnonzero(self.nuclei.points[:, 0] < 280)
        chosen = rng.permutation(inside)[: int(0.8 * len(inside))]
        points = (self.nuclei.points[inside] - AFFINE[:2, 2]) / 2
        ids = [f"cell-{i}" for i in inside]
        obs = pd.DataFrame(points, columns=["x_um", "y_um"], index=ids)
        cells = anndata.AnnData(np.zeros((len(inside), 1), np.float32), obs=obs)
        self.section = Section("s", cells)
        self.pairs = pd.DataFrame({"nucleus": chosen, "cell_id": [f"cell-{i}" for i in chosen]})
        typed = rng.permutation(inside)[: int(0.9 * len(inside))]
        shares = rng.dirichlet(np.full(3, 0.4), len(typed)).astype(np.float32)
        order = np.sort(shares, axis=1)
        self.types = pd.DataFrame(
            {
                "cell_id": [f"cell-{i}" for i in typed],
                "type": np.array(TYPES)[shares.argmax(1)],
                "probability": order[:, -1],
                "margin": order[:, -1] - order[:, -2],
                "second": np.array(TYPES)[shares.argsort(1)[:, -2]],
            }
            | {f"p: {name}": shares[:, k] for k, name in enumerate(TYPES)}
        )

    def write(self, out: Path, **options: Any) -> Any:
        extra = {k: options.pop(k) for k in ("donor", "spots") if k in options}
        to_image = options.pop("to_image", AFFINE)
        made = WriteOptions.model_validate(OPTIONS | options)
        with open_slide(self.image, MPP) as reader:
            inputs = self.section, reader, self.nuclei, to_image, self.pairs, self.types
            return write_set(*inputs, out, made, **extra)

    def expected(self, nucleus: int) -> tuple[str, float]:
        """Type and confidence of a nucleus, the slow way."""
        pair = self.pairs[self.pairs["nucleus"] == nucleus]
        if not len(pair):
            return "", 1.0
        row = self.types[self.types["cell_id"] == pair["cell_id"].iloc[0]]
        if not len(row) or row["probability"].iloc[0] < 0.5 or row["margin"].iloc[0] < 0.2:
            return "", 1.0
        return str(row["type"].iloc[0]), float(row["probability"].iloc[0])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def made(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> PatchSet:
    out = tmp_path_factory.mktemp("set")
    scene.write(out, donor="d7")
    return PatchSet(out)


def place(sample: Any) -> tuple[int, int]:
    x, y = sample.name.partition("[x=")[2].rstrip("]").split(",y=")
    return int(x), int(y)


def test_every_nucleus_has_what_its_cell_said(scene: Scene, made: PatchSet) -> None:
    assert made.type_names == TYPES
    seen = 0
    points = scene.nuclei.points
    for sample in made:
        x, y = place(sample)
        assert np.array_equal(sample.image, scene.pixels[y : y + 40, x : x + 40])
        own = np.flatnonzero(((points >= (x, y)) & (points < (x + 40, y + 40))).all(1))
        assert len(own) == len(sample)
        shifted = np.clip(scene.nuclei.boxes[own] - (x, y, x, y), 0, 40)
        for nucleus, box in zip(own, shifted, strict=True):
            at = int(np.abs(sample.boxes - box).sum(1).argmin())
            assert sample.boxes[at] == pytest.approx(box, abs=1e-4)
            name, confidence = scene.expected(nucleus)
            assert (TYPES[sample.types[at]] if sample.types[at] >= 0 else "") == name
            assert sample.confidence is not None
            assert sample.confidence[at] == pytest.approx(confidence)
            seen += sample.types[at] >= 0
        assert sample.group == "d7"
    assert seen > 100
    region = made.info.made_with["labelled_by_region"]
    assert seen == sum(sum(counts.values()) for counts in region.values())
    counts = made.info.made_with["counts"]
    told = sum(v for k, v in counts.items() if k not in ("nuclei", "cells", "cells with a type"))
    assert told == counts["nuclei"] == 700  # every nucleus is in one line of the account


def test_patches_lie_where_the_section_does_and_not_over_each_other(scene: Scene, made: PatchSet) -> None:
    places = np.array([place(sample) for sample in made])
    assert len({tuple(p) for p in places.tolist()}) == len(places)
    apart = np.abs(places[:, None] - places[None]).max(2)
    assert (apart[~np.eye(len(places), dtype=bool)] >= 40).all()
    assert places[:, 0].max() + 20 <= 285  # half of a patch at most is beyond the last cells
    assert len(places) >= 25


def test_whole_regions_are_held_out(made: PatchSet) -> None:
    names = [slide.name for slide in made.info.slides]
    assert names == [f"s [region {n}]" for n in (1, 2, 3, 4)]
    sums = [sum(each.values()) for each in made.info.made_with["labelled_by_region"].values()]
    assert max(sums) < 1.6 * min(sums)
    train, val = ({s.name.partition(" [x")[0] for s in PatchSet(made.path, split)} for split in ("train", "val"))
    assert not train & val
    assert len(val) == 1
    for name in names:  # a rectangle that holds no patch of another
        own = np.array([place(s) for s in made if s.name.startswith(name)])
        others = np.array([place(s) for s in made if not s.name.startswith(name)])
        assert not ((others >= own.min(0)) & (others <= own.max(0))).all(1).any()


def test_a_set_that_was_cut_or_is_another_is_replaced(scene: Scene, made: PatchSet, tmp_path: Path) -> None:
    from celldetr.data import patch_writer

    (tmp_path / "steps").mkdir()
    (tmp_path / "report.html").write_text("x")
    closed, real = [], patch_writer.PatchWriter.close_shard

    def stop(self: Any, slides: Any, position: Any) -> None:
        real(self, slides, position)
        closed.append(position)
        if len(closed) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_writer.PatchWriter, "close_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            scene.write(tmp_path, donor="d7")
    scene.write(tmp_path, min_nuclei=6)
    assert scene.write(tmp_path, donor="d7") == made.info
    files = {file.name for file in made.path.iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == files | {"steps", "report.html"}
    for file in made.path.glob("*.arrow"):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()
    assert (tmp_path / "report.html").read_text() == "x"


def test_places_left_out_are_counted_by_reason(scene: Scene, tmp_path: Path) -> None:
    info = scene.write(tmp_path, min_share=0.75, min_nuclei=6)
    left: dict[str, int] = {}
    for slide in info.slides:
        assert slide.places == slide.patches + sum(slide.left_out.values()) == slide.looked_at
        for reason, count in slide.left_out.items():
            left[reason] = left.get(reason, 0) + count
    assert left.keys() == {"few nuclei", "few nuclei with a cell"}
    paired = set(scene.pairs["nucleus"])
    points = scene.nuclei.points
    for sample in PatchSet(tmp_path):
        x, y = place(sample)
        own = np.flatnonzero(((points >= (x, y)) & (points < (x + 40, y + 40))).all(1))
        assert len(own) >= 6
        assert np.mean([n in paired for n in own]) >= 0.75


def test_what_cannot_be_a_set_is_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no nucleus is sure of its type"):
        scene.write(tmp_path / "a", min_probability=1.0)
    with pytest.raises(InputError, match="smaller than a patch"):
        scene.write(tmp_path / "a", px=400)
    with pytest.raises(InputError, match="too few for two regions"):
        scene.write(tmp_path / "a", px=250)
    with pytest.raises(InputError, match="no cell lies in the image"):
        scene.write(tmp_path / "a", to_image=np.array([[2.0, 0, 9e3], [0, 2.0, 0], [0, 0, 1]]))
    with pytest.raises(InputError, match="needs a table of spots"):
        scene.write(tmp_path / "a", composition="spots")
    assert not (tmp_path / "a").exists()


def test_rare_types_and_confidences_can_be_left_out(scene: Scene, tmp_path: Path) -> None:
    counts = scene.write(tmp_path / "all").made_with["labelled_by_region"].values()
    total = {name: sum(each[name] for each in counts) for name in TYPES}
    info = scene.write(tmp_path / "some", confidence=False, min_of_type=max(total.values()))
    assert max(TYPES, key=lambda name: total[name]) in info.types
    assert len(info.types) < len(TYPES)
    assert info.made_with["counts"]["of a type left out"] > 0
    assert PatchSet(tmp_path / "some")[0].confidence is None


def test_patches_at_another_resolution(scene: Scene, tmp_path: Path) -> None:
    info = scene.write(tmp_path, mpp=0.4, px=50)
    assert (info.mpp, info.px) == (0.4, 50)
    sample = PatchSet(tmp_path)[0]
    x, y = place(sample)
    points = scene.nuclei.points
    own = ((points >= (x, y)) & (points < (x + 40, y + 40))).all(1)
    expected = np.clip((scene.nuclei.boxes[own] - (x, y, x, y)) * 1.25, 0, 50)
    assert np.sort(sample.boxes, axis=0) == pytest.approx(np.sort(expected, axis=0), abs=1e-3)


def test_compositions_of_squares_are_means_of_their_cells(scene: Scene, tmp_path: Path) -> None:
    scene.write(tmp_path, composition="cells", spot_um=9.0)  # two by two squares of 10 um
    shares = scene.types.set_index("cell_id")[[f"p: {name}" for name in TYPES]]
    cell_of = dict(zip(scene.pairs["nucleus"], scene.pairs["cell_id"], strict=True))
    points, checked = scene.nuclei.points, 0
    for sample in list(PatchSet(tmp_path))[:8]:
        x, y = place(sample)
        assert sample.spots is not None
        expected = []
        for top in (0, 20):
            for left in (0, 20):
                low = np.array([x + left, y + top])
                own = np.flatnonzero(((points >= low) & (points < low + 20)).all(1))
                rows = [cell_of[n] for n in own if n in cell_of and cell_of[n] in shares.index]
                if rows:
                    expected.append((len(rows), shares.loc[rows].to_numpy().mean(0)))
        assert np.bincount(sample.spots.of[sample.spots.of >= 0]).tolist() == [n for n, _ in expected]
        assert sample.spots.compositions == pytest.approx(np.array([c for _, c in expected]), abs=1e-4)
        checked += len(expected)
    assert checked > 20


def spot_table(rng: np.random.Generator, count: int) -> pd.DataFrame:
    shares = rng.dirichlet(np.ones(2), count).astype(np.float32)
    where = rng.uniform(0, 130, (count, 2))
    table = {"x_um": where[:, 0], "y_um": where[:, 1], "diameter_um": np.full(count, 8.0)}
    return pd.DataFrame(table | {"p: u": shares[:, 0], "p: v": shares[:, 1]})


def test_measured_spots_hold_the_nuclei_within(scene: Scene, tmp_path: Path) -> None:
    table = spot_table(np.random.default_rng(1), 60)
    scene.write(tmp_path, composition="spots", min_nuclei=1, spots=table)
    made = PatchSet(tmp_path)
    assert made.type_names == ("u", "v")
    found = 0
    centres = table[["x_um", "y_um"]].to_numpy() * 2 + (10, 20)
    for sample in made:
        x, y = place(sample)
        assert sample.spots is not None
        assert (sample.types == -1).all()
        for number, composition in enumerate(sample.spots.compositions):
            spot = int(np.abs(table["p: u"] - composition[0]).argmin())
            assert (centres[spot] - 8 >= (x, y)).all()
            assert (centres[spot] + 8 < (x + 40, y + 40)).all()
            at = sample.points[sample.spots.of == number] + (x, y)
            assert (np.linalg.norm(at - centres[spot], axis=1) < 9).all()  # points of boxes that the edge clips move
            found += 1
    assert found > 5
    with pytest.raises(InputError, match="sum to 1"):
        scene.write(tmp_path, composition="spots", spots=table.assign(**{"p: u": 0.9}))


def test_regions_are_of_equal_weight() -> None:
    xs, ys = np.meshgrid(np.arange(20), np.arange(15))
    centres = np.stack([xs.ravel(), ys.ravel()], axis=1).astype(float)
    weights = np.random.default_rng(0).integers(0, 50, len(centres)).astype(float)
    for count in (1, 2, 5, 10):
        region = divide(centres, weights, count)
        sums = np.bincount(region, weights)
        assert len(sums) == count
        assert sums.max() < 1.4 * sums.min()
        assert np.array_equal(region, divide(centres, weights, count))
    assert np.array_equal(np.unique(divide(centres[:3], weights[:3], 10)), [0, 1, 2])


def test_the_field_has_no_holes_and_no_surroundings() -> None:
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 4000)
    ring = 500 + 300 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    grid = lay_grid(ring, np.array([50.0, 50.0]), (1000, 1000))
    shares = field_shares(grid, ring, np.array([10.0, 10.0]))
    centres = grid.corners(np.arange(len(grid))) + 25
    distance = np.linalg.norm(centres - 500, axis=1)
    assert (shares[distance < 260] == 1).all()
    assert (shares[distance > 345] == 0).all()


def test_places_of_points() -> None:
    grid = PatchGrid(np.array([5.0, 0.0]), np.array([10.0, 20.0]), (3, 2))
    points = np.array([[5, 0], [14.9, 19.9], [15, 0], [34.9, 39.9], [35, 0], [4.9, 0], [np.nan, 1]])
    assert grid.place_of(points).tolist() == [0, 0, 1, 5, -1, -1, -1]
    corners: NDArray[np.float64] = grid.corners(np.array([0, 4]))
    assert corners.tolist() == [[5, 0], [15, 20]]
