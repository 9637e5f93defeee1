"""Checks of labelled images that every reader's samples pass: objects twice, colours, size of nuclei, what lies under.

A wrong resolution, a wrong unit, axes exchanged and a picture turned are seen by the nuclei's size and by their stain:
haematoxylin is dark under nuclei. Where labels lie no darker than chance but would if they were read in another way,
they are refused; the bounds were set on published sets (benchmarks/label_checks.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from celldetr.data.sample import UNKNOWN, Sample
from celldetr.errors import InputError, doubt
from celldetr.io.left_out import NAMED, LeftOut
from celldetr.slide.nucleus_size import LEAST, MOST, TYPICAL, size_doubt
from celldetr.slide.stain_check import HINTS, MPP, Looks, looks_of
from celldetr.slide.tissue import DENSITY10
from celldetr.stain import UNMIX, haematoxylin

SAME_PX = 0.75  # that edges or points of a nucleus labelled twice may differ; no two nuclei are that near
FEW = 10  # nuclei of a set whose size is judged
FACTOR = 2.0  # by which the median size may be out of bounds before labels are refused
LARGEST_UM = 60.0  # no side of a nucleus measures more; published sets have up to 47
SMALL_IMAGE, LARGE_IMAGE = 2.2, 12.0  # um, median size of one image; of 650 published ones 2.4 to 11.4
NEAR_UM, MANY = 1.0, 0.1  # distance of centres, share of nuclei; published images have up to 5 % that near
POINTS, FEW_POINTS = 25, 5  # whose stain is judged, of a set to find a shift, and of an image
CHANCE, CLEAR = 0.3, 0.6  # labels lie no darker than this share of how dark, in deviations of the image, they would
# Deviations of the image; labels that lie no darker are doubted. Published sets have 1.2 to 2.5, no image below 0.38.
NOWHERE = 0.3
CERTAIN = 1.8  # deviations of one image; in another way those of published sets lie up to 1.4 dark
SIGNIFICANT = 5.0  # standard errors of the difference
# Deviations by which labels lie darker as micrometres, or in another way, before that way is named.
HINT, OTHER_HINT = 0.5, 1.0  # log: benchmarks/results/label_checks_few.txt
SHIFT_UM = 40.0  # that labels which lie nowhere are moved by, to every side
SHIFTED, SURE = 0.8, 8.0  # how dark they must lie then: deviations of the image, and standard errors, as many are tried
LARGEST_PX, TRIED = 2**24, 20  # pixels of an image, and images, that are tried
MOST_IMAGES = 200  # that are looked at
MICROMETRES = "they were micrometres"
Points = NDArray[np.float64]
Way = Callable[[Points, Points, Points], Points]  # points, (width, height) of the image, half boxes (N, 2) -> points
NUCLEUS_UM = 6.0
# Share and number of the images of a set that look the same wrong way. Of published sets 5 % do (2 of 7 of a small
# one), of those with red and blue exchanged 69 % and more (benchmarks/stain_check.py).
ODD, LEAST_ODD = 0.25, 3
FAULTS: tuple[Looks, ...] = (
    "exchanged",
    "luminance",
    "negative",
    "fluorescence",
)  # a model can be trained for another stain


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
    chosen = samples[:: max(1, len(samples) // MOST_IMAGES)]
    looks, seen = Counter[Looks](), list[tuple[Sample, Places]]()
    for sample in chosen:
        density = _density(sample)
        looks[looks_of(density)] += 1
        if len(sample):
            seen.append((sample, _places_of(sample, density)))
    _check_places(seen, place)
    _check_sizes(samples, place, sizes_um)
    _check_pairs(samples, place)
    for kind in FAULTS:
        if looks[kind] > len(chosen) / 2 or looks[kind] >= max(LEAST_ODD, ODD * len(chosen)):
            doubt(f"{place}: {looks[kind]:,} of {len(chosen):,} images: {HINTS[kind]}")


def _density(sample: Sample) -> NDArray[np.float32]:
    """The optical density (H, W, 3) of an image at ``MPP``, or in its own pixels where these are coarser."""
    zoom = min(1.0, sample.mpp / MPP)
    size = [max(1, round(side * zoom)) for side in sample.image.shape[1::-1]]
    return DENSITY10[np.asarray(Image.fromarray(sample.image).resize(size, Image.Resampling.BOX))]


def _named(samples: Sequence[Sample]) -> str:
    """Names of some of the images, for messages."""
    names = [sample.name for sample in samples[:NAMED]]
    return ", ".join(names) + ", ..." * (len(samples) > NAMED)


def tell_copies(samples: Sequence[Sample], place: Path) -> None:
    """Doubt labelled images of equal pixels: a file that was copied, or exported twice under two names."""
    named: dict[str, list[Sample]] = {}
    for sample in samples:
        if len(sample):
            named.setdefault(sample.digest, []).append(sample)
    if copies := [same for same in named.values() if len(same) > 1]:
        doubt(
            f"{place}: {sum(map(len, copies)):,} labelled images are copies of one another ({_named(copies[0])});"
            " leave one of each, or its nuclei count twice"
        )


def _check_pairs(samples: Sequence[Sample], place: Path) -> None:
    """Doubt nuclei that lie in pairs about one centre, too different to be one that is labelled twice."""
    odd, count = list[Sample](), 0
    for sample in samples:
        pairs = cKDTree(sample.points * sample.mpp).query_pairs(NEAR_UM, output_type="ndarray")
        if len(near := np.unique(pairs)) >= max(MANY * len(sample), 2):
            odd.append(sample)
            count += len(near)
    if odd and count >= FEW:
        doubt(
            f"{place}: {count:,} nuclei of {len(odd):,} of {len(samples):,} images ({_named(odd)}) lie within"
            f" {NEAR_UM:g} um of another: are they labelled twice, or are cells labelled beside their nuclei?"
        )


def _check_sizes(samples: Sequence[Sample], place: Path, bounds: tuple[float, float] | None) -> None:
    """Refuse or doubt sizes that are not those of nuclei: of the whole set, of one image, of a single nucleus."""
    drawn = [sample for sample in samples if not sample.derived_boxes and len(sample)]
    is_derived = not drawn  # sizes estimated from the image are no ground to refuse labels
    drawn = drawn or [sample for sample in samples if len(sample)]
    sides = [(sample.boxes[:, 2:] - sample.boxes[:, :2]) * sample.mpp for sample in drawn]
    if sum(map(len, sides)) >= FEW:
        _check_median(drawn, np.sqrt(np.concatenate(sides).prod(1)), place, bounds, is_derived=is_derived)
    for sample, um in zip(drawn, sides, strict=True):
        if bounds is None and um.max() > LARGEST_UM:
            width, height = um[um.max(1).argmax()].tolist()
            raise InputError(
                f"{place}: a nucleus of {sample.name} measures {width:.0f} x {height:.0f} um, more than any does; is it"
                f" one box around several, or is mpp={sample.mpp:g} wrong?"
            )
    medians = [float(np.median(np.sqrt(um.prod(1)))) if len(um) >= FEW else TYPICAL for um in sides]
    odd = [i for i, median in enumerate(medians) if not SMALL_IMAGE <= median <= LARGE_IMAGE]
    if bounds is None and 0 < len(odd) < len(drawn):
        few = ", ".join(f"{medians[i]:.1f}" for i in odd[:NAMED])
        doubt(
            f"{place}: nuclei of {len(odd):,} of {len(drawn):,} images ({_named([drawn[i] for i in odd])}) measure"
            f" {few} um in the median, where images have {SMALL_IMAGE:g} to {LARGE_IMAGE:g}; are these of another"
            " resolution?"
        )


def _check_median(
    drawn: Sequence[Sample],
    sizes: NDArray[np.floating],
    place: Path,
    bounds: tuple[float, float] | None,
    *,
    is_derived: bool,
) -> None:
    """Refuse or doubt the median of the sizes of all nuclei, um."""
    median = float(np.median(sizes))
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
        MICROMETRES: lambda p, size, half: p / mpp,
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
    others: Mapping[str, float]  # of the ways that fit into the images

    @property
    def way(self) -> str:
        """The best of the others; "" for none."""
        return max(self.others, key=lambda text: self.others[text], default="")

    @property
    def other(self) -> float:
        """What the best of the others has."""
        return self.others.get(self.way, 0.0)

    @property
    def hint(self) -> str:
        """The way in which labels would lie on darker places, although they may be too few to be sure; "" for none.

        Right labels seldom fit into the corner of the image that they would be in as micrometres.
        """
        if self.others.get(MICROMETRES, -math.inf) > self.own + HINT:
            return MICROMETRES
        darker = self.count >= FEW_POINTS and self.is_nowhere and self.other > self.own + OTHER_HINT
        return self.way if darker else ""

    @property
    def is_nowhere(self) -> bool:
        """Whether labels lie hardly darker than chance; of few the mean is less certain."""
        return self.own < NOWHERE + self.count**-0.5

    @property
    def is_wrong(self) -> bool:
        """Whether labels lie on nuclei only if read in the other way."""
        certain = (self.other - self.own) * (self.count / 2) ** 0.5 > SIGNIFICANT
        return self.own < CHANCE * self.other and self.other > CLEAR and certain


def look_under(samples: Sequence[Sample]) -> Places:
    """Measure the stain under the labels of a data set."""
    return _joined([_places_of(sample, _density(sample)) for sample in samples if len(sample)])


def _places_of(sample: Sample, density: NDArray[np.float32]) -> Places:
    """How dark the labels of an image lie in its optical density (H, W, 3) at ``MPP``."""
    stain = density @ UNMIX[:, 0]
    stain = (stain - stain.mean()) / max(float(stain.std()), 1e-6)
    size = np.array(sample.image.shape[1::-1], dtype=np.float64)
    scale = stain.shape[1::-1] / size
    points = sample.points.astype(np.float64)
    half = (sample.boxes[:, 2:] - sample.boxes[:, :2]).astype(np.float64) / 2
    others = {}
    for text, way in ways(sample.mpp).items():
        moved = way(points, size, half)
        if (moved >= -1).all() and (moved <= size + 1).all():
            others[text] = _under(stain, moved * scale) / len(points)
    return Places(len(points), _under(stain, points * scale) / len(points), others)


def _joined(places: Sequence[Places]) -> Places:
    """Of all images; a way must fit into each."""
    count = sum(each.count for each in places)
    texts = [text for text in places[0].others if all(text in each.others for each in places)]
    others = {text: sum(each.others[text] * each.count for each in places) / count for text in texts}
    return Places(count, sum(each.own * each.count for each in places) / count, others)


def _check_places(seen: Sequence[tuple[Sample, Places]], place: Path) -> None:
    """Refuse labels that lie on nuclei only if read in another way; all of a set, or those of an image."""
    if not seen:
        return
    places = _joined([each for _, each in seen])
    wrong = [(sample, each) for sample, each in seen if each.is_wrong and (each.is_nowhere or each.other > CERTAIN)]
    if places.is_wrong or wrong:
        way = places.way if places.is_wrong else wrong[0][1].way
        where = f" of {len(wrong):,} of {len(seen):,} images ({_named([sample for sample, _ in wrong])})"
        raise InputError(
            f"{place}: the labels{where * (not places.is_wrong)} do not lie on nuclei, but would if {way}; export them"
            " in pixels of the image, (x, y) from its upper left corner"
        )
    if places.is_nowhere and places.count >= POINTS:
        shift = _find_shift([sample for sample, _ in seen])
        if shift is not None:
            raise InputError(
                f"{place}: the labels do not lie on nuclei, but would {shift[0]:+d} px further right and"
                f" {shift[1]:+d} px further down; do they count from the corner of another"
                " image or region? Export them in pixels of this one"
            )
    hints = {each.hint for _, each in seen if each.hint}
    for way in sorted(hints) or [""]:
        odd = [s for s, each in seen if (each.hint == way if way else each.is_nowhere and each.count >= FEW_POINTS)]
        if odd:
            where = f" of {len(odd):,} of {len(seen):,} images ({_named(odd)})"
            how = f"would lie on darker places if {way}" if way else "lie on no darker places than chance"
            doubt(
                f"{place}: the labels{where * (len(seen) > 1)} {how}; are these their images, at the resolution that"
                " was labelled, and places in their pixels?"
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
