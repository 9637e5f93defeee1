"""HTML pages from the templates in ``templates/``: one file each, without scripts or anything from outside.

Every value is escaped by the template engine (autoescape), and a name that a template does not get is an error.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from celldetr.io.files import replacing


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


@cache
def templates() -> Environment:
    """The templates, which escape every value and know ``number`` and ``duration`` as filters."""
    environment = Environment(
        loader=PackageLoader("celldetr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration}
    return environment


def render(template: str, **values: Any) -> str:
    """A page from the template of that name."""
    return templates().get_template(template).render(values)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into a file, replacing an older one; returns the file.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    with replacing(path) as temporary:
        temporary.write_text(render(template, **values), encoding="utf-8")
    return path
