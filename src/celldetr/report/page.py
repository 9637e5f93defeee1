"""HTML pages from the templates in ``templates/``: one file each, without scripts or anything from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def origin(run: Mapping[str, Any]) -> str:
    """One line about what made a result: model, version and day, as far as its record says."""
    model, version = (run.get("model") or {}).get("name"), run.get("version")
    day = str(run.get("ended") or "").split("T")[0]
    known = (f"model {model}" if model else "", f"CellDETR {version}" if version else "", day)
    return " · ".join(part for part in known if part)


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


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into a file, replacing an older one; returns the file."""
    with replacing(path) as temporary:
        temporary.write_text(templates().get_template(template).render(values), encoding="utf-8")
    return path
