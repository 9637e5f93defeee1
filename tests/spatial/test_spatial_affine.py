"""Maps between frames: algebra as properties, files as Xenium Explorer writes them, and mistakes that are named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celldetr.errors import InputError
from celldetr.spatial import affine as af

# From 10x Genomics' knowledge base (35386990499853): H&E pixel (0, 0) is at (807.98, 73097.66) of the morphology image.
KB = [[0.011071028838929093, 1.2895790134339569, 807.9788953065927],
      [-1.2895790134339569, 0.011071028838929093, 73097.655174759],
      [0, 0, 1]]  # fmt: skip


def built(angle: float, sx: float, sy: float, shear: float, mirrored: bool, x: float, y: float) -> np.ndarray:
    """A map from its parts: it scales, shears, turns, then moves."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    out = np.eye(3)
    out[:2, :2] = np.array([[c, -s], [s, c]]) @ np.array([[1, shear], [0, 1]]) @ np.diag([sx, -sy if mirrored else sy])
    out[:2, 2] = x, y
    return out


scales = st.floats(0.05, 20)
maps = st.builds(
    built,
    st.floats(-179, 179),
    scales,
    scales,
    st.floats(-0.5, 0.5),
    st.booleans(),
    st.floats(-1e5, 1e5),
    st.floats(-1e5, 1e5),
)


@given(maps, st.integers(0, 2**31))
def test_fit_finds_the_map(affine: np.ndarray, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 1e4, (8, 2))
    found, residuals = af.fit_affine(points, af.apply(affine, points), "points")
    assert np.allclose(af.apply(found, points), af.apply(affine, points), rtol=1e-7, atol=1e-3)
    assert residuals.max() < 1e-3


def test_xenium_explorers_matrix_maps_image_pixels_to_morphology_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x_he_imagealignment.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in KB))
    to_image = af.to_image(af.read_affine(path))
    # The H&E's corner, in the micrometres that the article works out for it (pixels times 0.2125).
    assert np.allclose(af.apply(to_image, [[807.9788953065927 * 0.2125, 73097.655174759 * 0.2125]]), 0, atol=1e-6)
    assert af.um_per_pixel(to_image) == pytest.approx(1.2896 * 0.2125, rel=1e-3)
    assert np.allclose(af.to_image(KB, "xenium_to_image", inverse=True), to_image)


