"""What all pages share: one file without scripts or outside resources, in the style of ``summary.css``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files


def document(title: str, body: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML, in which everything that is not ours is escaped.
    """
    style = files("celldetr.report").joinpath("summary.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def swatch(colour: str) -> str:
    """A little square of a CSS colour, which stands before the name of a type."""
    return f'<span class="swatch" style="background:{colour}"></span>'


def number(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    """A number as text, a dash where it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:{form}}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``48 s``, ``12 min``, ``7.5 h``, ``3.2 days``."""
    if seconds is None:
        return "–"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.1f} {unit}" if unit == "h" or value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
