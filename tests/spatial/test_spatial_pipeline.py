"""All steps by their commands, on a simulated section: what comes out is true, what is finished is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from celldetr.data.sample import Sample
from celldetr.errors import InputError

pytest.importorskip("anndata")
pytest.importorskip("geopandas")


from celldetr.data.patch_set import PatchSet
from celldetr.research.simulation.expression import ExpressionOptions
from celldetr.research.simulation.simulate import SimulatedTruth, SimulateOptions, simulate
from celldetr.spatial import files
from celldetr.spatial.files import read_section_files, read_table, stamp
from celldetr.spatial.pipeline import open_set
from celldetr.spatial.section import PAIRS
from helpers.cli import call

MPP, STEP, SIDE = 0.25, 44, 1000  # nuclei 11 um apart
KINDS = {"dark": ("A",), "pale": ("B",)}
QUICK = ("--set", "write.px=160", "--set", "write.regions=4", "--set", "write.min_of_type=1", "--quiet")


def reference(rng: np.random.Generator):
    """200 cells of types A and B; 40 genes, of which each type has 20 to itself."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    rates = np.full((200, 40), 0.2)
    rates[:100, :20] = rates[100:, 20:] = 5
    obs = pd.DataFrame({"kind": np.repeat(["A", "B"], 100)}, index=[f"r{i}" for i in range(200)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(40)])
    return AnnData(csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=var)


