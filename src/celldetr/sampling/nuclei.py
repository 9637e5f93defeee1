"""The nuclei of patches: detected by a model, or annotated in QuPath. A nucleus is in the patch with its centre."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.data.pseudo_boxes import pseudo_boxes
from celldetr.data.readers.qupath_objects import PACKED, Objects, read_objects
from celldetr.errors import InputError
from celldetr.io.safe_io import is_dir, is_file
from celldetr.slide.base_reader import SlideReader

if TYPE_CHECKING:
    from celldetr.model.output import TileModel

CONTEXT_PX = 32  # that a model sees beyond each edge of a patch: half the overlap of ``celldetr predict``

Boxes = tuple[NDArray[np.float32], NDArray[np.float32]]  # (N, 4) xyxy in px of a patch, and (N,) scores


@dataclass(frozen=True)
class Cut:
    """A patch and what is around it.

    Attributes:
        x, y: top left corner of the patch, level-0 px.
        step: level-0 px per px along x and y.
        mpp: micrometres per px.
        pixels: (px + 2 margin, px + 2 margin, 3) uint8 RGB, white outside of the slide.
        margin: px around the patch.
    """

    x: float
    y: float
    step: tuple[float, float]
    mpp: float
    pixels: NDArray[np.uint8]
    margin: int

    @property
    def image(self) -> NDArray[np.uint8]:
        """(px, px, 3) the patch itself."""
        end = len(self.pixels) - self.margin
        return np.ascontiguousarray(self.pixels[self.margin : end, self.margin : end])


@dataclass(frozen=True)
class SlideNuclei:
    """The nuclei of a slide.

    Attributes:
        find: the nuclei of each of some patches, clipped to it.
        regions: level-0 px: the parts where all nuclei are known; none: everywhere.
    """

    find: Callable[[Sequence[Cut]], list[Boxes]]
    regions: tuple[shapely.Polygon, ...] = ()


class NucleusSource(ABC):
    """Where the nuclei of slides are from."""

    margin: int  # px needed around a patch
    mpp: float | None  # micrometres per pixel that patches must have; None: any

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """For ``set.json``: what decides which nuclei there are. JSON-able."""

    @abstractmethod
    def of_slide(self, reader: SlideReader) -> SlideNuclei:
        """The nuclei of one slide.

        Raises:
            InputError: there are none for it.
        """


class FoundByModel(NucleusSource):
    """Nuclei that a model detects, with its scores.

    Raises:
        InputError: the model understands images of one size only.
    """

    def __init__(self, model: TileModel) -> None:
        if model.image_px is not None:
            raise InputError(
                f"this model measures in fractions of images of {model.image_px} px (coordinates='image'), and patches"
                " have another size with what is around them; use a model with coordinates='pixels', or boxes of QuPath"
            )
        self.model, self.margin, self.mpp = model, CONTEXT_PX, model.mpp

    def describe(self) -> dict[str, object]:
        """The model."""
        return {"model": self.model.describe()}

    def of_slide(self, reader: SlideReader) -> SlideNuclei:
        """The same for every slide."""
        return SlideNuclei(self._detect)

    def _detect(self, cuts: Sequence[Cut]) -> list[Boxes]:
        tiles = self.model.predict_tiles([cut.pixels for cut in cuts])
        return [
            within(cells.boxes - cut.margin, cells.scores, len(cut.pixels) - 2 * cut.margin)
            for cut, cells in zip(cuts, tiles, strict=True)
        ]


class FromQuPath(NucleusSource):
    """Nuclei in QuPath's GeoJSON: cells, detections, points, and annotations drawn around nuclei. Scores are 1.

    Args:
        path: a file, for one slide; or a folder with SLIDE.geojson for each.

    Raises:
        InputError: no such file or folder.
    """

    margin, mpp = 0, None

    def __init__(self, path: Path) -> None:
        if not is_file(path) and not is_dir(path):
            raise InputError(f"{path}: no such file or folder; expected QuPath's GeoJSON, or a folder of SLIDE.geojson")
        self.path = path

    def describe(self) -> dict[str, object]:
        """Name of the file or folder, and a digest of what is in it."""
        folder = is_dir(self.path)
        files = (
            sorted(file for file in self.path.iterdir() if file.name.lower().endswith(PACKED))
            if folder
            else [self.path]
        )
        digest = hashlib.sha256()
        for path in files:
            digest.update(path.name.encode("utf-8", "surrogateescape"))
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return {"boxes": self.path.name, "boxes_sha256": digest.hexdigest()}

    def of_slide(self, reader: SlideReader) -> SlideNuclei:
        """Read the slide's file.

        Raises:
            InputError: there is none, it is not GeoJSON, or it lies outside of the slide.
        """
        file = self.path
        if is_dir(file):
            files = [file / f"{reader.name}{suffix}" for suffix in PACKED]
            file = next((path for path in files if is_file(path)), files[0])
        objects = read_objects(file, mpp=reader.mpp).on_slide(reader)
        return SlideNuclei(partial(_annotated, objects), objects.regions or ())


def _annotated(objects: Objects, cuts: Sequence[Cut]) -> list[Boxes]:
    """The annotated nuclei of each patch."""
    nuclei = []
    for cut in cuts:
        px = len(cut.pixels) - 2 * cut.margin
        corner, step = np.array([cut.x, cut.y]), np.array(cut.step)
        places = (objects.places - corner) / step
        inside = np.flatnonzero(((places >= 0) & (places < px)).all(1))
        boxes = ((objects.boxes[inside] - np.tile(corner, 2)) / np.tile(step, 2)).astype(np.float32)
        points = objects.points[inside]
        if points.any():
            boxes[points] = pseudo_boxes(cut.image, places[inside][points].astype(np.float32), cut.mpp)
        nuclei.append(within(boxes, np.ones(len(boxes), dtype=np.float32), px))
    return nuclei


def within(boxes: NDArray[np.float32], scores: NDArray[np.float32], px: int) -> Boxes:
    """The boxes (N, 4) xyxy, px from the corner of a patch of ``px``, whose centre is in it, clipped to it."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    clipped = np.clip(boxes, 0, px)
    kept = ((centres >= 0) & (centres < px)).all(1) & (clipped[:, 2:] > clipped[:, :2]).all(1)
    return clipped[kept].astype(np.float32), np.clip(scores[kept], 0, 1).astype(np.float32)
