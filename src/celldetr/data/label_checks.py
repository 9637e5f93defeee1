"""Checks of labelled images that every reader's samples pass: objects twice, colours, size of nuclei, what lies under.

A wrong resolution, a wrong unit, axes exchanged and a picture turned are seen by the nuclei's size and by their stain:
haematoxylin is dark under nuclei. Where labels lie no darker than chance but would if they were read in another way,
they are refused; the bounds were set on published sets (benchmarks/label_checks.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from celldetr.data.sample import UNKNOWN, Sample
from celldetr.errors import InputError, doubt
from celldetr.io.left_out import LeftOut
from celldetr.slide.nucleus_size import LEAST, MOST, size_doubt
from celldetr.slide.stain_check import HINTS, MPP, Looks, looks_like
from celldetr.stain import haematoxylin

SAME_PX = 0.75  # that edges or points of a nucleus labelled twice may differ; no two nuclei are that near
FEW = 10  # nuclei of a set whose size is judged
FACTOR = 2.0  # by which the median size may be out of bounds before labels are refused
POINTS = 25  # whose stain is judged
CHANCE, CLEAR = 0.3, 0.6  # labels lie no darker than this share of how dark, in deviations of the image, they would
NOWHERE = 0.3  # deviations of the image; labels that lie no darker are doubted: published sets have 1.2 to 2.5
SIGNIFICANT = 5.0  # standard errors of the difference
SHIFT_UM = 40.0  # that labels which lie nowhere are moved by, to every side
SHIFTED, SURE = 0.8, 8.0  # how dark they must lie then: deviations of the image, and standard errors, as many are tried
LARGEST_PX, TRIED = 2**24, 20  # pixels of an image, and images, that are tried
MOST_IMAGES = 200  # that are looked at
Points = NDArray[np.float64]
Way = Callable[[Points, Points, Points], Points]  # points, (width, height) of the image, half boxes (N, 2) -> points
NUCLEUS_UM = 6.0
# Share of the images of a set that look the same wrong way; of published sets 5 % do (2 of 7 of a small one), of those
# with red and blue exchanged 69 % and more (benchmarks/stain_check.py).
ODD = 0.5
FAULTS: tuple[Looks, ...] = ("exchanged", "luminance", "fluorescence")  # a model can be trained for another stain


def without_repeats(sample: Sample, left: LeftOut) -> Sample:
    """A sample with each nucleus once; types that contradict one another become ``UNKNOWN``.

    Args:
        sample: of a reader.
        left: counts what is left out.
    """
    if len(sample) < 2:
        return sample
    # Of points the boxes are derived, and as near one another as the points are.
    corners = np.tile(sample.points, 2) if sample.derived_boxes else sample.boxes
    pairs = cKDTree(sample.points).query_pairs(SAME_PX, output_type="ndarray")
    # Objects smaller than a pixel are in another unit, which the check of sizes says if they are left to it.
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).min(1)[pairs[:, 0]]
    same = (np.abs(corners[pairs[:, 0]] - corners[pairs[:, 1]]) <= np.minimum(SAME_PX, sides / 4)[:, None]).all(1)
    if not same.any():
        return sample
    types, kept = sample.types.copy(), np.ones(len(sample), dtype=bool)
    for first, second in pairs[same][np.lexsort(pairs[same].T[::-1])].tolist():
        if not kept[first]:
            continue
        kept[second] = False
        if types[first] == UNKNOWN or types[second] == UNKNOWN:
            types[first] = max(types[first], types[second])
        elif types[first] != types[second]:
            left.add("of them with two types, which are unknown now", sample.name)
            types[first] = UNKNOWN
    left.add("nuclei that are labelled twice", sample.name, int((~kept).sum()))
    return replace(sample, types=types).keep(kept)


def check_labels(samples: Sequence[Sample], place: Path, sizes_um: tuple[float, float] | None = None) -> None:
    """Check colours of the images of a data set, and size and place of its nuclei.

    Args:
        samples: of one reader, in their own resolution.
        place: the data, for messages.
        sizes_um: bounds of the median size, um, of a card that knows better; None: of nuclei in general.

    Raises:
        InputError: sizes are those of no nuclei, or labels lie where no nuclei are and would on some if read otherwise.
    """
    _check_places(samples, place)
    _check_sizes(samples, place, sizes_um)
    _check_colours(samples, place)


def _check_colours(samples: Sequence[Sample], place: Path) -> None:
    """Doubt images whose colours are not those of their tissue, as they are doubted of slides."""
    chosen = samples[:: max(1, len(samples) // MOST_IMAGES)]
    looks = Counter(looks_like(_at(sample, MPP)) for sample in chosen)
    for kind in FAULTS:
        if looks[kind] > ODD * len(chosen):
            doubt(f"{place}: {looks[kind]:,} of {len(chosen):,} images: {HINTS[kind]}")


def _at(sample: Sample, mpp: float) -> NDArray[np.uint8]:
    """The image of a sample at another resolution."""
    height, width = sample.image.shape[:2]
    size = max(1, round(width * sample.mpp / mpp)), max(1, round(height * sample.mpp / mpp))
    return np.asarray(Image.fromarray(sample.image).resize(size, Image.Resampling.BOX))


def _check_sizes(samples: Sequence[Sample], place: Path, bounds: tuple[float, float] | None) -> None:
    drawn = [sample for sample in samples if not sample.derived_boxes and len(sample)]
    is_derived = not drawn  # sizes estimated from the image are no ground to refuse labels
    drawn = drawn or [sample for sample in samples if len(sample)]
    pixels = [np.sqrt(np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1)) for sample in drawn]
    if sum(map(len, pixels)) < FEW:
        return
    median = float(np.median(np.concatenate([p * s.mpp for p, s in zip(pixels, drawn, strict=True)])))
    low, high = bounds or (LEAST / FACTOR, MOST * FACTOR)
    mpp = float(np.median([sample.mpp for sample in drawn]))
    sentence = size_doubt(median, mpp)
    if median < low and LEAST <= median / mpp <= MOST:
        sentence += "; or are the labels in micrometres, where pixels are expected?"
    if not is_derived and not low <= median <= high:
        raise InputError(
            f"{place}: {sentence or f'nuclei measure {median:.1f} um in the median, not {low:g} to {high:g}'}; for"
            " cells of such a size write a card with nucleus_um: [least, most]"
        )
    if sentence and bounds is None:
        doubt(f"{place}: {sentence}")


def ways(mpp: float) -> dict[str, Way]:
    """Other ways of reading points, in words for messages."""
    read: dict[str, Way] = {
        "x and y were exchanged": lambda p, size, half: p[:, ::-1],
        "they were micrometres": lambda p, size, half: p / mpp,
        "boxes began where their centre is now": lambda p, size, half: p - half,
        "they were upper left corners of boxes": lambda p, size, half: p + NUCLEUS_UM / 2 / mpp,
        "y counted from the bottom": lambda p, size, half: p * [1, -1] + [0, size[1]],
        "the image were mirrored": lambda p, size, half: p * [-1, 1] + [size[0], 0],
        "the image were turned upside down": lambda p, size, half: size - p,
        "the image were turned by 90 degrees": lambda p, size, half: p[:, ::-1] * [-1, 1] + [size[0], 0],
        "the image were turned by 270 degrees": lambda p, size, half: p[:, ::-1] * [1, -1] + [0, size[1]],
    }
    scales = {0.25: "4 times as fine", 0.5: "twice as fine", 2.0: "half as fine", 4.0: "a quarter as fine"}
    return read | {f"they counted in an image {text}": partial(_scaled, factor) for factor, text in scales.items()}


def _scaled(factor: float, points: Points, size: Points, half: Points) -> Points:
    return points * factor


@dataclass(frozen=True)
class Places:
    """How dark labels lie, in deviations of the stain of their image: in the mean, read as they are and otherwise."""

    count: int
    own: float
    way: str  # the best of the others; "" for none that fits into the images
    other: float

    @property
    def is_wrong(self) -> bool:
        """Whether labels lie on nuclei only if read in the other way."""
        certain = (self.other - self.own) * (self.count / 2) ** 0.5 > SIGNIFICANT
        return self.own < CHANCE * self.other and self.other > CLEAR and certain


def look_under(samples: Sequence[Sample]) -> Places:
    """Measure the stain under the labels of a data set."""
    other_ways = ways(float(np.median([sample.mpp for sample in samples])))
    own, count, others = 0.0, sum(map(len, samples)), dict.fromkeys(other_ways, 0.0)
    for sample in samples:
        stain = haematoxylin(sample.image)
        stain = (stain - stain.mean()) / max(float(stain.std()), 1e-6)
        size = np.array(sample.image.shape[1::-1], dtype=np.float64)
        points = sample.points.astype(np.float64)
        half = (sample.boxes[:, 2:] - sample.boxes[:, :2]).astype(np.float64) / 2
        own += _under(stain, points)
        for text in list(others):
            moved = other_ways[text](points, size, half)
            if (moved < -1).any() or (moved > size + 1).any():
                del others[text]
            else:
                others[text] += _under(stain, moved)
    best = max(others, key=lambda text: others[text], default="")
    return Places(count, own / count, best, others.get(best, 0.0) / count)


def _check_places(samples: Sequence[Sample], place: Path) -> None:
    """Refuse labels that lie on nuclei only if read in another way."""
    chosen = [sample for sample in samples if len(sample)]
    chosen = chosen[:: max(1, len(chosen) // MOST_IMAGES)]
    if sum(map(len, chosen)) < POINTS:
        return
    places = look_under(chosen)
    if places.is_wrong:
        raise InputError(
            f"{place}: the labels do not lie on nuclei, but would if {places.way}; export them in pixels of the image,"
            " (x, y) from its upper left corner"
        )
    if places.own < NOWHERE:
        shift = _find_shift(chosen)
        if shift is not None:
            raise InputError(
                f"{place}: the labels do not lie on nuclei, but would {shift[0]:+d} px further right and"
                f" {shift[1]:+d} px further down; do they count from the corner of another"
                " image or region? Export them in pixels of this one"
            )
        doubt(
            f"{place}: the labels lie on no darker places than chance; are these their images, at the"
            " resolution that was labelled?"
        )


def _find_shift(samples: Sequence[Sample]) -> tuple[int, int] | None:
    """The one shift (x, y), px, by which the labels of all images lie on nuclei; None: there is none."""
    samples = [sample for sample in samples if math.prod(sample.image.shape[:2]) <= LARGEST_PX][:TRIED]
    if not samples:
        return None
    mpp = float(np.median([sample.mpp for sample in samples]))
    reach = round(SHIFT_UM / mpp)
    total = np.zeros((2 * reach + 1, 2 * reach + 1))
    for sample in samples:
        height, width = sample.image.shape[:2]
        stain = haematoxylin(sample.image)
        shape = (height + 2 * reach, width + 2 * reach)  # no shift leads round to the other side
        marks = np.zeros(shape)
        x, y = np.clip(sample.points.T.astype(np.int64), 0, [[width - 1], [height - 1]])
        np.add.at(marks, (y, x), 1)
        padded = np.zeros(shape)
        padded[:height, :width] = (stain - stain.mean()) / max(float(stain.std()), 1e-6)
        moved = np.fft.irfft2(np.fft.rfft2(padded) * np.fft.rfft2(marks).conj(), shape)  # sums by shift, modulo shape
        total += np.roll(moved, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    count = sum(map(len, samples))
    best = float(total.max()) / count
    if best < SHIFTED or best * count**0.5 < SURE:
        return None
    row, column = np.unravel_index(int(total.argmax()), total.shape)
    return int(column) - reach, int(row) - reach


def _under(stain: NDArray[np.floating], points: Points) -> float:
    """Sum of the stain at points (x, y)."""
    height, width = stain.shape
    x = np.clip(points[:, 0], 0, width - 1).astype(np.int64)
    y = np.clip(points[:, 1], 0, height - 1).astype(np.int64)
    return float(stain[y, x].sum())
