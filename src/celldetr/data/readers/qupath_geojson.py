"""Data set of QuPath's GeoJSON: for each image or slide a file of the same name with its cells, and maybe regions.

Of a file with regions only what lies in them is read, and only the cells whose centre does: nuclei outside have no
label and must not be taken for background, so what is outside a region that is no rectangle is painted over. Without
regions the image is read as a whole if it is small; of a slide those squares that hold a cell are.

Large regions come in pieces, which are images of their own and of one group. Polygons become their bounds, points get
boxes by ``celldetr.data.pseudo_boxes``. Pixels come from ``celldetr.slide``, at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.config import Config, parse
from celldetr.data.augment import background_colour
from celldetr.data.card import DatasetCard
from celldetr.data.pseudo_boxes import pseudo_boxes
from celldetr.data.readers.common import SLACK, check_inside, read_lines, type_index
from celldetr.data.readers.qupath_objects import REGIONS, SUFFIXES, Objects, read_objects
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.tiling import Rectangle, piece_name, rectangles
from celldetr.errors import InputError
from celldetr.io.safe_io import is_dir, is_file
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import IMAGES, SLIDES, open_slide

WHOLE_UM = 1600.0  # an image of no more than this a side is read as a whole, without a region too
MOST_PIXELS = 256 * 2**20  # of the images of one file, which are held in memory
LARGEST_UM = 60.0  # no nucleus measures more


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
    options = parse(QuPathOptions, card.options, f"options of dataset {card.name!r}")
    images, files = find_files(card, split, options)
    for path in files:
        objects = read_objects(path, options.regions)
        with open_slide(find_image(path, images, alone=len(files) == 1), card.mpp) as slide:
            yield from _samples(card, slide, objects, path)


def find_files(card: DatasetCard, split: str, options: QuPathOptions) -> tuple[Path, list[Path]]:
    """The folder of the images, and the GeoJSON files of a split.

    Raises:
        InputError: one is missing.
    """
    root, value = card.directory(), card.split(split)
    folder = "" if isinstance(value, list) or is_file(root / str(value)) else str(value)
    images, labels = (root / each.replace("{split}", folder) for each in (options.images, options.labels))
    labels = labels if "{split}" in options.labels else labels / folder
    images = images if "{split}" in options.images else images / folder
    for each in (images, labels):
        if not is_dir(each):
            raise InputError(f"dataset {card.name!r}, split {split!r}: no directory {each}")
    if folder:
        return images, sorted(path for path in labels.iterdir() if path.name.lower().endswith(SUFFIXES))
    names = value if isinstance(value, list) else [line for line in read_lines(root / str(value)) if line]
    found = []
    for name in names:
        paths = [labels / f"{name}{end}" for end in ("", *SUFFIXES)]
        path = next((path for path in paths if is_file(path)), None)
        if path is None:
            raise InputError(f"dataset {card.name!r}, split {split!r}: no GeoJSON file {name!r} in {labels}")
        found.append(path)
    return images, found


def stem_of(path: Path) -> str:
    """``case 7`` of ``case 7.geojson`` and ``case 7.geojson.gz``."""
    name = path.name.removesuffix(".gz")
    return name[: -len(".geojson")] if name.lower().endswith(".geojson") else Path(name).stem


def find_image(path: Path, folder: Path, *, alone: bool) -> Path:
    """The image or slide of a GeoJSON file: of the same name, or the only one beside the only file.

    Raises:
        InputError: there is none, or more than one.
    """
    stem = stem_of(path)
    there = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    files = [each for each in there if each.suffix.lower() in SLIDES | IMAGES]
    named = [each for each in files if stem in (each.name, each.stem, each.name.lower().removesuffix(".ome.tif"))]
    named = named or [each for each in files if each.name.startswith(f"{stem}.ome.")]
    if not named and alone and len(files) == 1:
        named = files
    if len(named) != 1:
        what = f"{len(named)} images ({', '.join(each.name for each in named)})" if named else "no image or slide"
        raise InputError(f"{path}: there is {what} called {stem!r} in {folder}; expected one, e.g. {stem}.png or .svs")
    return named[0]


def _samples(card: DatasetCard, slide: SlideReader, objects: Objects, path: Path) -> Iterator[Sample]:
    """The images of one file."""
    shift = np.array(slide.bounds[:2] if slide.bounds else (0, 0), dtype=np.float64)
    places, boxes = objects.places + shift, objects.boxes + np.tile(shift, 2)
    _check(objects, places, boxes, slide)
    places = np.clip(places, 0, np.array([slide.width, slide.height]) - 1e-3)
    types = np.array(
        [_type(card, name, row) for name, row in zip(objects.classes, objects.rows, strict=True)], np.int64
    )
    pixels = 0
    for box, region in _areas(slide, objects, places, shift):
        chosen = np.flatnonzero((places >= box[:2]).all(1) & (places < box[2:]).all(1))
        if region is not None:
            chosen = chosen[shapely.contains_xy(region, *places[chosen].T)]
        elif objects.regions is None and not len(chosen) and not _is_small(slide):
            continue
        x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
        pixels += width * height
        if pixels > MOST_PIXELS:
            raise InputError(
                f"{path}: its regions hold more than {MOST_PIXELS / 1e6:.0f} million pixels; draw smaller ones"
            )
        image = slide.read_region(x, y, width, height, width, height)
        if region is not None:
            image = _painted_over(image, (x, y), region)
        name = stem_of(path)
        whole = width == slide.width and height == slide.height
        yield Sample(
            name=name if whole else piece_name(name, box),
            image=image,
            mpp=slide.mpp,
            boxes=_boxes(image, objects, boxes[chosen], chosen, (x, y), slide.mpp),
            types=types[chosen],
            type_names=card.type_names,
            points=np.clip(places[chosen] - (x, y), 0, [width, height]).astype(np.float32),
            group=card.group_of(name),
            derived_boxes=bool(objects.points[chosen].any()),
        )


def _check(objects: Objects, places: NDArray[np.float64], boxes: NDArray[np.float64], slide: SlideReader) -> None:
    outside = (places < -SLACK).any(1) | (places > np.array([slide.width, slide.height]) + SLACK).any(1)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{objects.rows[row]}: lies at ({places[row, 0]:g}, {places[row, 1]:g}), outside of {slide.file}"
            f" of {slide.width} x {slide.height} px; is this its image?"
        )
    large = ((boxes[:, 2:] - boxes[:, :2]) * slide.mpp > LARGEST_UM).any(1)
    if large.any():
        row = int(np.flatnonzero(large)[0])
        size = (boxes[row, 2:] - boxes[row, :2]) * slide.mpp
        raise InputError(
            f"{objects.rows[row]}: measures {size[0]:.0f} x {size[1]:.0f} um, more than any nucleus; if it delimits"
            f" what is labelled, give it the class {REGIONS[0]!r} in QuPath, else delete it (or is mpp={slide.mpp:g}"
            " wrong?)"
        )


def _type(card: DatasetCard, name: str, where: str) -> int:
    return type_index(card, name, where) if name or card.single_type else UNKNOWN


def _is_small(slide: SlideReader) -> bool:
    return max(slide.width, slide.height) * slide.mpp <= WHOLE_UM


def _areas(
    slide: SlideReader, objects: Objects, places: NDArray[np.float64], shift: NDArray[np.float64]
) -> Iterator[tuple[Rectangle, shapely.Polygon | None]]:
    """Rectangles (xyxy, level-0 px) that become images, and the region they are cut from if it is no rectangle."""
    whole = shapely.box(0, 0, slide.width, slide.height)
    if objects.regions is None:
        yield from ((box, None) for box in rectangles((0, 0, slide.width, slide.height), slide.mpp))
        return
    for region in objects.regions:
        moved = shapely.transform(region, lambda points: points + shift)
        for part in shapely.get_parts(shapely.intersection(moved, whole)):
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
    image: NDArray[np.uint8],
    objects: Objects,
    boxes: NDArray[np.float64],
    chosen: NDArray[np.int64],
    corner: tuple[int, int],
    mpp: float,
) -> NDArray[np.float32]:
    """(N, 4) boxes of the chosen cells in pixels of the image, clipped to it."""
    height, width = image.shape[:2]
    moved = np.clip(boxes - np.tile(corner, 2), 0, [width, height, width, height]).astype(np.float32)
    points = objects.points[chosen]
    if points.any():
        moved[points] = pseudo_boxes(image, moved[points, :2], mpp)
    return check_inside(moved, image.shape, [objects.rows[i] for i in chosen])