def sample(name: str, rng: np.random.Generator) -> Sample:
    """Nuclei about a grid; the dark type is dark."""
    places = np.stack(np.meshgrid(*[np.arange(30, SIDE - 30, STEP)] * 2), axis=-1).reshape(-1, 2)
    centres = places + rng.uniform(-9, 9, places.shape)
    half = rng.uniform(9, 13, (len(centres), 1))
    types = rng.integers(0, 2, len(centres))
    image = np.full((SIDE, SIDE, 3), 235, dtype=np.uint8)
    for (x, y), radius, kind in zip(centres, half[:, 0], types, strict=True):
        top, left = (max(int(at - radius), 0) for at in (y, x))
        part = image[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        part[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = (90, 60, 150) if kind == 0 else (170, 130, 200)
    boxes = np.hstack([centres - half, centres + half]).astype(np.float32)
    return Sample(name, image, MPP, boxes, types.astype(np.int64), tuple(KINDS), centres.astype(np.float32))


@dataclass(frozen=True)
class Made:
    """A section with its truth, and the files that a user has."""

    folder: Path
    truth: SimulatedTruth

    def command(self, out: Path, *more: object) -> list[str]:
        given = ["spatial", "label", self.folder / "bundle", "--he", self.folder / "he_image.ome.tif", "-o", out]
        given += ["--alignment", self.folder / "he_imagealignment.csv", "--polygons", self.folder / "nuclei.geojson"]
        given += ["--labels", self.folder / "labels.csv"]
        return [str(each) for each in (*given, *more, *QUICK)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("section")
    rng = np.random.default_rng(0)
    options = SimulateOptions(
        types=KINDS, expression=ExpressionOptions(genes=40), alignment_error_um=10, alignment_error_degrees=0.5
    )
    truth = simulate([sample("one", rng), sample("two", rng)], reference(rng), "kind", folder, options, seed=1)
    features = []
    for x0, y0, x1, y1 in truth.nuclei[["xmin", "ymin", "xmax", "ymax"]].to_numpy().tolist():
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "detection"},
            }
        )
    (folder / "nuclei.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    # Types that exist already: transport is tested by itself, and takes long to import.
    labels = truth.cells[["cell_id", "type"]].assign(type=truth.cells["type"].where(truth.cells["type"] != "", "none"))
    labels.to_csv(folder / "labels.csv", index=False)
    return Made(folder, truth)


@pytest.fixture(scope="module")
def finished(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "set"
    assert call(*made.command(out)) == 0
    return out


@pytest.mark.slow
def test_nuclei_get_the_types_of_their_cells(made: Made, finished: Path) -> None:
    true = made.truth.nuclei
    pairs = read_table(finished / "steps" / "pairs.parquet", PAIRS)
    of_pair = true["cell_id"].to_numpy(dtype=object)[pairs["nucleus"]]
    right = of_pair == pairs["cell_id"].to_numpy(dtype=object)
    assert right.mean() > 0.95
    assert right.sum() > 0.95 * true["cell_id"].notna().sum()
    patches = PatchSet(finished)
    assert set(patches.type_names) == set(KINDS)
    agree, known = 0, 0
    for patch in patches:
        for (x0, y0, x1, y1), kind in zip(patch.boxes.astype(int), patch.types, strict=True):
            if kind >= 0 and min(x1 - x0, y1 - y0) > 6:  # not cut by the edge
                middle = patch.image[(y0 + y1) // 2, (x0 + x1) // 2].astype(int)
                agree += (middle[1] < 95) == (patches.type_names[kind] == "dark")
                known += 1
    assert known > 500
    assert agree > 0.95 * known  # by what is seen in the patch, not by what was written into the set


def test_the_report_shows_every_step(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    for title in ("The section", "Quality control", "Types from", "Nuclei of", "Pairs of", "The training set"):
        assert title in page
    assert page.count("data:image/png;base64,") == 4
    assert page.count("data:image/jpeg;base64,") == len(KINDS)
    assert "<script" not in page
    assert "[region 1]" in page


@pytest.mark.slow
def test_what_is_finished_is_kept(made: Made, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "set.json").read_bytes()
    assert call(*made.command(finished)) == 2
    assert "pass --overwrite to replace it, or --resume to keep it" in capsys.readouterr().err
    assert call(*made.command(finished, "--resume")) == 0
    assert capsys.readouterr().out.count("(kept)") == 6
    assert (finished / "set.json").read_bytes() == before
    assert call(*made.command(finished, "--resume", "--set", "write.min_probability=0.9")) == 0
    assert capsys.readouterr().out.count("(kept)") == 5


@pytest.mark.slow
def test_a_step_done_again_makes_later_ones_stale(
    made: Made, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("spatial", "qc", str(finished), "--set", "qc.min_counts=90") == 0
    assert "cells pass" in capsys.readouterr().out
    assert call("spatial", "write", str(finished)) == 2
    assert "step 'type' is out of date; run it first" in capsys.readouterr().err
    assert call("spatial", "report", str(finished)) == 0
    assert "step type is out of date" in capsys.readouterr().err
    assert call(*made.command(finished, "--resume")) == 0  # with the default limits again
    told = capsys.readouterr()
    assert told.out.count("(kept)") == 4  # what stands on the default limits is there still, and is right again
    assert "out of date" not in told.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "qc.min_count=5"], "did you mean 'min_counts'"),
        (["--set", "align.radius_um=0"], "align.radius_um"),
        (["--method", "taco"], "'tacco'"),
        (["--kind", "xeniun"], "'xenium'"),
        (["--direction", "um_to_imag"], "'um_to_image'"),
        (["--level", "ten"], "name that too (--hierarchy)"),
    ],
)
def test_mistakes_are_told(
    made: Made, tmp_path: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*made.command(tmp_path / "set", *change)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


def test_an_image_of_another_section_is_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((made.folder / "nuclei.geojson").read_text())
    rng = np.random.default_rng(3)
    for feature in content["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        moved = ring - ring.mean(0) + rng.uniform(30, [2000, 970])
        feature["geometry"]["coordinates"] = [moved.tolist()]
    other = tmp_path / "other.geojson"
    other.write_text(json.dumps(content))
    assert call(*made.command(tmp_path / "set", "--polygons", str(other))) == 2
    assert "does not look like the same section" in capsys.readouterr().err


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"), open_set(tmp_path, overwrite=True):
        pass


def test_after_a_wrong_bundle_the_corrected_command_is_taken(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert call("spatial", "label", str(tmp_path / "nosuch"), "--he", "tile.png", "-o", str(out)) == 2
    assert "nosuch" in capsys.readouterr().err
    assert call("spatial", "read", str(made.folder / "bundle"), "-o", str(out), "--quiet") == 0


def test_a_step_needs_those_before_it(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("spatial", "qc", str(tmp_path / "set")) == 2
    assert "step 'read' was not run yet" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_set_of_the_version_before_is_made_anew(tmp_path: Path) -> None:
    step = {"fingerprint": "f", "settings": {}, "facts": {}, "seconds": 1.0}
    record = {"format": "celldetr-spatial", "version": 1, "steps": {"read": step}}
    (tmp_path / "spatial.json").write_text(json.dumps(record))
    with (
        pytest.raises(InputError, match=r"of CellDETR 0\.1, which cannot be continued"),
        open_set(tmp_path, resume=True),
    ):
        pass
    with open_set(tmp_path, overwrite=True) as pipeline:
        assert pipeline.done == []


def test_a_run_reads_none_of_its_checkpoints(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("read from disk")

    monkeypatch.setattr(files, "read_section_files", refuse)
    monkeypatch.setattr(files, "read_nuclei", refuse)
    with open_set(tmp_path / "set") as pipeline:
        assert pipeline.read(made.folder / "bundle")
        assert pipeline.qc()
        assert pipeline.annotate(labels=made.folder / "labels.csv")
        assert pipeline.find_nuclei(made.folder / "he_image.ome.tif", polygons=made.folder / "nuclei.geojson")
        assert pipeline.align(made.folder / "he_imagealignment.csv")
        held = pipeline.section, pipeline.types, pipeline.pairs
    monkeypatch.undo()
    with open_set(tmp_path / "set", resume=True) as pipeline:  # another process finds the same on disk
        assert np.array_equal(pipeline.section.points, held[0].points)
        assert pipeline.types.equals(held[1].astype(pipeline.types.dtypes))
        assert np.allclose(pipeline.pairs["distance_um"], held[2]["distance_um"])
    assert read_section_files(tmp_path / "set" / "steps").name == held[0].name


def test_a_stamp_changes_with_content_and_with_files_of_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1")
    before = [stamp(file), stamp(tmp_path)]
    assert before == [stamp(file), stamp(tmp_path)]
    file.write_text("12")
    (tmp_path / "b.csv").write_text("2")
    assert stamp(file) != before[0]
    assert stamp(tmp_path) != before[1]


def test_options_are_printed_and_taken_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("spatial", "options", "--set", "qc.min_counts=7") == 0
    path = tmp_path / "options.yaml"
    path.write_text(capsys.readouterr().out)
    assert call("spatial", "options", "--options", str(path), "--set", "pair.radius_um=4") == 0
    printed = capsys.readouterr().out
    assert "min_counts: 7" in printed
    assert "radius_um: 4" in printed
