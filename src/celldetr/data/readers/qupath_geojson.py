"""Data set of QuPath's GeoJSON: for each image or slide a file of the same name with its cells, and maybe regions.

With regions, only cells whose centre lies in one are read, and images are cut from the regions. Nuclei outside have no
label and must not become background, so what is outside of a region that is no rectangle is painted over. Without
regions small images are read whole, and of slides the squares that hold a cell.

Large regions come in pieces, which are images of one group. Polygons become their bounds and are masks; points get
boxes by ``celldetr.data.pseudo_boxes``. Pixels are those of full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.config import Config
from celldetr.data.augment import background_colour
from celldetr.data.card import DatasetCard
from celldetr.data.label_checks import LARGEST_UM
from celldetr.data.masks import Polygons
from celldetr.data.pseudo_boxes import pseudo_boxes
from celldetr.data.readers.common import clip_to_image, read_lines, type_index
from celldetr.data.readers.qupath_objects import PACKED, REGIONS, Objects, read_objects, short
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.tiling import Rectangle, piece_name, rectangles
from celldetr.errors import InputError, doubt
from celldetr.io.annotation_json import stated_size
from celldetr.io.left_out import LeftOut
from celldetr.io.names import image_of
from celldetr.io.safe_io import is_dir, is_file
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import IMAGES, SLIDES, UNREADABLE, open_slide

WHOLE_UM = 1600.0  # an image of no more than this a side is read as a whole, without a region too
MOST_PIXELS = 256 * 2**20  # of the images of one file, which are held in memory


class QuPathOptions(Config):
    """Options of the format ``qupath_geojson``; a split is a folder, a list file, or a list of names or files."""

    images: str = "."  # folder of the images or slides; ``{split}`` stands for a split that is a folder
    labels: str = "."  # folder of the GeoJSON files
    regions: tuple[str, ...] = REGIONS  # classes or names of the annotations that delimit what is labelled


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split.

    Raises:
        InputError: a file or its image is missing or unreadable, an object is no cell or of an unknown class, lies
            outside its image, or is larger than any nucleus.
    """
    options = card.options_as(QuPathOptions)
    images, files = find_files(card, split, options)
    for path in files:
        with open_slide(find_image(path, images, alone=len(files) == 1), card.mpp) as slide:
            for note in slide.warnings:
                doubt(f"{slide.file}: {note}")
            size = stated_size(path)
            if size not in (None, (slide.width, slide.height)):
                raise InputError(
                    f"{path}: is of an image of {size} px (width, height), but {slide.file} has"
                    f" {(slide.width, slide.height)}; put the labelled one there"
                )
            objects = read_objects(path, options.regions, slide.mpp)
            yield from _samples(card, slide, objects.on_slide(slide), path)


def find_files(card: DatasetCard, split: str, options: QuPathOptions) -> tuple[Path, list[Path]]:
    """The folder of the images, and the GeoJSON files of a split.

    Raises:
        InputError: one is missing.
    """
    root, value = card.directory(), card.split(split)
    folder = "" if isinstance(value, list) or is_file(root / str(value)) else str(value)
    images, labels = (
        root / each.replace("{split}", folder) if "{split}" in each else root / each / folder
        for each in (options.images, options.labels)
    )
    for each in (images, labels):
        if not is_dir(each):
            raise InputError(f"dataset {card.name!r}, split {split!r}: no directory {each}")
    if folder:
        return images, sorted(path for path in labels.iterdir() if path.name.lower().endswith(PACKED))
    names = value if isinstance(value, list) else [line for line in read_lines(root / str(value)) if line]
    files = []
    for name in names:
        path = next((path for end in ("", *PACKED) if is_file(path := labels / f"{name}{end}")), None)
        if path is None:
            raise InputError(f"dataset {card.name!r}, split {split!r}: no GeoJSON file {name!r} in {labels}")
        files.append(path)
    return images, files


def stem_of(path: Path) -> str:
    """``case 7`` of ``case 7.geojson`` and ``case 7.geojson.gz``."""
    end = next((end for end in PACKED if path.name.lower().endswith(end)), path.suffix)
    return path.name[: len(path.name) - len(end)]


