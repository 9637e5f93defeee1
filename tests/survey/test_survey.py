"""celldetr check says of files what the commands would see, and exits 1 where something is doubtful."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from celldetr.model.output import TileCells, TileModel
from celldetr.outlines import RADII
from celldetr.report.contact_sheet import GAP, OUTLINE, contact_sheet
from celldetr.slide.options import PredictOptions
from celldetr.slide.plan import checked_plan
from celldetr.slide.reader import open_slide
from celldetr.survey.finding import Finding
from celldetr.survey.paths import survey
from corpus.scene import NUCLEI, coco_twin, pixels, points_twin, qupath_twin
from corpus.slides import fluorescence, level, levels_filled_up_to_tiles, pyramid, scene, twin
from helpers.blobs import BlobModel, blob_image, scattered
from helpers.cli import call
from helpers.synthetic import CentroidModel, draw, svs
from helpers.xenium_files import write_bundle


def look(path: Path, mpp: float | None = None, *, pictures: bool = False) -> list[Finding]:
    return survey(path, mpp, CentroidModel, pictures=pictures)


def none() -> TileModel:
    raise AssertionError("labels and bundles need no model")


def test_labels_in_order(tmp_path: Path) -> None:
    (finding,) = survey(qupath_twin(tmp_path), 0.5, none, pictures=True)
    assert (finding.kind, finding.notes, finding.refusal) == ("labels", [], "")
    immune = sum(n.kind == "immune" for n in NUCLEI)
    median = np.median([np.sqrt(4 * n.a * n.b) for n in NUCLEI]) * 0.5
    assert finding.facts == {
        "format": "qupath_geojson",
        "images": "1",
        "size": "240 x 160 px",
        "mpp": "0.5",
        "nuclei": f"{len(NUCLEI)}",
        "median size": f"{median:.1f} um",
        "types": f"tumour {len(NUCLEI) - immune}, immune {immune}",
    }
    assert finding.table()[0] == f"{tmp_path}: labels"
    (picture,) = finding.pictures
    assert picture.outlines is not None  # those of the polygons
    assert np.abs(picture.outlines.min(1) - picture.boxes[:, :2]).max() < 1
    sheet, plain = (np.asarray(contact_sheet([each], 1)) for each in (picture, replace(picture, outlines=None)))
    (x0, y0, x1, _), ring = picture.boxes[0].round().astype(int) + GAP, picture.outlines[0].astype(int) + GAP
    assert (plain[y0, x0:x1] == OUTLINE).all()
    assert not (sheet[y0, x0] == OUTLINE).all()
    assert (sheet[ring[:, 1], ring[:, 0]] == OUTLINE).all(1).mean() > 0.3  # others are a rounding away
    lost = replace(picture, outlines=np.full_like(picture.outlines, np.nan))
    np.testing.assert_array_equal(np.asarray(contact_sheet([lost], 1)), plain)


def test_a_slide_shows_the_outlines_that_a_model_draws(tmp_path: Path) -> None:
    class Drawing(BlobModel):
        def predict_tiles(
            self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None
        ) -> list[TileCells]:
            found = super().predict_tiles(tiles, least_score)
            return [replace(each, radii=np.full((len(each), RADII), 0.5, np.float16)) for each in found]

    tiled = pyramid(tmp_path / "a.tif", blob_image(scattered(9, 500, 500, 40), 500, 500), resolution=(2e4, 2e4))
    (finding,) = survey(tiled, None, Drawing, pictures=True)
    whole, *places = finding.pictures
    assert whole.outlines is None
    for picture in places:
        assert picture.outlines is not None
        low, high = picture.outlines.min(1), picture.outlines.max(1)
        np.testing.assert_allclose((low + high) / 2, (picture.boxes[:, :2] + picture.boxes[:, 2:]) / 2, atol=0.01)
        np.testing.assert_allclose(high - low, (picture.boxes[:, 2:] - picture.boxes[:, :2]) / 2, atol=0.01)
    assert sum(len(picture.boxes) for picture in places) > 3


def test_a_slide_as_prediction_sees_it(tmp_path: Path) -> None:
    (finding,) = look(twin(tmp_path), pictures=True)
    assert (finding.kind, finding.notes, finding.refusal) == ("slide", [], "")
    discs = len(draw(0.125, 0.125)[1])
    assert finding.facts["levels"] == "2 (reductions 1, 4)"
    assert finding.facts["mpp"] == "0.125 (TIFF resolution tags)"
    assert finding.facts["stain"] == "H&E"
    assert finding.facts["nuclei"].startswith(f"{discs} at 1 place, score 0.9")
    assert len(finding.pictures) == 2  # the slide, and its place
    assert sum(len(picture.boxes) for picture in finding.pictures[1:]) >= discs
    (padded,) = look(levels_filled_up_to_tiles(tmp_path))
    assert padded.facts["levels"] == "2 (reductions 1, 4, filled up)"
    assert padded.facts["nuclei"] == finding.facts["nuclei"]


def test_places_are_the_tiles_of_prediction(tmp_path: Path) -> None:
    image = blob_image(scattered(900, 1400, 2100, 40), 1400, 2100)
    tiled = pyramid(tmp_path / "a.tif", image, resolution=(1e4 / 0.5, 1e4 / 0.5))
    (finding,) = survey(tiled, None, BlobModel, pictures=True)
    assert " at 6 places" in finding.facts["nuclei"]
    with open_slide(tiled) as reader:
        plan = checked_plan(reader, BlobModel(), PredictOptions())
        usual = [(tile.height, tile.width) for band in plan.bands for tile in plan.tiles(band)]
    assert [picture.image.shape[:2] for picture in finding.pictures[1:]] == usual
    assert len(usual) == 6


def test_a_small_image_says_nothing_of_the_size_of_its_nuclei(tmp_path: Path) -> None:
    image = blob_image(scattered(500, 420, 610), 420, 610)
    said = []
    for name, part in (("all", image), ("part", image[:150, :150])):
        Image.fromarray(part).save(tmp_path / f"{name}.png")
        (finding,) = survey(tmp_path / f"{name}.png", 0.25, BlobModel)
        said.append("come out small" in "; ".join(finding.notes))
    assert said == [True, False]


def test_slides_that_prediction_refuses_or_doubts(tmp_path: Path) -> None:
    (refused,) = look(fluorescence(tmp_path))
    assert "fluorescence" in refused.refusal
    assert refused.facts["size"] == "1,760 x 1,280 px"
    glass = np.full_like(scene(), (242, 240, 243))
    (empty,) = look(pyramid(tmp_path / "glass.tif", glass, level(glass, 4)))
    assert "no tissue was found" in empty.notes[0]
    (odd,) = look(twin(tmp_path).rename(tmp_path / "a.kfb"))
    assert "software of its scanner" in odd.refusal


def test_a_folder_of_everything(tmp_path: Path) -> None:
    image, _ = draw(0.5, 0.5)
    svs(tmp_path / "a", image, 0.5, 0.5)
    write_bundle(tmp_path / "bundle")
    for name in ("b.kfb", "notes.docx"):
        (tmp_path / name).touch()
    (tmp_path / "c.svs").symlink_to(tmp_path / "gone.svs")
    folder, section, slide = look(tmp_path)
    assert folder.facts == {"sections": "1", "slides": "1", "other files": "1, not looked at (1 .docx)"}
    assert ".kfb" in folder.notes[0]
    assert "c.svs" in folder.notes[0]
    assert (section.kind, slide.kind) == ("section", "slide")
    assert slide.facts["levels"] == "2 (reductions 1, 4)"


def test_a_bundle_as_spatial_sees_it(tmp_path: Path) -> None:
    truth = write_bundle(tmp_path / "bundle")
    (finding,) = survey(tmp_path / "bundle", None, none)
    nuclei = sum(bool(each) for each in truth.nuclei)
    assert finding.facts["format"] == "xenium, version xenium-3.1.0"
    assert finding.facts["nuclei"] == f"{nuclei} of 30 cells have one"
    assert finding.facts["outlines"] == "30 of 30 cells have one"
    assert finding.facts["alignment"] == "none in the bundle"
    about = json.loads((tmp_path / "bundle" / "experiment.xenium").read_text())
    (tmp_path / "bundle" / "experiment.xenium").write_text(json.dumps(about | {"pixel_size": "0,2125"}))
    (odd,) = survey(tmp_path / "bundle", None, none)
    assert "pixel_size '0,2125' is no number" in odd.notes[0]
    (tmp_path / "bundle" / "experiment.xenium").write_text(json.dumps(about))
    (tmp_path / "bundle" / "he_imagealignment.csv").write_text("1,0\n0,1\n")
    (finding,) = survey(tmp_path / "bundle", None, none)
    assert "an alignment is not used" in finding.notes[0]
    # Pixels of 0.425 um, of which the section takes up the first 500 um.
    (tmp_path / "bundle" / "he_imagealignment.csv").write_text("2,0,0\n0,2,0\n0,0,1\n")
    he = np.full((1200, 1200, 3), (230, 180, 210), np.uint8)
    pyramid(tmp_path / "bundle" / "run_he_image.tif", he, resolution=(1e4 / 0.425, 1e4 / 0.425))
    (finding,) = survey(tmp_path / "bundle", None, none)
    assert "100% of the cells fall on run_he_image.tif" in finding.facts["alignment"]
    pyramid(tmp_path / "bundle" / "run_he_image.tif", he[:200, :200])
    (finding,) = survey(tmp_path / "bundle", None, none)
    assert "of the 30 cells fall on the image" in "; ".join(finding.notes)


def test_what_is_doubtful_decides_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "labels.png"
    points_twin(tmp_path / "points")
    assert call("check", tmp_path / "points", "--mpp", 0.5, "--picture", picture) == 0
    assert f"look at it: {picture}" in capsys.readouterr().out
    drawn = np.asarray(Image.open(picture))
    assert drawn.shape[1] >= pixels().shape[1]
    shutil.copy(tmp_path / "points/labels/a.csv", tmp_path / "points/labels/other.csv")
    assert call("check", tmp_path / "points", "--mpp", 0.5) == 1
    assert "doubtful: " in capsys.readouterr().out
    assert call("check", coco_twin(tmp_path / "coco"), "--mpp", 4) == 1
    assert "refused: " in capsys.readouterr().out
