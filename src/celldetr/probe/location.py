"""How much an embedding knows of where its cell lies (``celldetr probe --where``), at true boxes.

- **Readout**: tiles are embedded one by one; a ridge regression and a small perceptron predict x, y and the distance to
  the nearest border from each embedding, on images that they were not fitted on. R2 = 0: it says nothing of the place.
- **Origin**: the same tile with another origin of coordinates.
- **Tile**: the same cells in another tile, ``MARGIN_PX`` further; cells ``MARGIN_PX`` and more from the edges of both.
- **Surroundings**: everything beyond the box and ``MARGIN_PX`` around it in the tile's mean colour.

Movements are root mean square distances between two embeddings of a cell, over that of a cell from the mean of all
cells: two cells that have nothing in common are the square root of 2 apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.boxes import normalise_boxes
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.model.inference import TilePredictor, padded
from celldetr.probe.classify import standardise
from celldetr.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

TILE_PX = 256
MARGIN_PX = 64
ORIGINS_PX = (256, 4096, 8192)
OCCLUDED = 200  # cells, each of which is one more pass through the network
TARGETS = ("x", "y", "border")
FOLDS = 5
RIDGE = 10.0  # penalty of the squared weights, on standardised embeddings
HIDDEN, EPOCHS = 64, 40  # of the perceptron: units of its hidden layer, passes over the cells

Moved = tuple[float, float]
"""Movement, and share of the cells that keep their type."""


@dataclass(frozen=True)
class PlacedCells:
    """N cells of tiles.

    Attributes:
        embeddings: (N, d).
        types: (N,) most probable type.
        places: (N, 3) x, y and the distance to the nearest border, as fractions of the tile's side.
        images: (N,) index of the image that a cell's tile is from.
        cells: (N,) index of the cell in its image.
    """

    embeddings: NDArray[np.float32]
    types: NDArray[np.int64]
    places: NDArray[np.float64]
    images: NDArray[np.int64]
    cells: NDArray[np.int64]

    def select(self, which: NDArray) -> PlacedCells:
        """Some of the cells, by mask or index."""
        return PlacedCells(*(array[which] for array in vars(self).values()))

    def moved(self, after: PlacedCells, among: PlacedCells) -> Moved:
        """How far the same cells are in ``after``, in units of the spread of ``among``."""
        return movement(self.embeddings, after.embeddings, among.embeddings), float((self.types == after.types).mean())


@dataclass(frozen=True)
class LocationReport:
    """What embeddings know of places; see the module.

    Attributes:
        cells, images: how many were measured.
        readout: regression -> target (``TARGETS``) -> R2.
        origin: by shift in pixels.
    """

    cells: int
    images: int
    readout: dict[str, dict[str, float]]
    origin: dict[int, Moved]
    tile: Moved
    surroundings: Moved


def measure_location(
    predictor: TilePredictor, samples: Sequence[Sample], *, seed: int = 0, progress: Progress | None = None
) -> LocationReport:
    """Measure what the embeddings of a network know of the places of cells.

    Args:
        predictor: its network must have a representation decoder.
        samples: labelled images at the network's mpp, ``FOLDS`` at least, larger than ``TILE_PX``.
        seed: of folds, and of the cells whose surroundings are painted over.
        progress: called with the passes that are done and all there are.

    Raises:
        InputError: too few images that hold a tile with cells.
    """
    passes = len(ORIGINS_PX) + 3
    here = embed_tiles(predictor, samples)
    images = len(np.unique(here.images))
    if images < FOLDS:
        raise InputError(
            f"{images} images hold a tile of {TILE_PX} px with cells at {predictor.mpp:g} um per pixel; the readout "
            f"needs {FOLDS} or more"
        )
    origin = {}
    for done, shift in enumerate(ORIGINS_PX, start=1):
        if progress:
            progress(done, passes)
        origin[shift] = here.moved(embed_tiles(predictor, samples, origin=shift), here)
    tile = _across_tiles(here, embed_tiles(predictor, samples, start=MARGIN_PX))
    if progress:
        progress(passes - 1, passes)
    surroundings = _without_surroundings(predictor, samples, here, seed)
    if progress:
        progress(passes, passes)
    return LocationReport(len(here.cells), images, readout(here, seed), origin, tile, surroundings)


def embed_tiles(
    predictor: TilePredictor, samples: Sequence[Sample], *, start: int = 0, origin: float = 0.0
) -> PlacedCells:
    """Embed the cells of samples, each in its tile of a grid that begins ``start`` pixels from the image's corner;
    ``origin`` is the pixel coordinate, x and y, of each tile's corner."""
    parts: list[tuple[NDArray, ...]] = []
    for number, sample in enumerate(samples):
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        for corner in tile_corners(sample, start):
            inside = np.flatnonzero(((centres >= corner) & (centres < corner + TILE_PX)).all(1))
            if len(inside):
                boxes = np.clip(sample.boxes[inside] - np.tile(corner, 2), 0, TILE_PX)
                vectors, types = embed(predictor, _tile(sample, corner), boxes, origin)
                places = place_in_tile(centres[inside] - corner)
                parts.append((vectors, types, places, np.full(len(inside), number), inside))
    if not parts:
        raise InputError(f"no image holds a tile of {TILE_PX} px with cells at {predictor.mpp:g} um per pixel")
    return PlacedCells(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@torch.inference_mode()
def embed(
    predictor: TilePredictor, image: NDArray[np.uint8], boxes: NDArray[np.floating], origin: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(H, W, 3) image and (N, 4) boxes xyxy in its pixels -> (N, d) embeddings and (N,) types."""
    network, height, width = predictor.network, *image.shape[:2]
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(predictor.device)
    where = normalise_boxes(torch.from_numpy(np.asarray(boxes)).float(), width, height)[None].to(predictor.device)
    images, sizes = padded(tensor, network.config.strides[-1])
    corner = torch.full((1, 2), float(origin), device=predictor.device)
    cells = network.represent(network.memorise(images, sizes, corner), where, corner)
    return cells.embeddings[0].float().cpu().numpy(), cells.logits[0].argmax(-1).cpu().numpy()


def tile_corners(sample: Sample, start: int = 0) -> list[NDArray[np.int64]]:
    """(x, y) corners of the whole tiles of an image, the first at (``start``, ``start``)."""
    height, width = sample.image.shape[:2]
    columns, rows = range(start, width - TILE_PX + 1, TILE_PX), range(start, height - TILE_PX + 1, TILE_PX)
    return [np.array([x, y]) for y in rows for x in columns]


def _tile(sample: Sample, corner: NDArray[np.int64]) -> NDArray[np.uint8]:
    x, y = corner
    return sample.image[y : y + TILE_PX, x : x + TILE_PX]


def place_in_tile(centres: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 2) centres in pixels of their tile -> (N, 3) x, y and distance to the border, fractions of the side."""
    relative = np.asarray(centres, np.float64) / TILE_PX
    return np.column_stack([relative, np.minimum(relative, 1 - relative).min(1)])


def readout(cells: PlacedCells, seed: int = 0) -> dict[str, dict[str, float]]:
    """R2 of the place read from embeddings, on images that the regressions were not fitted on.

    Returns:
        ``{"ridge": {"x": R2, "y": R2, "border": R2}, "perceptron": {...}}``, pooled over the folds.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Ridge
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    perceptron = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), alpha=1e-2, learning_rate_init=2e-3, max_iter=EPOCHS, random_state=seed
    )
    regressions = {
        "ridge": Ridge(alpha=RIDGE, random_state=seed),
        "perceptron": TransformedTargetRegressor(perceptron, transformer=StandardScaler()),
    }
    names, which = np.unique(cells.images, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[which]
    predicted = {name: np.empty_like(cells.places) for name in regressions}
    mean = np.empty_like(cells.places)  # of the cells that were fitted on: what to guess without an embedding
    for k in range(FOLDS):
        out = fold == k
        train, test = standardise(cells.embeddings[~out], cells.embeddings[out])
        mean[out] = cells.places[~out].mean(0)
        for name, regression in regressions.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is the regularisation
                predicted[name][out] = regression.fit(train, cells.places[~out]).predict(test)
    total = ((cells.places - mean) ** 2).sum(0)
    r2 = {name: 1 - ((cells.places - guess) ** 2).sum(0) / total for name, guess in predicted.items()}
    return {name: dict(zip(TARGETS, values.tolist(), strict=True)) for name, values in r2.items()}


def movement(
    before: NDArray[np.floating], after: NDArray[np.floating], among: NDArray[np.floating] | None = None
) -> float:
    """Root mean square distance between vectors of the same cells, over the spread of ``among`` (or ``before``)."""
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    every = first if among is None else np.asarray(among, np.float64)
    spread = ((every - every.mean(0)) ** 2).sum(1).mean()
    return float(np.sqrt(((first - second) ** 2).sum(1).mean() / spread))


def _across_tiles(here: PlacedCells, there: PlacedCells) -> Moved:
    """Of the cells that are far from the edges of both tiles; NaN if there is none."""
    far = MARGIN_PX / TILE_PX
    first, second = (cells.select(cells.places[:, 2] >= far) for cells in (here, there))
    ids, others = (cells.images * 2**32 + cells.cells for cells in (first, second))  # unique over all images
    _, i, j = np.intersect1d(ids, others, return_indices=True)
    return first.select(i).moved(second.select(j), here) if len(i) else (float("nan"), float("nan"))


def _without_surroundings(predictor: TilePredictor, samples: Sequence[Sample], here: PlacedCells, seed: int) -> Moved:
    """Of some cells when all but their box and ``MARGIN_PX`` around it is painted over."""
    chosen = here.select(np.sort(np.random.default_rng(seed).permutation(len(here.cells))[:OCCLUDED]))
    vectors, types = [], []
    for image, cell in zip(chosen.images, chosen.cells, strict=True):
        box = samples[image].boxes[cell]
        corner = ((box[:2] + box[2:]) / 2 // TILE_PX).astype(int) * TILE_PX
        own = np.clip(box - np.tile(corner, 2), 0, TILE_PX)
        vector, type_ = embed(predictor, occluded(_tile(samples[image], corner), own, MARGIN_PX), own[None])
        vectors.append(vector)
        types.append(type_)
    return chosen.moved(replace(chosen, embeddings=np.concatenate(vectors), types=np.concatenate(types)), here)


def occluded(image: NDArray[np.uint8], box: NDArray[np.floating], margin: float) -> NDArray[np.uint8]:
    """The image with everything farther than ``margin`` pixels from a box (xyxy) in the image's mean colour."""
    height, width = image.shape[:2]
    x0, y0 = (max(0, int(np.floor(v - margin))) for v in box[:2])
    x1, y1 = (min(n, int(np.ceil(v + margin))) for v, n in zip(box[2:], (width, height), strict=True))
    painted = np.broadcast_to(image.mean((0, 1)).round().astype(np.uint8), image.shape).copy()
    painted[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    return painted


def location_table(reports: Mapping[str, LocationReport]) -> Table:
    """A column per model: R2 of each readout, and movements with the share of types that stay."""
    from celldetr.evaluation.format import number_table

    first = next(iter(reports.values()))
    table = number_table(f"Place in embeddings: {first.cells:,} cells of {first.images} images", ["", *reports])
    for name in first.readout:
        r2 = (report.readout[name] for report in reports.values())
        table.add_row(f"R2 of x / y / border, {name}", *(" / ".join(f"{x[t]:.3f}" for t in TARGETS) for x in r2))
    moves = [[*report.origin.values(), report.tile, report.surroundings] for report in reports.values()]
    names = (*(f"origin moved by {px} px" for px in ORIGINS_PX), "another tile", "surroundings painted over")
    for name, row in zip(names, zip(*moves, strict=True), strict=True):
        table.add_row(name, *(f"moved {moved:.3f}, types kept {kept:.1%}" for moved, kept in row))
    return table
