"""Affine maps between the coordinates of a section and its H&E image: read, checked, composed, described.

Three systems: micrometres of the instrument (a section's), pixels of its morphology image (0.2125 um each on a
Xenium), and level-0 pixels of the H&E image. A map is a (3, 3) matrix that takes columns (x, y, 1). Xenium Explorer
writes that from H&E pixels to morphology pixels (10x Genomics, knowledge base article 35386990499853;
``xenium_aligned_image`` of spatialdata-io); the package everywhere uses ``to_image``, from micrometres to H&E pixels.
Nothing in a file tells the two apart, so ``check_affine`` looks where the cells come to lie.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celldetr.errors import InputError, near
from celldetr.io.safe_io import read_bytes

Affine = NDArray[np.float64]  # (3, 3)
Direction = Literal["image_to_xenium", "xenium_to_image", "image_to_um", "um_to_image"]
OPPOSITE: Final[dict[Direction, Direction]] = {
    "image_to_xenium": "xenium_to_image",
    "xenium_to_image": "image_to_xenium",
    "image_to_um": "um_to_image",
    "um_to_image": "image_to_um",
}
PIXEL_UM = 0.2125  # of a Xenium morphology image
SCALES = (0.05, 10.0)  # micrometres that a pixel of an H&E image can measure
KEYPOINTS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
_BYTES = 2**20
_CONDITION = 1e6  # of the linear part; that of a real alignment is below 2
_EXPECTED = "expected 3 x 3 numbers (Xenium Explorer's *_imagealignment.csv), 2 x 3, or keypoints with columns " + (
    ", ".join(KEYPOINTS)
)


def read_affine(path: Path) -> Affine:
    """Read a map from a file, in whatever direction it is written.

    Args:
        path: CSV of 3 x 3 or 2 x 3 numbers (Xenium Explorer's alignment or matrix file); or Xenium Explorer's keypoints
            CSV, to which a map from ``alignment`` (H&E) to ``fixed`` (morphology) pixels is fitted by least squares.

    Raises:
        InputError: no such file, other than that, not finite, singular or nearly so, or keypoints that disagree.
    """
    content = read_bytes(path, _BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text; {_EXPECTED}") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and any(name in lines[0] for name in KEYPOINTS):
        return _from_keypoints(lines, path)
    # Separated by commas, as Xenium Explorer does, or by semicolons, tabs or blanks, as others do.
    rows = [line.replace(";", ",").replace(",", " ").split() for line in lines]
    return _matrix(rows, path)


def _from_keypoints(lines: list[str], path: Path) -> Affine:
    rows = list(csv.DictReader(lines))
    missing = [name for name in KEYPOINTS if name not in (rows[0] if rows else {})]
    if missing:
        raise InputError(
            f"{path}: has no {', '.join(missing)}; expected columns {', '.join(KEYPOINTS)} and 3 rows or more"
        )
    try:
        values = np.array([[float(row[name]) for name in KEYPOINTS] for row in rows])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a keypoint is no number ({error}); export them again") from None
    try:
        matrix, residuals = fit_affine(values[:, 2:], values[:, :2])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # Keypoints set by hand agree within tens of pixels; one of a wrong pair pulls the whole map away.
    extent = float(np.ptp(values[:, :2], axis=0).max())
    if (rms := float(np.sqrt((residuals**2).mean()))) > 0.05 * extent:
        raise InputError(
            f"{path}: the keypoints do not agree, they miss each other by {rms:.0f} px on average (the worst is number"
            f" {int(residuals.argmax()) + 1}, {residuals.max():.0f} px); correct them in Xenium Explorer"
        )
    return matrix


def _matrix(rows: Any, where: Path | str) -> Affine:
    """(3, 3) from rows of numbers, or of their text; a missing last row is added."""
    try:
        values = np.array([[float(value) for value in row] for row in rows], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: is no table of numbers; {_EXPECTED}") from None
    if values.shape not in ((3, 3), (2, 3)):
        shape = " x ".join(str(number) for number in values.shape)
        raise InputError(f"{where}: holds {shape} numbers; {_EXPECTED}")
    if values.shape == (2, 3):
        values = np.vstack([values, [0, 0, 1]])
    return check_matrix(values, where)


def check_matrix(matrix: ArrayLike, where: Path | str = "affine") -> Affine:
    """A matrix that can be inverted.

    Raises:
        InputError: not 3 x 3, not finite, the last row is not 0 0 1, or (nearly) singular.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (3, 3):
        raise InputError(f"{where}: has shape {values.shape}; expected (3, 3)")
    if not np.isfinite(values).all():
        raise InputError(f"{where}: holds numbers that are not finite; export the alignment again")
    if not np.allclose(values[2], [0, 0, 1], rtol=0, atol=1e-9):
        last = " ".join(f"{value:g}" for value in values[2])
        raise InputError(
            f"{where}: the last row is {last}; expected 0 0 1 (is the matrix transposed, or a projective one?)"
        )
    singular = np.linalg.svd(values[:2, :2], compute_uv=False)
    if not singular[1] > singular[0] / _CONDITION:
        raise InputError(
            f"{where}: is singular, it maps the plane to a line or a point; align the image again in Xenium Explorer"
        )
    values[2] = 0, 0, 1
    return values


def to_image(
    matrix: ArrayLike,
    direction: Direction = "image_to_xenium",
    pixel_um: float = PIXEL_UM,
    *,
    inverse: bool = False,
) -> Affine:
    """The map from micrometres of the section to level-0 pixels of the H&E image.

    Args:
        matrix: (3, 3).
        direction: from where to where it maps; ``xenium`` is pixels of the morphology image, ``image`` the H&E's.
        pixel_um: micrometres a pixel of the morphology image (``pixel_size`` of experiment.xenium).
        inverse: the matrix maps in the other direction.

    Raises:
        InputError: an unknown direction, a matrix that cannot be inverted, or one by which a pixel of the H&E image
            would measure less than 0.05 or more than 10 micrometres.
    """
    if direction not in get_args(Direction):
        raise InputError(f"direction {direction!r}: {near(str(direction), get_args(Direction))}")
    if not (np.isfinite(pixel_um) and pixel_um > 0):
        raise InputError(f"pixel_um {pixel_um}: expected micrometres per pixel, as {PIXEL_UM}")
    values = check_matrix(np.array(matrix, dtype=np.float64))
    way = OPPOSITE[direction] if inverse else direction
    out = values if way.endswith("_to_image") else invert(values)
    if "xenium" in way:
        out = compose(out, scaling(1 / pixel_um))
    size = um_per_pixel(out)
    if not SCALES[0] <= size <= SCALES[1]:
        raise InputError(
            f"affine: a pixel of the H&E image would measure {size:.3g} um (expected {SCALES[0]} to {SCALES[1]}) if it"
            f" maps {way.replace('_', ' ')}; probably it maps the other way (`inverse=True`), or pixel_um={pixel_um} is"
            " wrong"
        )
    return out


def apply(affine: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Map points (..., 2) -> (..., 2)."""
    matrix, xy = np.asarray(affine, dtype=np.float64), np.asarray(points, dtype=np.float64)
    return (xy if xy.size else xy.reshape(-1, 2)) @ matrix[:2, :2].T + matrix[:2, 2]


def compose(second: ArrayLike, first: ArrayLike) -> Affine:
    """The map that does ``first``, then ``second``."""
    out: Affine = np.asarray(second, dtype=np.float64) @ np.asarray(first, dtype=np.float64)
    return out


def invert(affine: ArrayLike) -> Affine:
    """The map back.

    Raises:
        InputError: there is none.
    """
    inverse = np.linalg.inv(check_matrix(np.array(affine, dtype=np.float64))).astype(np.float64)
    inverse[2] = 0, 0, 1
    return inverse


def scaling(factor: float) -> Affine:
    """Multiply x and y: ``scaling(1 / mpp)`` takes micrometres to pixels."""
    return np.diag([factor, factor, 1.0])


def um_per_pixel(to_image: ArrayLike) -> float:
    """Micrometres a pixel of the image measures by a map from micrometres: square root of the ratio of areas."""
    linear = np.asarray(to_image, dtype=np.float64)[:2, :2]
    return float(1 / np.sqrt(abs(linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0])))


def fit_affine(source: ArrayLike, target: ArrayLike) -> tuple[Affine, NDArray[np.float64]]:
    """The map from points to points with the least squared distances -> (3, 3), and (N,) distances that remain.

    Args:
        source, target: (N, 2), N of 3 and more, not all on a line.

    Raises:
        InputError: fewer, not finite, or on a line.
    """
    moving, fixed = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in (source, target))
    if len(moving) < 3 or len(moving) != len(fixed) or not np.isfinite([moving, fixed]).all():
        raise InputError(f"{len(moving)} and {len(fixed)} points: expected 3 or more pairs of finite numbers")
    centre, unit = moving.mean(axis=0), max(float(np.ptp(moving)), 1e-12)  # so that the equations are well-conditioned
    design = np.column_stack([(moving - centre) / unit, np.ones(len(moving))])
    if np.linalg.cond(design) > 1e4:
        raise InputError("the points lie on a line, or on one another; set some off it")
    solution = np.linalg.lstsq(design, fixed, rcond=None)[0]
    linear = solution[:2].T / unit
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, solution[2] - linear @ centre
    return check_matrix(matrix, "the fit to the points"), np.hypot(*(apply(matrix, moving) - fixed).T)


@dataclass(frozen=True)
class Description:
    """What a map does: first it scales along x and y, then shears, then turns, then moves.

    Attributes:
        scale: square root of the ratio of areas.
        scale_x, scale_y: along each axis, positive.
        rotation_deg: from x towards y, which is clockwise as images are shown; -180 to 180.
        shear: by how much x grows with y.
        mirrored: whether y is reversed as well.
        translation: (x, y), in units of the target.
    """

    scale: float
    scale_x: float
    scale_y: float
    rotation_deg: float
    shear: float
    mirrored: bool
    translation: tuple[float, float]

    def __str__(self) -> str:
        mirrored = ", mirrored" if self.mirrored else ""
        x, y = self.translation
        return (
            f"scale {self.scale:.4g} ({self.scale_x:.4g} x {self.scale_y:.4g}), rotation {self.rotation_deg:.2f}"
            f" degrees, shear {self.shear:.4f}{mirrored}, translation ({x:.1f}, {y:.1f})"
        )


def describe(affine: ArrayLike) -> Description:
    """Take a map apart: linear part = turn @ [[1, shear], [0, 1]] @ diag(scale_x, +-scale_y).

    Raises:
        InputError: it cannot be inverted.
    """
    matrix = check_matrix(np.array(affine, dtype=np.float64))
    (a, b), (c, d) = matrix[:2, :2]
    determinant = a * d - b * c
    angle = np.arctan2(c, a)
    scale_x = np.hypot(a, c)
    scale_y = determinant / scale_x  # signed
    shear = (b * np.cos(angle) + d * np.sin(angle)) / scale_y
    return Description(
        scale=float(np.sqrt(abs(determinant))),
        scale_x=float(scale_x),
        scale_y=float(abs(scale_y)),
        rotation_deg=float(np.degrees(angle)),
        shear=float(shear),
        mirrored=bool(determinant < 0),
        translation=(float(matrix[0, 2]), float(matrix[1, 2])),
    )


@dataclass(frozen=True)
class AffineCheck:
    """How a map fits an image.

    Attributes:
        inside: share of the cells that fall on the image.
        um_per_pixel: of the image, by the map.
        description: of the map.
        warnings: what is odd, in words.
    """

    inside: float
    um_per_pixel: float
    description: Description
    warnings: tuple[str, ...] = ()


def check_affine(
    to_image: ArrayLike,
    points: ArrayLike,
    image_size: tuple[int, int],
    mpp: float | None = None,
    *,
    pixel_um: float = PIXEL_UM,
    least: float = 0.5,
) -> AffineCheck:
    """See whether a section's cells fall on the image, and say what is probably wrong where they do not.

    Args:
        to_image: (3, 3) from micrometres to level-0 pixels.
        points: (N, 2) of the cells, micrometres.
        image_size: (width, height) of level 0, pixels.
        mpp: micrometres per pixel that the image claims, if any.
        pixel_um: as ``to_image`` was given it, to try the inverse.
        least: share of the cells that must fall on the image; less for an image of a part of the section.

    Raises:
        InputError: fewer do. It says so if the inverse, or units of pixels instead of micrometres, would fit.
    """
    matrix = check_matrix(np.array(to_image, dtype=np.float64), "to_image")
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    size = um_per_pixel(matrix)
    inside = _inside(matrix, xy, image_size)
    fits = [(words, share) for words, other in _others(matrix, pixel_um) if (share := _inside(other, xy, image_size))]
    words, share = max(fits, key=lambda fit: fit[1], default=("", 0.0))
    if inside < least:
        width, height = image_size
        found = f"only {inside:.0%} of the {len(xy):,} cells fall on the image ({width} x {height} px)"
        if share >= max(least, 2 * inside):
            raise InputError(f"affine: {found}, but {share:.0%} would: {words}")
        low, high = (apply(matrix, xy).min(axis=0), apply(matrix, xy).max(axis=0)) if len(xy) else (np.zeros(2),) * 2
        raise InputError(
            f"affine: {found}, they lie at x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f};"
            " is it the alignment of this section and this image, at its full resolution?"
        )
    odd = []
    if mpp is not None and not 0.8 <= size / mpp <= 1.25:
        odd.append(
            f"by the affine a pixel of the image measures {size:.3g} um, the image says {mpp:.3g}: one of them is"
            " wrong, or the affine is for another resolution of the image"
        )
        odd += [f"{share:.0%} of the cells would also fall on the image otherwise: {words}"] * (share >= least)
    said = describe(matrix)
    if max(said.scale_x, said.scale_y) > 1.05 * min(said.scale_x, said.scale_y) or abs(said.shear) > 0.05:
        odd.append(f"the affine distorts, which slides do not: {said}")
    return AffineCheck(inside, size, said, tuple(odd))


def _inside(matrix: Affine, xy: NDArray[np.float64], image_size: tuple[int, int]) -> float:
    at = apply(matrix, xy)
    return float(((at >= 0) & (at < np.asarray(image_size))).all(axis=1).mean()) if len(at) else 0.0


def _others(matrix: Affine, pixel_um: float) -> list[tuple[str, Affine]]:
    """What the user may have meant instead, in words, and the map it would be."""
    pixels = scaling(pixel_um)
    way = "the affine was read in the wrong direction; pass `inverse=True`"
    return [
        (words, other)
        for words, other in (
            (way, invert(compose(compose(pixels, matrix), pixels))),  # of a matrix in pixels of the morphology image
            (way, invert(matrix)),  # of one in micrometres
            ("the affine is in Xenium pixels, not in micrometres", compose(matrix, scaling(1 / pixel_um))),
            ("the affine is in micrometres, not in Xenium pixels", compose(matrix, pixels)),
        )
        if SCALES[0] <= um_per_pixel(other) <= SCALES[1]
    ]
