"""A small H&E picture with nuclei at known places, and the ways its labels are usually written.

Each case of the corpus is a folder of labels that is damaged, unusual, or exported by another program, beside its twin:
the same labels as they should be. A case must read as its twin does, or be refused with a remedy.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, MPP = 240, 160, 0.5
GLASS, DARK = np.array((236, 205, 224.0)), np.array((88, 52, 128.0))


@dataclass(frozen=True)
class Nucleus:
    """An upright ellipse: centre and half axes in pixels."""

    x: float
    y: float
    a: float
    b: float
    kind: str

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x - self.a, self.y - self.b, self.x + self.a, self.y + self.b

    @property
    def polygon(self) -> shapely.Polygon:
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([self.x + self.a * np.cos(turn), self.y + self.b * np.sin(turn)], axis=1)
        return shapely.Polygon(ring.round(2))


def _nuclei() -> tuple[Nucleus, ...]:
    """Some forty, never two near one another, more of them to the right, of two kinds."""
    rng = np.random.default_rng(7)
    found: list[Nucleus] = []
    for x, y in rng.uniform((12, 12), (WIDTH - 12, HEIGHT - 12), (400, 2)):
        if rng.random() < (x / WIDTH) ** 0.5 and all(np.hypot(x - n.x, y - n.y) > 20 for n in found):
            a, b = rng.uniform(5, 8, 2)
            found.append(Nucleus(round(x, 1), round(y, 1), round(a, 1), round(b, 1), "tumour"))
    return tuple(
        Nucleus(n.x, n.y, n.a, n.b, "immune" if i % 3 == 0 else "tumour") for i, n in enumerate(sorted_by_x(found))
    )


def sorted_by_x(nuclei: Sequence[Nucleus]) -> list[Nucleus]:
    return sorted(nuclei, key=lambda n: (n.x, n.y))


NUCLEI = _nuclei()


def pixels(nuclei: Sequence[Nucleus] = NUCLEI, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """(H, W, 3) the picture, with some noise."""
    return _drawn(tuple(nuclei), width, height).copy()


@cache
def _drawn(nuclei: tuple[Nucleus, ...], width: int, height: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width] + 0.5
    cover = np.zeros((height, width))
    for n in nuclei:
        distance = np.hypot((x - n.x) / n.a, (y - n.y) / n.b)
        cover = np.maximum(cover, np.clip((1 - distance) * min(n.a, n.b) + 0.5, 0, 1))
    image = GLASS + cover[..., None] * (DARK - GLASS) + np.random.default_rng(3).normal(0, 3, (height, width, 1))
    return image.clip(0, 255).round().astype(np.uint8)


def save(path: Path, image: NDArray[np.uint8] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels() if image is None else image).save(path, **options)
    return path


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value))


# ---- the usual ways


def points(header: Sequence[str] | None = ("x", "y", "class"), **rename: str) -> list[list[Any]]:
    """Rows of a table of points."""
    rows: list[list[Any]] = [[n.x, n.y, rename.get(n.kind, n.kind)] for n in NUCLEI]
    return ([list(header)] if header else []) + rows


def write_table(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def segmentation(n: Nucleus) -> list[list[float]]:
    return [np.array(n.polygon.exterior.coords)[:-1].ravel().tolist()]


def coco(name: str = "a.png") -> dict[str, Any]:
    """COCO of the picture, with a size, boxes and segmentations."""
    kinds = {"immune": 1, "tumour": 2}
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": kinds[n.kind],
            "bbox": [n.x - n.a, n.y - n.b, 2 * n.a, 2 * n.b],
            "segmentation": segmentation(n),
            "area": n.polygon.area,
            "iscrowd": 0,
        }
        for i, n in enumerate(NUCLEI, 1)
    ]
    return {
        "images": [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": number, "name": kind} for kind, number in kinds.items()],
        "annotations": annotations,
    }


def feature(n: Nucleus, kind: str = "detection", **properties: Any) -> dict[str, Any]:
    shape = json.loads(shapely.to_geojson(n.polygon))
    own = properties or {"classification": {"name": n.kind, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": shape, "properties": {"objectType": kind} | own}


def features() -> list[dict[str, Any]]:
    return [feature(n) for n in NUCLEI]


def collection(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(items)}


def coco_twin(folder: Path) -> Path:
    save(folder / "images/a.png")
    write_json(folder / "labels.json", coco())
    return folder


def points_twin(folder: Path) -> Path:
    save(folder / "images/a.png")
    write_table(folder / "labels/a.csv", points())
    return folder


def qupath_twin(folder: Path) -> Path:
    save(folder / "a.png")
    write_json(folder / "a.geojson", collection(features()))
    return folder


def boxes_twin(folder: Path) -> Path:
    """Exact boxes of an instance map."""
    save(folder / "images/a.png")
    return folder


# ---- cases


@dataclass(frozen=True)
class Case:
    """A folder of labels and what must come of it.

    Attributes:
        kind: the kind of fault, one word or two.
        make: writes it into a folder -> what is to be read: a folder or a file.
        twin: writes the same labels as they should be; None: there is none, it must be refused.
        must: ``read`` as its twin, be ``refused``, or ``either``.
        says: what notes or the refusal must say (regular expression); "" for a case that must be read without a word.
        mpp: given; None: the file's.
    """

    name: str
    kind: str
    make: Callable[[Path], Path]
    twin: Callable[[Path], Path] | None
    must: str
    says: str | None
    mpp: float | None = MPP


CASES: list[Case] = []


def case(
    kind: str,
    twin: Callable[[Path], Path] | None,
    must: str = "read",
    says: str | None = None,
    mpp: float | None = MPP,
) -> Callable[[Callable[[Path], Path | None]], Callable[[Path], Path | None]]:
    """Add a function that fills a folder to the corpus; it returns what is to be read if that is not the folder."""

    def add(make: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
        name = make.__name__.replace("_", " ").strip()
        assert name not in {each.name for each in CASES}, name
        CASES.append(Case(name, kind, lambda folder: make(folder) or folder, twin, must, says, mpp))
        return make

    return add
