"""Reductions of pyramid levels, from their sizes where these tell them, else from what the levels show.

Scanners and converters cut levels to whole pixels, or fill them up to whole tiles. A level of 1536 px beside one of
2560 px may be reduced 5/3 times, or twice and filled up to three tiles of 512 px: then its pixels decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError

TILE = (4096, 4096)  # of a level that does not say; larger ones are not met
MOST = 64  # largest reduction between neighbouring levels that is looked for
SAME = 0.01  # relative difference below which two reductions are the same
PLACES = 6  # a side, where levels are compared
CHOSEN = 8  # of these places, the ones with most structure
PATCH, SOURCE = 64, 1024  # side of what is compared, px of the level; and the most of the finer level, px
LEAST_STRUCTURE = 4.0  # standard deviation of grey values
ALIKE, APART = 0.7, 0.1  # correlation of the right reduction, and how much less those have that are wrong
TINT = 16.0  # that mean colours of a place may differ between levels, of 255; recompressed ones differ by 3
OTHER = 0.3  # correlation below which a level shows something else, whatever its size tells

Read = Callable[[int, int, int, int, int], NDArray[np.uint8]]
"""Level, x, y, width, height -> pixels: ``SlideReader.read_level``."""


@dataclass(frozen=True)
class Level:
    """One resolution of a pyramid."""

    width: int  # of it, px, without what fills it up
    height: int
    downsample: tuple[float, float]  # level-0 pixels per pixel of its own along x and y
    tile: tuple[int, int] = TILE  # width and height of the tiles that it is stored in, px
    exact: bool = True  # whether whole pixels of it can be read; if not, ``SlideReader.displacement`` says what is
    usable: bool = True  # False: nobody knows what it shows, and it is not read
    filled: bool = False  # whether it is filled up to whole tiles


def reduction(whole: int, part: int) -> float:
    """Level-0 pixels per pixel of a level along an axis, from the two sizes.

    Levels are cut to whole pixels: where that explains the rest, the reduction is a whole number. The plain ratio would
    displace the far end of a slide by up to a pixel of the level.
    """
    nearest = round(whole / part)
    return float(nearest) if abs(whole / nearest - part) <= 1 else whole / part


def paddings(whole: tuple[int, int], part: tuple[int, int], tile: tuple[int, int] = TILE) -> list[float]:
    """Whole reductions of an image (width, height) that leave less than a tile of another to be filled up."""
    sides = list(zip(whole, part, tile, strict=True))
    return [
        float(r)
        for r in range(2, min(MOST**2, *whole) + 1)
        if all(-1 <= there - size / r < spare and size / r >= there / 16 for size, there, spare in sides)
    ]


def settle(levels: Sequence[Level], read: Read) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Check the reductions of a pyramid, finest level first.

    Args:
        levels: with the reductions that their sizes suggest.
        read: pixels of a level.

    Returns:
        the levels, in their order, with the reductions by which they are read, and warnings.
    """
    settled, notes = [levels[0]], []
    for index, level in enumerate(levels[1:], 1):
        told = _told_by_size(level.downsample)
        full_tiles = not level.width % level.tile[0] and not level.height % level.tile[1]
        guesses = [] if told and not full_tiles else _guesses(settled, level)
        is_plain = told and not set(guesses) - {level.downsample}
        found = None if is_plain else _by_pixels(settled, level, index, guesses, read)
        if found is None and told and not _shows_other(settled, level, index, read):  # nothing speaks against it
            found = level.downsample
        if found is None:
            settled.append(replace(level, usable=False))
            notes.append(
                f"level {index} of {level.width} x {level.height} px does not show the slide in its colours, at a "
                f"reduction that fits its size beside {levels[0].width} x {levels[0].height} px; a finer level is read "
                "instead, which is slower"
            )
        elif is_plain:
            settled.append(level)
        else:
            width, height = (math.ceil(side / r - 1e-6) for side, r in zip(_size(levels[0]), found, strict=True))
            width, height = min(width, level.width), min(height, level.height)
            filled = (width, height) != _size(level)
            settled.append(replace(level, downsample=found, width=width, height=height, filled=filled))
    return tuple(settled), tuple(notes)


def _size(level: Level) -> tuple[int, int]:
    return level.width, level.height


def _told_by_size(downsample: tuple[float, float]) -> bool:
    """Whether both axes have nearly the same reduction, and it is nearly a whole number."""
    x, y = downsample
    return abs(x / y - 1) < SAME and abs(x / max(round(x), 1) - 1) < SAME / 2


def _base(settled: Sequence[Level]) -> int:
    """The coarsest level whose reduction is known."""
    return max((i for i, each in enumerate(settled) if each.usable), key=lambda i: settled[i].downsample)


