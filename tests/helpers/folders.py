"""Small data sets written to a temporary folder, with a card that tells the truth; tests then make it lie."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from celldetr.data.card import DatasetCard, load_card

HEIGHT, WIDTH = 40, 60


def write_image(path: Path, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(120, 250, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def write_card(folder: Path, **changes: Any) -> DatasetCard:
    values = {
        "name": "toy",
        "title": "Toy",
        "format": "points_csv",
        "root": ".",
        "mpp": 0.5,
        "types": {"round": ["r"], "long": ["l", "e"]},
        "splits": {"train": "train", "named": ["a"]},
        "licence": "CC0-1.0",
        "citation": "none",
        "url": "https://example.org/toy",
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return load_card(path)


def write_csv(path: Path, rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_instances(
    folder: Path, name: str, boxes: dict[int, tuple[int, int, int, int]], labels: dict[int, str]
) -> None:
    """A map of filled rectangles, and its labels."""
    instances = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    for number, (x0, y0, x1, y1) in boxes.items():
        instances[y0:y1, x0:x1] = number
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    Image.fromarray(instances).save(folder / "labels" / f"{name}_inst.png")
    (folder / "labels" / f"{name}_types.json").write_text(json.dumps(labels))
