"""Parts of the sample slide as small images, and the packaged model loaded once: what the tests of the surface use."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

import celldetr
from celldetr.config import Precision

MPP = 0.499  # of the sample slide
COLUMNS = ["cell_id", "x_px", "y_px", "w_px", "h_px", "x_um", "y_um", "score", "type", "type_score"]
COLUMNS += ["p_lymphocyte", "p_epithelial", "p_stromal", "p_other", "familiarity"]
COLUMNS += ["area_um2", "perimeter_um", "major_um", "minor_um", "orientation", "eccentricity", "solidity"]
COLUMNS += ["haematoxylin_mean", "haematoxylin_sd", "eosin_mean", "eosin_sd", "embedding", "geometry"]


@cache
def default_model(precision: Precision = "32") -> celldetr.Model:
    """In float32 unless a test says otherwise: ``auto`` is another arithmetic on another machine."""
    return celldetr.load_model(device="cpu", precision=precision)


@cache
def crop(x: int = 950, y: int = 900, width: int = 300, height: int = 300) -> NDArray[np.uint8]:
    """Tissue with cells of all types."""
    with openslide.OpenSlide(str(celldetr.sample_slide())) as slide:
        return np.asarray(slide.read_region((x, y), 0, (width, height)).convert("RGB"))


def save(pixels: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def white(path: Path) -> Path:
    return save(np.full((200, 220, 3), 255, np.uint8), path)
