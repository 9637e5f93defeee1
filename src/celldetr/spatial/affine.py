"""Affine maps between the frames of a section and of its H&E image: read, checked, fitted, applied.

Three frames: micrometres of the instrument (a section's), pixels of its morphology image (0.2125 um each on a Xenium),
and level-0 pixels of the H&E image. A map is a (3, 3) matrix for columns (x, y, 1). Xenium Explorer writes that from
H&E pixels to morphology pixels (10x Genomics, knowledge base article 35386990499853); here ``to_image`` is always the
one from micrometres to H&E pixels. Nothing in a file says which it is, so ``check_affine`` looks where the cells fall.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celldetr.errors import InputError, near
from celldetr.io.safe_io import read_bytes

Floats = NDArray[np.float64]
Mpp = float | tuple[float, float]  # micrometres per level-0 pixel, or along x and y where pixels are not square
Direction = Literal["image_to_xenium", "xenium_to_image", "image_to_um", "um_to_image"]

PIXEL_UM = 0.2125  # of a Xenium morphology image
SCALES = (0.05, 10.0)  # micrometres that a pixel of an H&E image can measure
KEYPOINTS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
LEAST_INSIDE = 0.5  # share of the cells that must fall on the image
MOST_DISTORTION = 1.05  # ratio of the scales along the two principal axes
_BYTES = 2**20
_CONDITION = 1e6  # of the linear part; that of a real alignment is below 2
_EXPECTED = (
    "expected 3 x 3 numbers (Xenium Explorer's *_imagealignment.csv or matrix.csv), 2 x 3, or keypoints with columns "
    + (", ".join(KEYPOINTS))
)


def apply(affine: ArrayLike, points: ArrayLike) -> Floats:
    """Map points (..., 2) -> (..., 2)."""
    matrix, xy = np.asarray(affine, dtype=np.float64), np.asarray(points, dtype=np.float64)
    return (xy if xy.size else xy.reshape(-1, 2)) @ matrix[:2, :2].T + matrix[:2, 2]


def inverse_of(affine: ArrayLike) -> Floats:
    """The map back."""
    return np.linalg.inv(np.asarray(affine, dtype=np.float64)).astype(np.float64)


def scaling(factor: float) -> Floats:
    """Multiply x and y: ``scaling(1 / mpp)`` takes micrometres to pixels."""
    return np.diag([factor, factor, 1.0])


def um_per_pixel(to_image: Floats) -> float:
    """Micrometres that a pixel of the image measures by a map from micrometres."""
    return float(abs(np.linalg.det(to_image[:2, :2])) ** -0.5)


def pixel_scale(mpp: Mpp) -> Floats:
    """(2,) micrometres per pixel along x and y."""
    return np.broadcast_to(np.asarray(mpp, dtype=np.float64), (2,))


def in_image_um(to_image: ArrayLike, mpp: Mpp) -> Floats:
    """(3, 3) from micrometres of the section to micrometres of the image, in which cells and nuclei are compared."""
    return np.diag([*pixel_scale(mpp), 1.0]) @ np.asarray(to_image, dtype=np.float64)


def read_affine(path: Path) -> Floats:
    """Read a map from a file, in whatever direction it is written.

    Args:
        path: CSV of 3 x 3 or 2 x 3 numbers, as Xenium Explorer's alignment or matrix file; or its keypoints, to which a
            map from ``alignment`` (H&E) to ``fixed`` (morphology) pixels is fitted by least squares; or its ZIP of the
            two, of which the matrix is read.

    Raises:
        InputError: no such file, other than that, not finite, singular or nearly so, or keypoints that disagree.
    """
    content = read_bytes(path, _BYTES)
    if content.startswith(b"PK\x03\x04"):
        content = _from_archive(path, content)
    try:
        text = content.decode("utf-8-sig").replace('"', "")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text; {_EXPECTED}") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and any(name in lines[0] for name in KEYPOINTS):
        return _map_of_keypoints(lines, path)
    try:
        # Xenium Explorer separates by commas, others by semicolons, tabs or blanks.
        matrix = np.array([line.replace(";", " ").replace(",", " ").split() for line in lines], dtype=np.float64)
    except ValueError:
        raise InputError(f"{path}: is no table of numbers; {_EXPECTED}") from None
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0, 0, 1]])
    if matrix.shape != (3, 3):
        raise InputError(f"{path}: holds {' x '.join(map(str, matrix.shape))} numbers; {_EXPECTED}")
    return check_matrix(matrix, path)


def _from_archive(path: Path, content: bytes) -> bytes:
    """The matrix in a ZIP of Xenium Explorer (matrix.csv, keypoints.csv), or the keypoints if they are alone."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inside = [each for each in archive.infolist() if not each.filename.startswith("__MACOSX/")]
            for ending in ("matrix.csv", "keypoints.csv"):
                found = [each for each in inside if each.filename.lower().endswith(ending)]
                if len(found) > 1:
                    names = ", ".join(each.filename for each in found)
                    raise InputError(f"{path}: holds {len(found)} alignments ({names}); unpack it and give one of them")
                if found and found[0].file_size <= _BYTES:
                    return archive.read(found[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:  # also one with a password
        raise InputError(f"{path}: cannot be unpacked ({error}); export the alignment again") from None
    raise InputError(f"{path}: a ZIP without a matrix.csv or keypoints.csv; {_EXPECTED}")


def _map_of_keypoints(lines: list[str], path: Path) -> Floats:
    rows = list(csv.DictReader(lines))
    missing = [name for name in KEYPOINTS if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{path}: has no {', '.join(missing)}; expected columns {', '.join(KEYPOINTS)} and 3 rows or more"
        )
    try:
        values = np.array([[float(row[name]) for name in KEYPOINTS] for row in rows])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a keypoint is no number ({error}); export them again") from None
    fixed = values[:, :2]
    matrix, residuals = fit_affine(values[:, 2:], fixed, path)
    # Keypoints set by hand agree within tens of pixels; one of a wrong pair pulls the whole map away.
    if (rms := float(np.sqrt((residuals**2).mean()))) > 0.05 * np.ptp(fixed, axis=0).max():
        raise InputError(
            f"{path}: the keypoints do not agree, they miss each other by {rms:.0f} px on average (the worst is number"
            f" {int(residuals.argmax()) + 1}, {residuals.max():.0f} px); correct them in Xenium Explorer"
        )
    return matrix


def fit_affine(source: Floats, target: Floats, where: Path | str) -> tuple[Floats, Floats]:
    """The map of least squared distances from (N, 2) points to (N, 2) points -> (3, 3), and (N,) distances that remain.

    Raises:
        InputError: fewer than 3 pairs, not finite, or on a line; the message begins with ``where``.
    """
    if len(source) < 3 or not np.isfinite([source, target]).all():
        raise InputError(f"{where}: {len(source)} points: expected 3 or more pairs of finite numbers")
    centre, unit = source.mean(axis=0), max(float(np.ptp(source)), 1e-12)  # so that the equations are well-conditioned
    design = np.column_stack([(source - centre) / unit, np.ones(len(source))])
    if np.linalg.cond(design) > 1e4:
        raise InputError(f"{where}: the points lie on a line, or on one another; set some off it")
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    matrix = np.eye(3)
    matrix[:2, :2] = solution[:2].T / unit
    matrix[:2, 2] = solution[2] - matrix[:2, :2] @ centre
    return check_matrix(matrix, where), np.hypot(*(apply(matrix, source) - target).T)


def check_matrix(matrix: ArrayLike, where: Path | str = "affine") -> Floats:
    """A (3, 3) matrix that can be inverted.

    Raises:
        InputError: not finite, the last row is not 0 0 1, or (nearly) singular; the message begins with ``where``.
    """
    values = np.array(matrix, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: holds numbers that are not finite; export the alignment again")
    if not np.allclose(values[2], [0, 0, 1], rtol=0, atol=1e-9):
        last = " ".join(f"{value:g}" for value in values[2])
        raise InputError(
            f"{where}: the last row is {last}; expected 0 0 1 (is the matrix transposed, or a projective one?)"
        )
    largest, smallest = _scales(values)
    if not smallest > largest / _CONDITION:
        raise InputError(
            f"{where}: is singular, it maps the plane to a line or a point; align the image again in Xenium Explorer"
        )
    return values


def to_image(
    matrix: ArrayLike, direction: Direction = "image_to_xenium", pixel_um: float = PIXEL_UM, *, inverse: bool = False
) -> Floats:
    """The map from micrometres of the section to level-0 pixels of the H&E image.

    Args:
        matrix: (3, 3).
        direction: from where to where it maps; ``xenium`` is pixels of the morphology image, ``image`` the H&E's.
        pixel_um: micrometres a pixel of the morphology image (``pixel_size`` of experiment.xenium).
        inverse: the matrix maps in the other direction.

    Raises:
        InputError: an unknown direction, no inverse, or a pixel of the H&E image would measure an impossible size.
    """
    if direction not in get_args(Direction):
        raise InputError(f"direction {direction!r}: {near(str(direction), get_args(Direction))}")
    source, target = direction.split("_to_")
    if inverse:
        source, target = target, source
    out = check_matrix(matrix)
    if source == "image":
        out = inverse_of(out)
    if "xenium" in direction:
        out = out @ scaling(1 / pixel_um)
    size = um_per_pixel(out)
    if not SCALES[0] <= size <= SCALES[1]:
        raise InputError(
            f"affine: a pixel of the H&E image would measure {size:.3g} um (expected {SCALES[0]} to {SCALES[1]}) if it"
            f" maps {source} to {target}; probably it maps the other way (`inverse=True`), or pixel_um={pixel_um} is"
            " wrong"
        )
    return out


def _scales(matrix: Floats) -> Floats:
    """(2,) scales along the principal axes, the larger first."""
    return np.linalg.svd(matrix[:2, :2], compute_uv=False).astype(np.float64)


def describe(matrix: Floats) -> str:
    """What a map does, in words; it turns from x towards y, clockwise as images are shown."""
    larger, smaller = _scales(matrix)
    angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    mirrored = ", mirrored" if np.linalg.det(matrix[:2, :2]) < 0 else ""
    x, y = matrix[:2, 2]
    return f"scale {larger:.4g} x {smaller:.4g}, rotation {angle:.2f} degrees{mirrored}, translation ({x:.1f}, {y:.1f})"


def check_affine(
    matrix: Floats, points: Floats, image_size: tuple[int, int], mpp: float, pixel_um: float = PIXEL_UM
) -> tuple[float, list[str]]:
    """Share of a section's cells that fall on the image, and what is odd about the map, in words.

    Args:
        matrix: (3, 3) from micrometres to level-0 pixels.
        points: (N, 2) of the cells, micrometres.
        image_size: (width, height) of level 0, pixels.
        mpp: micrometres per pixel that the image claims.
        pixel_um: as ``to_image`` was given it, to try the inverse.

    Raises:
        InputError: less than half of the cells do; it says so if the inverse or other units would fit.
    """

    def share_inside(affine: Floats) -> float:
        at = apply(affine, points)
        return float(((at >= 0) & (at < np.asarray(image_size))).all(axis=1).mean())

    inside = share_inside(matrix)
    share, words = max((share_inside(other), words) for words, other in _alternatives(matrix, pixel_um))
    if inside < LEAST_INSIDE:
        width, height = image_size
        few = f"affine: only {inside:.0%} of the {len(points):,} cells fall on the image ({width} x {height} px)"
        if share >= max(LEAST_INSIDE, 2 * inside):
            raise InputError(f"{few}, but {share:.0%} would: {words}")
        low, high = apply(matrix, points).min(axis=0), apply(matrix, points).max(axis=0)
        raise InputError(
            f"{few}, they lie at x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f};"
            " is it the alignment of this section and this image, at its full resolution?"
        )
    odd = []
    size = um_per_pixel(matrix)
    if not 0.8 <= size / mpp <= 1.25:
        odd.append(
            f"by the affine a pixel of the image measures {size:.3g} um, the image says {mpp:.3g}: one of them is"
            " wrong, or the affine is for another resolution of the image"
        )
        if share >= LEAST_INSIDE:
            odd.append(f"{share:.0%} of the cells would also fall on the image otherwise: {words}")
    larger, smaller = _scales(matrix)
    if larger > MOST_DISTORTION * smaller:
        odd.append(f"the affine distorts, which slides do not: {describe(matrix)}")
    return inside, odd


def _alternatives(matrix: Floats, pixel_um: float) -> list[tuple[str, Floats]]:
    """What the user may have meant instead, in words, and the map it would be."""
    to_um = scaling(pixel_um)
    other_way = "the affine was read in the wrong direction; pass `inverse=True`"
    alternatives = [
        (other_way, inverse_of(to_um @ matrix @ to_um)),  # of a matrix in pixels of the morphology image
        (other_way, inverse_of(matrix)),  # of one in micrometres
        ("the affine is in Xenium pixels, not in micrometres", matrix @ scaling(1 / pixel_um)),
        ("the affine is in micrometres, not in Xenium pixels", matrix @ to_um),
    ]
    plausible = [each for each in alternatives if SCALES[0] <= um_per_pixel(each[1]) <= SCALES[1]]
    return plausible or alternatives[:1]