def find_image(path: Path, folder: Path, *, alone: bool) -> Path:
    """The image or slide of a GeoJSON file: of the same name, or the only one beside the only file.

    Raises:
        InputError: there is none, or more than one.
    """
    stem = stem_of(path)
    files = [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")]
    files = [each for each in files if each.suffix.lower() in SLIDES | IMAGES]
    found = image_of(stem, files)
    others = [] if found else [each for each in folder.iterdir() if each.suffix.lower() in UNREADABLE]
    if other := image_of(stem, others):
        suffix = other.suffix.lower()
        raise InputError(f"{other}: the slide of {path.name}, a file {suffix}, which {UNREADABLE[suffix]}")
    if found is None and alone and len(files) == 1:
        found = files[0]
    if found is None:
        raise InputError(
            f"{path}: there is no image or slide called {stem!r} in {folder}; expected one, e.g. {stem}.png or .svs"
        )
    return found


def _samples(card: DatasetCard, slide: SlideReader, objects: Objects, path: Path) -> Iterator[Sample]:
    """The images of one file."""
    _check_sizes(objects, slide)
    places = np.clip(objects.places, 0, np.array([slide.width, slide.height]) - 1e-3)
    types = np.array(
        [
            type_index(card, name, row) if name or card.single_type else UNKNOWN
            for name, row in zip(objects.classes, objects.rows, strict=True)
        ],
        dtype=np.int64,
    )
    is_small = max(slide.width, slide.height) * slide.mpp <= WHOLE_UM
    pixels, name = 0, stem_of(path)
    used = np.zeros(len(places), dtype=bool)
    for box, region in _areas(slide, objects):
        chosen = np.flatnonzero((places >= box[:2]).all(1) & (places < box[2:]).all(1))
        if region is not None:
            chosen = chosen[shapely.contains_xy(region, *places[chosen].T)]
        elif objects.regions is None and not len(chosen) and not is_small:
            continue
        used[chosen] = True
        x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
        pixels += width * height
        if pixels > MOST_PIXELS:
            raise InputError(
                f"{path}: its regions hold more than {MOST_PIXELS / 1e6:.0f} million pixels; draw smaller ones"
            )
        image = slide.read_region(x, y, width, height, width, height)
        if region is not None:
            image = _painted_over(image, (x, y), region)
        is_whole = width == slide.width and height == slide.height
        yield Sample(
            name=name if is_whole else piece_name(name, box),
            image=image,
            mpp=slide.mpp,
            boxes=_boxes(image, objects, chosen, (x, y), slide.mpp),
            types=types[chosen],
            type_names=card.type_names,
            points=np.clip(places[chosen] - (x, y), 0, [width, height]).astype(np.float32),
            group=card.group_of(name),
            derived_boxes=bool(objects.points[chosen].any()),
            masks=_masks(objects, chosen, (x, y)),
        )
    left = LeftOut(path)
    if not used.all():
        left.add("cells outside of the regions", short(objects.rows[int(np.flatnonzero(~used)[0])]), int((~used).sum()))
    left.tell()


def _masks(objects: Objects, chosen: NDArray[np.int64], corner: tuple[int, int]) -> Polygons | None:
    """Masks of the chosen cells in pixels of the image; None of points alone."""
    areas = objects.areas[chosen]
    if len(areas) and objects.points[chosen].all():
        return None
    return Polygons(areas).moved(np.ones(2), -np.array(corner, dtype=np.float64), ())


def _check_sizes(objects: Objects, slide: SlideReader) -> None:
    sizes = (objects.boxes[:, 2:] - objects.boxes[:, :2]) * slide.mpp
    large = (sizes > LARGEST_UM).any(1)
    if large.any():
        row = int(np.flatnonzero(large)[0])
        raise InputError(
            f"{objects.rows[row]}: measures {sizes[row, 0]:.0f} x {sizes[row, 1]:.0f} um, more than any nucleus; if it"
            f" delimits what is labelled, give it the class {REGIONS[0]!r} in QuPath, else delete it (or is"
            f" mpp={slide.mpp:g} wrong?)"
        )


def _areas(slide: SlideReader, objects: Objects) -> Iterator[tuple[Rectangle, shapely.Polygon | None]]:
    """Rectangles (xyxy, level-0 px) that become images, and the region they are cut from if it is no rectangle."""
    if objects.regions is None:
        yield from ((box, None) for box in rectangles((0, 0, slide.width, slide.height), slide.mpp))
        return
    whole = shapely.box(0, 0, slide.width, slide.height)
    for region in objects.regions:
        for part in shapely.get_parts(shapely.intersection(region, whole)):
            if part.geom_type != "Polygon" or not part.area > 1:
                continue
            shapely.prepare(part)
            wider = part.buffer(1)  # px: a rectangle drawn between pixels is one still
            for box in rectangles(part.bounds, slide.mpp):
                rectangle = shapely.box(*box)
                if part.intersection(rectangle).area > 1:
                    yield box, None if wider.covers(rectangle) else part


def _painted_over(image: NDArray[np.uint8], corner: tuple[int, int], region: shapely.Polygon) -> NDArray[np.uint8]:
    """The image with the colour of the glass where the region is not."""
    height, width = image.shape[:2]
    x, y = corner[0] + np.arange(width) + 0.5, corner[1] + np.arange(height) + 0.5
    inside = shapely.contains_xy(region, *np.meshgrid(x, y))
    return np.where(inside[..., None], image, background_colour(image))


def _boxes(
    image: NDArray[np.uint8], objects: Objects, chosen: NDArray[np.int64], corner: tuple[int, int], mpp: float
) -> NDArray[np.float32]:
    """(N, 4) boxes of the chosen cells in pixels of the image, clipped to it."""
    height, width = image.shape[:2]
    boxes = np.clip(objects.boxes[chosen] - np.tile(corner, 2), 0, [width, height, width, height]).astype(np.float32)
    points = objects.points[chosen]
    if points.any():
        boxes[points] = pseudo_boxes(image, boxes[points, :2], mpp)
    return clip_to_image(boxes, image.shape, [objects.rows[i] for i in chosen])
