"""Micrometres per pixel of a slide: from the user, or from the file if a microscope can have made it.

Files lie about their resolution (72 dpi, 1 pixel per centimetre, 0), so every value in one is a candidate, and the
first plausible one is taken. An objective power only suggests what to pass: 20x means anything from 0.45 to 0.55, and
is wrong on rescanned and exported images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from celldetr.errors import InputError

LOWEST, HIGHEST = 0.05, 10.0  # um per pixel: finer than any light microscope, coarser than any nucleus
DISAGREEMENT = 0.2  # share by which a given mpp may differ from the file's without a warning
USUAL = (0.12, 0.17, 0.25, 0.5, 1.0)  # um per pixel of objectives of 80x, 60x, 40x, 20x and 10x
SCREENS = (72, 96, 100, 150, 200, 300, 600)  # dots per inch of screens and printers
METRIC = (10.0, 100.0, 1000.0)  # slips between units
SLIPS = (*METRIC, 2.54, 25.4, 254.0, 25400.0)  # inches taken for centimetres among them
NO_INCHES = ("OME", "ImageJ")  # sources, by their first letters, whose units are named
POWER_FACTOR = 1.6  # how far mpp may be from 10 / power before the two contradict each other
NON_SQUARE = 0.05

# OME (2016-06) UnitsLength and the spellings of ImageJ, in micrometres; both micro signs exist in the wild.
_MICROMETRES = {
    "pm": 1e-6, "å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0, "inch": 25400.0,
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    # UDUNITS-2, as OME-Zarr
    **{f"{prefix}met{end}": factor for end in ("er", "re") for prefix, factor in
       {"pico": 1e-6, "nano": 1e-3, "milli": 1e3, "centi": 1e4, "": 1e6}.items()},
    "angstrom": 1e-4,
}  # fmt: skip


@dataclass(frozen=True)
class Resolution:
    """Micrometres per pixel of level 0 along x and y, and the property of the file they are from (or ``given``)."""

    mpp_x: float
    mpp_y: float
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def mpp(self) -> float:
        """The geometric mean, so that ``mpp`` squared is the area of a pixel."""
        return self.mpp_x if self.mpp_x == self.mpp_y else math.sqrt(self.mpp_x * self.mpp_y)

    @property
    def is_plausible(self) -> bool:
        """Whether a microscope could have made it."""
        return plausible(self.mpp_x) and plausible(self.mpp_y)

    def __str__(self) -> str:
        sides = f"{self.mpp_x:g}" if self.mpp_x == self.mpp_y else f"{self.mpp_x:g} x {self.mpp_y:g}"
        return f"{sides} ({self.source})"


def micrometres(value: float, unit: str) -> float | None:
    """A length in micrometres; None for a unit that is not a length (``pixel``, ``reference frame``).

    >>> micrometres(250, "nm")
    0.25
    """
    factor = _MICROMETRES.get(unit.strip().replace("\\u00B5", "µ").lower())
    return None if factor is None else value * factor


def number(text: object) -> float | None:
    """A metadata value as a float; None if it is not one."""
    try:
        return float(str(text).replace(",", "."))
    except ValueError:
        return None


def candidates_of(x: float | None, y: float | None, source: str) -> list[Resolution]:
    """The resolution that a file states along x and y, if it does; one alone counts for both."""
    if x is None and y is None:
        return []
    side = x or y or 0.0
    return [Resolution(side, side, source) if x is None or y is None else Resolution(x, y, source)]


def plausible(mpp: float) -> bool:
    """Whether a microscope could have made it."""
    return math.isfinite(mpp) and LOWEST <= mpp <= HIGHEST


def check_mpp(mpp: float, name: str) -> float:
    """Refuse a given mpp that no microscope has.

    Raises:
        InputError: not a number from 0.05 to 10; a value that looks like a magnification is recognised.
    """
    if plausible(mpp):
        return float(mpp)
    hint = f"; for a {mpp:g}x objective it is about {10 / mpp:g}" if mpp in (20, 40, 60, 63, 100) else ""
    raise InputError(
        f"{name}: mpp={mpp:g}: expected micrometres per pixel between {LOWEST:g} and {HIGHEST:g}, e.g. 0.5{hint}"
    )


def resolve(name: str, given: float | None, candidates: Sequence[Resolution], power: float | None = None) -> Resolution:
    """Decide on the resolution of a slide.

    Args:
        name: of the slide, for messages.
        given: by the user; it wins, and means square pixels.
        candidates: from the file, most trusted first.
        power: objective power in the file; only used in messages.

    Raises:
        InputError: ``given`` is out of range, or the file states nothing a microscope could have made.
    """
    stated = next((candidate for candidate in candidates if candidate.is_plausible), None)
    notes = []
    if given is not None:
        mpp = check_mpp(given, name)
        if stated and max(abs(stated.mpp_x - mpp), abs(stated.mpp_y - mpp)) > DISAGREEMENT * mpp:
            notes.append(f"mpp {mpp:g} as given is used; the file says {stated}")
        return Resolution(mpp, mpp, "given", tuple(notes))
    if stated is None:
        raise InputError(_no_mpp(name, candidates, power))
    x, y = stated.mpp_x, stated.mpp_y
    if abs(x - y) > NON_SQUARE * max(x, y):
        notes.append(f"pixels are not square ({x:g} x {y:g} um); each axis is read at its own scale")
    if power and power > 0 and not 1 / POWER_FACTOR < stated.mpp * power / 10 < POWER_FACTOR:
        notes.append(
            f"mpp {stated} does not go with an objective power of {power:g}x, which is about {10 / power:g}; "
            "if cells come out wrong, pass `mpp`"
        )
    return Resolution(x, y, stated.source, tuple(notes))


def likely(mpp: float, source: str = "") -> float | None:
    """What a resolution probably is that no microscope has, if its unit was mistaken: the usual one it may stand for.

    >>> likely(0.00499)
    0.499
    """
    if not (math.isfinite(mpp) and mpp > 0) or any(abs(25400 / mpp - dots) < 0.5 for dots in SCREENS):
        return None
    slips = METRIC if source.startswith(NO_INCHES) else SLIPS
    readings = [mpp * factor for slip in slips for factor in (slip, 1 / slip)]
    off, reading = min((min(abs(math.log(value / usual)) for usual in USUAL), value) for value in readings)
    return float(f"{reading:.4g}") if off < math.log(1.15) else None


def _no_mpp(name: str, candidates: Sequence[Resolution], power: float | None) -> str:
    if candidates:
        stated = " and ".join(map(str, candidates))
        problem = f"its metadata gives {stated} um per pixel, outside {LOWEST:g} to {HIGHEST:g}"
    else:
        problem = "its metadata gives no micrometres per pixel"
    if power and plausible(10 / power):
        return f"{name}: {problem}; objective power is {power:g}x: if that is right, pass `mpp={10 / power:g}`"
    meant = next((value for each in candidates if (value := likely(each.mpp, each.source)) is not None), None)
    if meant is not None:
        return f"{name}: {problem}; its unit may be mistaken: if nuclei have their size then, pass `mpp={meant:g}`"
    return f"{name}: {problem}; pass `mpp`, e.g. `mpp=0.5` for a 20x scan"
