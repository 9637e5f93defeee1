"""Small labelled data for the tests of the probe: vectors of known types, and a data set that a model can be run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from celldetr.data.sample import Sample
from celldetr.probe.truth import Truth, truth_of

TYPES = ("a", "b", "c")


def truth(images: int, cells: int, seed: int = 0, groups: bool = False) -> Truth:
    """Images of noise, each with cells of random types."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(images):
        low = rng.uniform(2, 40, (cells, 2)).astype(np.float32)
        boxes = np.concatenate([low, low + rng.uniform(6, 14, (cells, 2))], axis=1).astype(np.float32)
        image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        types = rng.choice(3, cells, p=[0.6, 0.3, 0.1])
        points = (boxes[:, :2] + boxes[:, 2:]) / 2
        group = f"patient {i // 2}" if groups else ""
        samples.append(Sample(f"image {seed} {i}", image, 0.4, boxes, types, TYPES, points, group))
    return truth_of(samples)


def vectors(known: Truth, spread: float, seed: int = 0, dim: int = 8) -> NDArray[np.float32]:
    """A centre for each type, the same for all seeds, and noise."""
    centres = np.random.default_rng(99).normal(size=(len(TYPES), dim))
    noise = np.random.default_rng(seed).normal(size=(len(known.types), dim))
    return (centres[known.types] + spread * noise).astype(np.float32)


def write_data_set(folder: Path, images: int = 2) -> Path:
    """Two splits of some images each, dark and light discs of two sizes on pink; returns the card."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(images):
            image = np.full((96, 96, 3), (235, 190, 215), np.uint8)
            rows = ["x,y,class"]
            for k, (x, y) in enumerate(np.stack(np.meshgrid([16, 48, 80], [16, 48, 80]), -1).reshape(-1, 2)):
                yy, xx = np.ogrid[:96, :96]
                dark = (k + i) % 2
                disc = np.hypot(xx - x, yy - y) < (5 if dark else 9)
                image[disc] = (70, 40, 120) if dark else (150, 110, 180)
                rows.append(f"{x},{y},{'r' if dark else 'l'}")
            image = np.clip(image + rng.integers(-8, 8, image.shape), 0, 255).astype(np.uint8)
            (folder / split / "images").mkdir(parents=True, exist_ok=True)
            (folder / split / "labels").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / split / "images" / f"{i}.png")
            (folder / split / "labels" / f"{i}.csv").write_text("\n".join(rows) + "\n")
    values = {
        "name": "discs", "title": "Discs", "format": "points_csv", "root": ".", "mpp": 0.4,
        "types": {"round": ["r"], "large": ["l"]}, "splits": {"train": "train", "test": "test"},
        "licence": "CC0-1.0", "citation": "none",
    }  # fmt: skip
    path = folder / "discs.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
