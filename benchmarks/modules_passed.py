"""Which modules does a slide pass on its way to its rows? Followed through the calls of ``celldetr.predict_slide``.

python benchmarks/modules_passed.py

A module is passed if one of its functions holds what is on the way: the open slide, pixels, detected cells, rows.
Modules of ``celldetr.model`` are not counted. The way ends when ``cells.parquet`` is there. A call that leads from a
subpackage up into a module of the package root (``celldetr/api.py``) is a climb.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

import celldetr
from celldetr.model.output import TileCells
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.table_writer import write_table

PACKAGE = Path(celldetr.__file__).parent
BASE = ("errors", "boxes", "config")  # root modules below all others: no climb
REGION = (900.0, 900.0, 400.0, 400.0)


def carried(value: Any, depth: int = 2) -> bool:
    """Whether a value is, or holds, a part of the slide."""
    if isinstance(value, SlideReader | TileCells | Image.Image):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == 3
    if isinstance(value, pa.Table):
        return "x_px" in value.schema.names
    if depth and isinstance(value, list | tuple):
        return any(carried(item, depth - 1) for item in value)
    fields = getattr(value, "__dataclass_fields__", ())
    return bool(depth) and any(carried(getattr(value, name, None), depth - 1) for name in fields)


class Way:
    """Modules in the order in which they are first passed, and climbs; a profile function."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self.climbs: dict[str, None] = {}
        self.ended = False

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        name = module_of(frame) if event in ("call", "return") and not self.ended else None
        if name is None:
            return
        if event == "call":
            caller = frame.f_back
            while caller is not None and module_of(caller) is None:
                caller = caller.f_back
            above = None if caller is None else module_of(caller)
            if above is not None and "." in above and "." not in name and name not in BASE:
                self.climbs[f"{above} -> {name}"] = None
        if event == "return" and carried(value):
            self.modules.setdefault(name, frame.f_code.co_qualname)
        self.look(frame)
        if event == "return" and frame.f_code is write_table.__code__:
            self.ended = True
            outer = frame.f_back
            while outer is not None:  # functions that have not returned yet
                self.look(outer)
                outer = outer.f_back
            sys.setprofile(None)
            threading.setprofile(None)

    def look(self, frame: FrameType) -> None:
        """Note the module of a frame that holds a part of the slide."""
        name = module_of(frame)
        if name is not None and any(map(carried, frame.f_locals.values())):
            self.modules.setdefault(name, frame.f_code.co_qualname)


def module_of(frame: FrameType) -> str | None:
    """``slide.engine``; None outside the package."""
    return module_at(frame.f_code.co_filename)


@cache
def module_at(file: str) -> str | None:
    path = Path(file)
    return None if PACKAGE not in path.parents else ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def main() -> None:
    model = celldetr.load_model(precision="32")
    way = Way()
    with tempfile.TemporaryDirectory() as folder:
        threading.setprofile(way)
        sys.setprofile(way)
        celldetr.predict_slide(celldetr.sample_slide(), folder, model=model, options=PredictOptions(region=REGION))
    passed = {name: first for name, first in way.modules.items() if not name.startswith("model.")}
    for number, (name, first) in enumerate(passed.items(), 1):
        print(f"{number:3d}  {name:24s} {first}")
    print(
        f"{len(passed)} modules outside of model/, {len(way.climbs)} climbs into the package root",
        *way.climbs,
        sep="\n",
    )


if __name__ == "__main__":
    main()
