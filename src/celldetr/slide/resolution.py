"""How many micrometres a pixel measures: from the user, or from what a file says if that can be true.

Files lie about their resolution (72 dpi, 1 pixel per centimetre, 0), so every value found is a candidate with the
name of its source, and the first one a microscope can have is taken. Nothing is guessed: an objective power only
suggests what to pass, because 20x means anything from 0.45 to 0.55 and is wrong on rescanned and exported images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from celldetr.errors import InputError

LOWEST, HIGHEST = 0.05, 10.0  # um per pixel: finer than any light microscope, coarser than any nucleus
DISAGREEMENT = 0.2  # share by which a given mpp may differ from the file's without a warning
POWER_FACTOR = 1.6  # how far mpp may be from 10 / power before the two contradict each other
NON_SQUARE = 0.05

# OME (2016-06) UnitsLength and the spellings of ImageJ, in micrometres; both micro signs exist in the wild.
_MICROMETRES = {
    "pm": 1e-6,
    "å": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}


@dataclass(frozen=True)
class Candidate:
    """A resolution that a file states.

    Attributes:
        value: micrometres per pixel along x, unchecked.
        source: the property it is from, for ``run.json`` and messages.
        value_y: the same along y, if the file says it; None: as along x.
    """

    value: float
    source: str
    value_y: float | None = None

    @property
    def y(self) -> float:
        """Micrometres per pixel along y, unchecked."""
        return self.value if self.value_y is None else self.value_y

    @property
    def plausible(self) -> bool:
        """Whether a microscope could have made it."""
        return plausible(self.value) and plausible(self.y)

    def __str__(self) -> str:
        sides = f"{self.value:g}" if self.value == self.y else f"{self.value:g} x {self.y:g}"
        return f"{sides} ({self.source})"


@dataclass(frozen=True)
class Resolution:
    """The resolution in use.

    Attributes:
        mpp_x: micrometres per pixel of level 0 along x.
        source: where it is from.
        warnings: what is doubtful about it.
        y: micrometres per pixel of level 0 along y, where pixels are not square.
    """

    mpp_x: float
    source: str
    warnings: tuple[str, ...] = ()
    y: float | None = None

    @property
    def mpp_y(self) -> float:
        """Micrometres per pixel of level 0 along y."""
        return self.mpp_x if self.y is None else self.y

    @property
    def mpp(self) -> float:
        """The geometric mean of both, so that ``mpp`` squared is the area of a pixel."""
        return self.mpp_x if self.mpp_x == self.mpp_y else math.sqrt(self.mpp_x * self.mpp_y)


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


def pair(x: float | None, y: float | None, source: str) -> tuple[list[Candidate], list[str]]:
    """The candidate of a horizontal and a vertical resolution, and a warning if pixels are far from square.

    If one of the two is missing, pixels are taken as square.
    """
    if x is None and y is None:
        return [], []
    if x is None or y is None:
        return [Candidate(x or y or 0.0, source)], []
    candidate = Candidate(x, source, y)
    if not candidate.plausible or abs(x - y) <= NON_SQUARE * max(x, y):
        return [candidate], []
    return [candidate], [f"pixels are not square ({x:g} x {y:g} um); each axis is read at its own scale"]


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


def resolve(
    name: str,
    given: float | None,
    candidates: Sequence[Candidate],
    power: float | None = None,
    warnings: Sequence[str] = (),
) -> Resolution:
    """Decide on the resolution of a slide.

    Args:
        name: of the slide, for messages.
        given: what the user says; it wins, and means square pixels.
        candidates: what the file says, most trusted first.
        power: objective power in the file; only used in messages.
        warnings: doubts found while reading the metadata.

    Raises:
        InputError: ``given`` is out of range, or the file states nothing a microscope could have made.
    """
    notes = list(warnings)
    stated = next((c for c in candidates if c.plausible), None)
    if given is not None:
        mpp = check_mpp(given, name)
        # The notes doubt the metadata, which is not used.
        notes = []
        if stated and max(abs(stated.value - mpp), abs(stated.y - mpp)) > DISAGREEMENT * mpp:
            notes.append(f"mpp {mpp:g} as given is used; the file says {stated}")
        return Resolution(mpp, "given", tuple(notes))
    if stated is None:
        raise InputError(_no_mpp(name, candidates, power))
    found = Resolution(stated.value, stated.source, y=None if stated.y == stated.value else stated.y)
    if power and power > 0 and not 1 / POWER_FACTOR < found.mpp * power / 10 < POWER_FACTOR:
        notes.append(
            f"mpp {stated} does not go with an objective power of {power:g}x, which is about {10 / power:g}; "
            "if cells come out wrong, pass `mpp`"
        )
    return replace(found, warnings=tuple(notes))


def _no_mpp(name: str, candidates: Sequence[Candidate], power: float | None) -> str:
    if candidates:
        stated = " and ".join(str(candidate) for candidate in candidates)
        problem = f"its metadata gives {stated} um per pixel, outside {LOWEST:g} to {HIGHEST:g}"
    else:
        problem = "its metadata gives no micrometres per pixel"
    if power and plausible(10 / power):
        return f"{name}: {problem}; objective power is {power:g}x: if that is right, pass `mpp={10 / power:g}`"
    return f"{name}: {problem}; pass `mpp`, e.g. `mpp=0.5` for a 20x scan"
