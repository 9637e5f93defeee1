"""Which modules does a slide pass on its way to its rows, and a labelled tile on its way to its loss?

python benchmarks/modules_passed.py | tee benchmarks/results/modules_passed.txt

Followed through the calls of ``celldetr.predict_slide`` and of ``celldetr.train``. A module is passed if one of its
functions holds what is on the way: of a slide the open slide, pixels, detected cells, rows; of a tile its pixels, and
its labels as sample, targets, matches and training boxes. Modules of ``celldetr.model`` are not counted. The ways end
when ``cells.parquet`` is there, and when the loss is returned. A call that leads from a subpackage up into a module of
the package root (``celldetr/api.py``) is a climb.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

import celldetr
from celldetr.data.dataset import Batch, Targets, TrainingImage
from celldetr.data.sample import Sample
from celldetr.model.output import TileCells
from celldetr.recipes import load_recipe
from celldetr.recipes.own_data import own_sources
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.table_writer import write_table
from celldetr.training.supervised import SupervisedLoss

PACKAGE = Path(celldetr.__file__).parent
BASE = ("errors", "boxes", "config")  # root modules below all others: no climb
REGION = (900.0, 900.0, 400.0, 400.0)
SLIDE = (SlideReader, TileCells, Image.Image)
TILE = (Sample, TrainingImage, Batch, Targets, Image.Image)
RECIPE = ("model.pretrained=none", "training.steps=1", "training.batch_size=2", "training.workers=0")


def carried(value: Any, types: tuple[type, ...], depth: int = 2) -> bool:
    """Whether a value is, or holds, a part of the slide or of the tile."""
    if isinstance(value, types):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == 3
    if isinstance(value, torch.Tensor):
        return value.dtype == torch.uint8 and value.ndim >= 3 and value.shape[-3] == 3
    if isinstance(value, pa.Table):
        return "x_px" in value.schema.names
    if depth and isinstance(value, list | tuple):
        return any(carried(item, types, depth - 1) for item in value[:8])
    fields = getattr(value, "__dataclass_fields__", ())
    return bool(depth) and any(carried(getattr(value, name, None), types, depth - 1) for name in fields)


class Way:
    """Modules in the order in which they are first passed, and climbs; a profile function."""

    def __init__(self, types: tuple[type, ...], end: CodeType) -> None:
        self.types, self.end = types, end
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
        if event == "return" and carried(value, self.types):
            self.modules.setdefault(name, frame.f_code.co_qualname)
        self.look(frame)
        if event == "return" and frame.f_code is self.end:
            self.ended = True
            outer = frame.f_back
            while outer is not None:  # functions that have not returned yet
                self.look(outer)
                outer = outer.f_back
            sys.setprofile(None)
            threading.setprofile(None)

    def look(self, frame: FrameType) -> None:
        """Note the module of a frame that holds what is on the way."""
        name = module_of(frame)
        if name is not None and any(carried(value, self.types) for value in frame.f_locals.values()):
            self.modules.setdefault(name, frame.f_code.co_qualname)

    def follow(self, call: Callable[[], object]) -> None:
        """Call something, and note what it passes."""
        threading.setprofile(self)
        sys.setprofile(self)
        call()

    def report(self, title: str) -> None:
        """Print the modules."""
        passed = {name: first for name, first in self.modules.items() if not name.startswith("model.")}
        print(title)
        for number, (name, first) in enumerate(passed.items(), 1):
            print(f"{number:3d}  {name:24s} {first}")
        print(f"{len(passed)} modules outside of model/, {len(self.climbs)} climbs into the package root")
        print(*(f"  {climb}" for climb in self.climbs), sep="\n")


def module_of(frame: FrameType) -> str | None:
    """``slide.engine``; None outside the package."""
    return module_at(frame.f_code.co_filename)


@cache
def module_at(file: str) -> str | None:
    path = Path(file)
    return None if PACKAGE not in path.parents else ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def labelled(folder: Path) -> Path:
    """Two labelled tiles as COCO; where their boxes are does not matter."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(2):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(folder / name)
        images.append({"id": number, "file_name": name})
        places = rng.integers(0, 230, (10, 2)).tolist()
        annotations += [{"image_id": number, "category_id": 0, "bbox": [*place, 16, 16]} for place in places]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "nucleus"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = celldetr.load_model(precision="32")
        slide = Way(SLIDE, write_table.__code__)
        options = PredictOptions(region=REGION)
        slide.follow(lambda: celldetr.predict_slide(celldetr.sample_slide(), folder, model=model, options=options))
        slide.report("a slide")
        (folder / "data").mkdir()
        data = own_sources(labelled(folder / "data"), mpp=0.5)
        data["validation"] = data["train"]
        recipe = load_recipe("small-20x", RECIPE, data)
        tile = Way(TILE, SupervisedLoss.forward.__code__)
        tile.follow(lambda: celldetr.train(recipe, folder / "run", device="cpu"))
        tile.report("a labelled tile")


if __name__ == "__main__":
    main()