def _guesses(settled: Sequence[Level], level: Level) -> list[tuple[float, float]]:
    """Reductions that the size of a level allows, coarser than those that are known."""
    guesses = [(r, r) for r in paddings(_size(settled[0]), _size(level), level.tile)]
    x, y = level.downsample
    if abs(x / y - 1) < SAME and (x, y) not in guesses:
        guesses.append((x, y))
    finest = settled[_base(settled)].downsample[0]
    return [guess for guess in guesses if finest < guess[0] <= MOST * finest]


def _by_pixels(
    settled: Sequence[Level], level: Level, index: int, guesses: Sequence[tuple[float, float]], read: Read
) -> tuple[float, float] | None:
    """The reduction under which a level shows what the coarsest of the finer ones shows; None if that is undecided."""
    base = _base(settled)
    places = _places(settled[base], base, read)
    likeness = {guess: _likeness(settled[base], base, level, index, guess, places, read) for guess in guesses}
    scores = {guess: -1.0 if score is None else score for guess, score in likeness.items()}
    best = max(scores, key=lambda guess: scores[guess], default=None)
    if best is None or scores[best] < ALIKE:
        return None
    rivals = [score for guess, score in scores.items() if abs(guess[0] / best[0] - 1) > SAME]
    return best if all(score < scores[best] - APART for score in rivals) else None


def _shows_other(settled: Sequence[Level], level: Level, index: int, read: Read) -> bool:
    """Whether a level shows something else than the coarsest of the finer ones at the reduction that its size tells."""
    base = _base(settled)
    places = _places(level, index, read) or _places(settled[base], base, read)
    x, y = level.downsample
    places = [place for place in places if _holds(level, (place[0] / x, place[1] / y), PATCH)]
    likeness = _likeness(settled[base], base, level, index, level.downsample, places, read)
    return likeness is not None and likeness < OTHER


def _places(level: Level, index: int, read: Read) -> list[tuple[float, float]]:
    """Centres of the places of a level with most structure, level-0 pixels."""
    found = []
    for row in range(PLACES):
        for column in range(PLACES):
            x, y = ((column + 0.5) / PLACES * level.width, (row + 0.5) / PLACES * level.height)
            part = _patch(level, index, (x, y), (2 * PATCH, 2 * PATCH), read)
            if part is not None and (structure := float(_grey(part).std())) >= LEAST_STRUCTURE:
                found.append((structure, (x * level.downsample[0], y * level.downsample[1])))
    return [place for _, place in sorted(found, reverse=True)[:CHOSEN]]


def _likeness(
    finer: Level,
    base: int,
    level: Level,
    index: int,
    guess: tuple[float, float],
    places: Sequence[tuple[float, float]],
    read: Read,
) -> float | None:
    """Median correlation of a level, taken to be reduced by a guess, with a finer one; None where nothing can be read.

    Places beyond the level, and those of another colour, have a correlation of -1.
    """
    values = []
    step = tuple(own / there for own, there in zip(guess, finer.downsample, strict=True))
    side = max(8, min(PATCH, int(SOURCE / max(step))))
    for place in places:
        at = (place[0] / guess[0], place[1] / guess[1])
        part = _patch(level, index, at, (side, side), read)
        whole = _patch(
            finer,
            base,
            (place[0] / finer.downsample[0], place[1] / finer.downsample[1]),
            (round(side * step[0]), round(side * step[1])),
            read,
        )
        if whole is None or (part is None and _holds(level, at, side)):
            continue
        if part is None:
            values.append(-1.0)
            continue
        same = np.asarray(Image.fromarray(whole).resize(part.shape[1::-1], Image.Resampling.BOX))
        tint = np.abs(part.mean((0, 1)) - same.mean((0, 1))).max()
        values.append(_correlation(_grey(part), _grey(same)) if tint <= TINT else -1.0)
    return float(np.median(values)) if values else None


def _holds(level: Level, centre: tuple[float, float], side: int) -> bool:
    """Whether a square around a place of a level lies in it."""
    sizes = zip(centre, _size(level), strict=True)
    return all(round(at - side / 2) >= 0 and round(at - side / 2) + side <= size for at, size in sizes)


def _patch(
    level: Level, index: int, centre: tuple[float, float], size: tuple[int, int], read: Read
) -> NDArray[np.uint8] | None:
    """Pixels (H, W, 3) around a place of a level; None where it reaches beyond it or cannot be decoded."""
    x, y = (round(at - side / 2) for at, side in zip(centre, size, strict=True))
    if min(x, y) < 0 or x + size[0] > level.width or y + size[1] > level.height:
        return None
    try:
        return read(index, x, y, *size)
    except InputError:
        return None


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0