@pytest.mark.slow
def test_spatialdata_io_reads_the_same_direction(tmp_path: Path) -> None:
    sdio = pytest.importorskip("spatialdata_io")
    tifffile = pytest.importorskip("tifffile")
    from spatialdata.transformations import get_transformation

    matrix = tmp_path / "m.csv"
    matrix.write_text("\n".join(",".join(map(str, row)) for row in KB))
    tifffile.imwrite(tmp_path / "a_he_image.ome.tif", np.zeros((16, 16, 3), np.uint8), photometric="rgb")
    image = sdio.xenium_aligned_image(tmp_path / "a_he_image.ome.tif", matrix)
    theirs = get_transformation(image, "global").to_affine_matrix(("x", "y"), ("x", "y"))  # image -> morphology pixels
    point = np.array([[123.0, 45.0]])
    um = af.apply(theirs, point) * af.PIXEL_UM
    assert np.allclose(af.apply(af.to_image(af.read_affine(matrix)), um), point, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "2,0,10\n0,2,20\n0,0,1\n",
        "2,0,10\n0,2,20",
        "2;0;10\r\n0;2;20\r\n0;0;1\r\n",
        "\ufeff2 0 10\n0 2 20\n",
    ],
)
def test_forms_of_a_matrix(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert af.read_affine(tmp_path / "a.csv").tolist() == [[2, 0, 10], [0, 2, 20], [0, 0, 1]]


@pytest.mark.parametrize("folder", ["", "case 1_alignment_files/"])
def test_the_archive_of_xenium_explorer(folder: str, tmp_path: Path) -> None:
    path, keypoints = tmp_path / "alignment.zip", "10,20,0,0\n12,20,1,0\n10,22,0,1\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"__MACOSX/{folder}._matrix.csv", b"\0\5")
        archive.writestr(f"{folder}keypoints.csv", '"fixedX","fixedY","alignmentX","alignmentY"\n' + keypoints)
    assert np.allclose(af.read_affine(path), [[2, 0, 10], [0, 2, 20], [0, 0, 1]])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{folder}matrix.csv", '"2","0","11"\n"0","2","20"\n"0","0","1"\n')
    assert af.read_affine(path)[0, 2] == 11
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/matrix.csv", "2,0,10\n0,2,20\n0,0,1\n")
    with pytest.raises(InputError, match="holds 2 alignments"):
        af.read_affine(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be unpacked"):
        af.read_affine(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "")
    with pytest.raises(InputError, match=r"a ZIP without a matrix\.csv"):
        af.read_affine(path)


def test_keypoints_are_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 5000, (6, 2))
    fixed = af.apply(KB, image) + rng.normal(0, 1, (6, 2))
    path = tmp_path / "keypoints.csv"
    lines = [f"{x},{y},{u},{v}" for (x, y), (u, v) in zip(fixed, image, strict=True)]
    path.write_text("\n".join(["fixedX,fixedY,alignmentX,alignmentY", *lines]))
    assert np.abs(af.apply(af.read_affine(path), image) - af.apply(KB, image)).max() < 4
    # One pair of different places.
    lines[2] = "0,0,5000,5000"
    path.write_text("\n".join(["fixedX,fixedY,alignmentX,alignmentY", *lines]))
    with pytest.raises(InputError, match=r"do not agree.*the worst is number"):
        af.read_affine(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 numbers; expected 3 x 3"),
        ("1,2\n3,4", "holds 2 x 2 numbers"),
        ("1,2,3\n4,x,6\n0,0,1", "no table of numbers"),
        ("1,2,3\n4,5", "no table of numbers"),
        ("1,2,3\n2,4,6\n0,0,1", "is singular"),
        ("1,1,3\n1,1.0000001,6\n0,0,1", "is singular"),
        ("1,0,nan\n0,1,0\n0,0,1", "not finite"),
        ("1,0,0\n0,1,0\n5,6,1", "the last row is 5 6 1; expected 0 0 1"),
        ("fixedX,fixedY\n1,2", "has no alignmentX, alignmentY"),
        ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,4", "3 or more pairs"),
        ("fixedX,fixedY,alignmentX,alignmentY\n1,1,1,1\n2,2,2,2\n3,3,3,3", "lie on a line"),
        ("fixedX,fixedY,alignmentX,alignmentY\n1,1,1,a\n2,2,2,2\n3,3,3,3", "is no number"),
    ],
)
def test_bad_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        af.read_affine(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        af.read_affine(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is no text"):
        af.read_affine(tmp_path / "b.csv")


def test_implausible_scale_and_direction() -> None:
    with pytest.raises(InputError, match=r"would measure 42\.5 um.*`inverse=True`"):
        af.to_image(np.diag([200.0, 200, 1]))
    with pytest.raises(InputError, match="did you mean 'um_to_image'"):
        af.to_image(np.eye(3), "um_to_imag")  # type: ignore[arg-type]


def section_points(affine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells all over an image, in micrometres."""
    return af.apply(af.inverse_of(affine), np.random.default_rng(0).uniform(0, 1, (500, 2)) * size)


def test_check_says_what_fits() -> None:
    size = (20000, 15000)
    right = af.to_image(KB)
    points = section_points(right, size)
    assert af.check_affine(right, points, size, 0.274) == (1, [])
    assert af.um_per_pixel(right) == pytest.approx(0.27404, rel=1e-4)
    assert "another resolution" in af.check_affine(right, points, size, 0.5)[1][0]
    with pytest.raises(InputError, match=r"only 0% of the 500 cells.*100% would: .*pass `inverse=True`"):
        af.check_affine(af.to_image(KB, "xenium_to_image"), points, size, 0.274)
    with pytest.raises(InputError, match=r"in Xenium pixels, not in micrometres"):
        af.check_affine(af.to_image(KB, "image_to_um"), points, size, 0.274)
    with pytest.raises(InputError, match="is it the alignment of this section"):
        af.check_affine(right, points + 1e6, size, 0.274)
    with pytest.raises(InputError, match="fall on the image"):
        af.check_affine(right, points, (6000, 5000), 0.274)  # a tenth of the section


def test_wrong_direction_of_a_map_in_micrometres() -> None:
    size = (8000, 8000)
    right = built(30, 2, 2, 0, True, 4000, 500)
    back = af.inverse_of(right)
    with pytest.raises(InputError, match="`inverse=True`"):
        af.check_affine(af.to_image(back, "um_to_image"), section_points(right, size), size, 0.5)
    assert np.allclose(af.to_image(back, "um_to_image", inverse=True), right)


@pytest.mark.parametrize("distorted", [built(30, 2, 3, 0, True, 0, 0), built(0, 2, 2, 0.3, False, 0, 0)])
def test_distortion_is_warned_of(distorted: np.ndarray) -> None:
    size = (1000, 1000)
    _, (warning,) = af.check_affine(distorted, section_points(distorted, size), size, 0.45)
    assert "distorts" in warning


def test_a_map_is_described() -> None:
    said = af.describe(built(30, 2, 3, 0, True, 7, 5))
    assert said == "scale 3 x 2, rotation 30.00 degrees, mirrored, translation (7.0, 5.0)"
