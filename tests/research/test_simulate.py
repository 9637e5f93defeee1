"""A simulated section: others read it, and what it says of itself is what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.research.simulation.bundle import PIXEL_UM, cell_ids
from celldetr.research.simulation.expression import ExpressionOptions, draw_counts
from celldetr.research.simulation.simulate import ALIGNMENT, BUNDLE, IMAGE, SimulatedTruth, SimulateOptions, simulate
from celldetr.slide.reader import open_slide

MPP = 0.25
TYPES = {"dark": ("A",), "pale": ("B", "C"), "blank": ()}


def reference(seed: int = 0):
    """300 cells of types A, B, C; 60 genes, of which each type has 20 to itself."""
    anndata = pytest.importorskip("anndata")
    import pandas as pd
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    kinds = np.repeat(["A", "B", "C"], 100)
    rates = np.full((300, 60), 0.2)
    for k in range(3):
        rates[k * 100 : (k + 1) * 100, k * 20 : (k + 1) * 20] = 5
    obs = pd.DataFrame({"kind": kinds}, index=[f"r{i}" for i in range(300)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(60)])
    return anndata.AnnData(csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=var)


def sample(name: str, n: int = 40, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 460, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 40, (n, 2))], axis=1).astype(np.float32)
    types = rng.integers(-1, 3, n).astype(np.int64)
    image = rng.integers(100, 255, (500, 500, 3), dtype=np.uint8)
    points = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32)
    return Sample(name, image, MPP, boxes, types, tuple(TYPES), points)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedTruth, list[Sample]]:
    out = tmp_path_factory.mktemp("simulated") / "run"
    samples = [sample("one", seed=1), sample("two", seed=2), sample("three", seed=3)]
    options = SimulateOptions(
        types=TYPES, expression=ExpressionOptions(genes=30), alignment_error_um=10, alignment_error_degrees=0.5
    )
    return out, simulate(samples, reference(), "kind", out, options, seed=5), samples


@pytest.mark.slow
def test_spatialdata_io_reads_the_bundle_and_the_image(made: tuple[Path, SimulatedTruth, list[Sample]]) -> None:
    spatialdata_io = pytest.importorskip("spatialdata_io")
    out, truth, _ = made
    data = spatialdata_io.xenium(
        out / BUNDLE, cells_labels=False, nucleus_labels=False, transcripts=False, morphology_mip=False,
        morphology_focus=False,
    )  # fmt: skip
    cells = data["table"]
    assert cells.obs_names.tolist() == truth.cells["cell_id"].tolist()
    assert cells.var_names.tolist() == truth.facts["genes"]  # without the control probes
    counts = np.asarray(cells.X.sum(axis=1)).ravel()
    np.testing.assert_array_equal(counts, cells.obs["transcript_counts"])
    nuclei = data["nucleus_boundaries"].set_index("cell_id").loc[truth.cells["cell_id"]]
    outlines = data["cell_boundaries"].loc[truth.cells["cell_id"]]
    assert nuclei.geometry.is_valid.all()
    assert outlines.geometry.contains(nuclei.geometry, align=False).all()
    np.testing.assert_allclose(nuclei.geometry.area, cells.obs["nucleus_area"], rtol=1e-3)
    np.testing.assert_allclose(nuclei.geometry.centroid.x, truth.cells["x_um"], atol=1e-3)
    image = spatialdata_io.xenium_aligned_image(out / IMAGE, out / ALIGNMENT)
    assert image.shape == (3, truth.facts["height"], truth.facts["width"])


def test_the_image_has_the_samples_and_its_resolution(made: tuple[Path, SimulatedTruth, list[Sample]]) -> None:
    out, truth, samples = made
    with open_slide(out / IMAGE) as slide:
        assert slide.mpp == pytest.approx(MPP)
        assert slide.warnings == ()
        for given_sample in samples:
            rows = truth.nuclei[truth.nuclei["sample"] == given_sample.name]
            x, y = np.round(rows[["xmin", "ymin"]].to_numpy()[0] - given_sample.boxes[0, :2]).astype(int)
            np.testing.assert_array_equal(slide.read_region(x, y, 500, 500, 500, 500), given_sample.image)


def test_the_true_affine_carries_cells_onto_their_nuclei(made: tuple[Path, SimulatedTruth, list[Sample]]) -> None:
    _, truth, _ = made
    paired = truth.cells[truth.cells["nucleus"] >= 0]
    nuclei = truth.nuclei.iloc[paired["nucleus"]]
    assert nuclei["cell_id"].tolist() == paired["cell_id"].tolist()
    assert nuclei["type"].tolist() == paired["type"].tolist()
    points = paired[["x_um", "y_um"]].to_numpy() @ truth.to_image[:2, :2].T + truth.to_image[:2, 2]
    centres = (nuclei[["xmin", "ymin"]].to_numpy() + nuclei[["xmax", "ymax"]].to_numpy()) / 2
    residual = (points - centres) * MPP
    assert 0.35 < residual.std() < 0.7  # 0.5 um of jitter
    assert np.abs(residual.mean(axis=0)).max() < 0.25


def test_the_alignment_csv_is_off_by_what_was_asked(made: tuple[Path, SimulatedTruth, list[Sample]]) -> None:
    out, truth, _ = made
    to_instrument = np.loadtxt(out / ALIGNMENT, delimiter=",")
    middle = truth.cells[["x_um", "y_um"]].to_numpy().mean(axis=0)
    x, y = (truth.to_image @ [*middle, 1])[:2]
    back = (to_instrument @ [x, y, 1])[:2] * PIXEL_UM
    assert np.linalg.norm(back - middle) == pytest.approx(10, abs=0.01)
    turn = to_instrument[:2, :2] * PIXEL_UM @ truth.to_image[:2, :2]
    assert np.degrees(np.arctan2(turn[1, 0], turn[0, 0])) == pytest.approx(-0.5, abs=0.01)


def test_some_are_missing_on_either_side_and_unknown_types_have_no_cell(
    made: tuple[Path, SimulatedTruth, list[Sample]],
) -> None:
    _, truth, samples = made
    assert len(truth.nuclei) == sum(map(len, samples))
    lonely = truth.nuclei["cell_id"].isna()
    blank = truth.nuclei["type"].isin(["", "blank"])
    assert lonely[blank].all()
    assert 0 < lonely[~blank].mean() < 0.3
    assert (truth.cells["nucleus"] < 0).sum() == round(0.1 * (~blank).sum())
    assert set(truth.cells.loc[truth.cells["type"] == "pale", "reference_type"]) == {"B", "C"}
    assert truth.cells["cell_id"].is_unique


def test_a_seed_is_a_section(made: tuple[Path, SimulatedTruth, list[Sample]], tmp_path: Path) -> None:
    out, truth, samples = made
    assert (out / "truth.json").is_file()
    options = SimulateOptions.model_validate(truth.facts["options"])
    other = simulate(samples, reference(), "kind", tmp_path / "run", options, seed=5)
    assert other.cells.equals(truth.cells)
    for name in ("cells.parquet", "nucleus_boundaries.parquet"):
        assert (tmp_path / "run" / BUNDLE / name).read_bytes() == (out / BUNDLE / name).read_bytes()


def test_counts_are_mixed_as_the_options_say() -> None:
    data = reference()
    rng = np.random.default_rng(0)
    types = ["A"] * 1000 + ["B"] * 1000
    points = np.concatenate([rng.uniform(0, 100, (1000, 2)), rng.uniform(1000, 1100, (1000, 2))])
    genes = [str(name) for name in data.var_names]

    def share_of_b(**options: float) -> float:
        """Of the transcripts of cells of type A, those of the genes of B."""
        chosen = ExpressionOptions(efficiency_sd=0, median_counts=200, **options)
        counts = draw_counts(types, points, data, "kind", genes, chosen, np.random.default_rng(1))
        of_a = np.asarray(counts[:1000].sum(axis=0)).ravel()
        return float(of_a[20:40].sum() / of_a.sum())

    clean = share_of_b(ambient=0, spill=0)
    expected = data.X[:100, 20:40].sum() / data.X[:100].sum()
    assert clean == pytest.approx(expected, abs=0.005)
    # Of the ambient half, half is of B, whose own genes are the rest of its transcripts.
    own = 1 - 2 * expected
    assert share_of_b(ambient=0.5, spill=0) == pytest.approx(0.75 * clean + 0.25 * own, abs=0.01)
    assert share_of_b(ambient=0, spill=0.5) == pytest.approx(clean, abs=0.01)  # neighbours are of the same type


def test_median_counts_and_lonely_cells() -> None:
    data = reference()
    points = np.arange(400)[:, None] * np.array([[100.0, 0.0]])  # no neighbours
    options = ExpressionOptions(median_counts=50)
    genes = [str(name) for name in data.var_names]
    counts = draw_counts(["A"] * 400, points, data, "kind", genes, options, np.random.default_rng(1))
    assert np.median(np.asarray(counts.sum(axis=1))) == pytest.approx(50, abs=6)
    with pytest.raises(InputError, match="no type 'a'"):
        draw_counts(["a"], points[:1], data, "kind", genes, options, np.random.default_rng(1))


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20, unique=True))
def test_cell_ids_are_hexadecimal_digits_shifted(prefixes: list[int]) -> None:
    letters = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
    expected = [f"{prefix:08x}".translate(letters) + "-1" for prefix in prefixes]
    assert cell_ids(np.array(prefixes, dtype=np.uint32)).tolist() == expected


def test_wrong_input_is_named(tmp_path: Path) -> None:
    data = reference()
    with pytest.raises(InputError, match="no samples"):
        simulate([], data, "kind", tmp_path)
    with pytest.raises(InputError, match=r"no type '(dark|blank)'"):
        simulate([sample("one")], data, "kind", tmp_path)
    with pytest.raises(InputError, match="no column 'kinds' in obs; did you mean 'kind'"):
        simulate([sample("one")], data, "kinds", tmp_path)
    with pytest.raises(InputError, match="60 expressed genes"):
        simulate([sample("one")], data, "kind", tmp_path, SimulateOptions(types=TYPES))
