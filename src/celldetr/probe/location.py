"""How much an embedding knows of where its cell lies: what ``celldetr probe --where`` measures.

Location-feature decoupling promises that where a cell is does not enter what it looks like. These measurements test it
on trained weights, at true boxes, so that no detector has a say:

- **Readout**: tiles are embedded one by one. A ridge regression, and a small perceptron beside it, predict from each
  embedding the cell's place in its tile: x, y and the distance to the nearest border. They are fitted on four fifths
  of the images and scored on the rest, five times. R2 = 0: the embedding says nothing about the place; 1: all of it.
- **Origin**: the same tile with another origin of coordinates.
- **Tile**: the same cells in another tile, ``MARGIN_PX`` further; cells ``MARGIN_PX`` and more from the edges of both.
- **Surroundings**: everything beyond the box and ``MARGIN_PX`` around it in the tile's mean colour.

Movements are the root mean square distance between two embeddings of a cell, over the root mean square distance of a
cell from the mean of all cells, so that two cells that have nothing in common are the square root of 2 apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.boxes import normalise_boxes
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.model.inference import TilePredictor, padded
from celldetr.probe.classify import standardise

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


@dataclass(frozen=True)
class TileCells:
    """N cells of tiles.

    Attributes:
        embeddings: (N, d).
        types: (N,) most probable type.
        places: (N, 3) x, y and the distance to the nearest border, as fractions of the tile's side.
        images: (N,) index of the image that a cell's tile is from.
        cells: (N,) index of the cell among all cells of the samples, in their order.
    """

    embeddings: NDArray[np.float32]
    types: NDArray[np.int64]
    places: NDArray[np.float64]
    images: NDArray[np.int64]
    cells: NDArray[np.int64]


@dataclass(frozen=True)
class LocationReport:
    """What embeddings know of places; see the module.

    Attributes:
        cells, images: looked at.
        readout: regression -> target (``TARGETS``) -> R2.
        origin: shift in pixels -> movement and share of types that stay.
        tile, surroundings: movement and share of types that stay.
    """

    cells: int
    images: int
    readout: dict[str, dict[str, float]]
    origin: dict[int, tuple[float, float]]
    tile: tuple[float, float]
    surroundings: tuple[float, float]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_location(
    predictor: TilePredictor,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
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
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, passes)

    here = embed_tiles(predictor, samples)
    if len(np.unique(here.images)) < FOLDS:
        raise InputError(
            f"{len(np.unique(here.images))} images hold a tile of {TILE_PX} px with cells at {predictor.mpp:g} um per "
            f"pixel; the readout needs {FOLDS} or more"
        )
    advance()
    origin = {}
    for shift in ORIGINS_PX:
        moved = embed_tiles(predictor, samples, origin=shift)
        origin[shift] = movement(here.embeddings, moved.embeddings), float((here.types == moved.types).mean())
        advance()
    tile = _across_tiles(here, embed_tiles(predictor, samples, start=MARGIN_PX))
    advance()
    surroundings = _without_surroundings(predictor, samples, here, seed)
    advance()
    return LocationReport(len(here.cells), len(np.unique(here.images)), readout(here, seed), origin, tile, surroundings)


def embed_tiles(
    predictor: TilePredictor, samples: Sequence[Sample], *, start: int = 0, origin: float = 0.0
) -> TileCells:
    """Embed the cells of samples, each in its tile of a grid that begins ``start`` pixels from the image's corner.

    Args:
        predictor, samples: as of ``measure_location``.
        start: pixels.
        origin: pixel coordinate, x and y, of each tile's corner.
    """
    parts: list[tuple[NDArray, ...]] = []
    first = 0
    for number, sample in enumerate(samples):
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        for corner in tile_corners(sample, start):
            inside = np.flatnonzero(((centres >= corner) & (centres < corner + TILE_PX)).all(1))
            if not len(inside):
                continue
            x, y = corner
            boxes = np.clip(sample.boxes[inside] - np.tile(corner, 2), 0, TILE_PX)
            vectors, types = embed(predictor, sample.image[y : y + TILE_PX, x : x + TILE_PX], boxes, origin)
            places = place_in_tile(centres[inside] - corner)
            parts.append((vectors, types, places, np.full(len(inside), number), first + inside))
        first += len(sample)
    if not parts:
        raise InputError(f"no image holds a tile of {TILE_PX} px with cells at {predictor.mpp:g} um per pixel")
    return TileCells(*(np.concatenate(part) for part in zip(*parts, strict=True)))


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


def place_in_tile(centres: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 2) centres in pixels of their tile -> (N, 3) x, y and distance to the border, fractions of the side."""
    relative = np.asarray(centres, np.float64) / TILE_PX
    return np.column_stack([relative, np.minimum(relative, 1 - relative).min(1)])


def readout(cells: TileCells, seed: int = 0) -> dict[str, dict[str, float]]:
    """R2 of the place read from embeddings, on images that the regressions were not fitted on.

    Returns:
        ``{"ridge": {"x": R2, "y": R2, "border": R2}, "perceptron": {...}}``, pooled over the folds.
    """
    rng = np.random.default_rng(seed)
    names, which = np.unique(cells.images, return_inverse=True)
    fold = (rng.permutation(len(names)) % FOLDS)[which]
    regressions = {"ridge": _ridge, "perceptron": _perceptron}
    predicted = {name: np.empty_like(cells.places) for name in regressions}
    mean = np.empty_like(cells.places)  # of the cells that were fitted on: what to guess without an embedding
    for k in range(FOLDS):
        out = fold == k
        train, test = standardise(cells.embeddings[~out], cells.embeddings[out])
        mean[out] = cells.places[~out].mean(0)
        for name, predict in regressions.items():
            predicted[name][out] = predict(train, cells.places[~out], test, seed)
    total = ((cells.places - mean) ** 2).sum(0)
    return {
        name: dict(zip(TARGETS, (1 - ((cells.places - guess) ** 2).sum(0) / total).tolist(), strict=True))
        for name, guess in predicted.items()
    }


def _ridge(train: NDArray, places: NDArray[np.float64], test: NDArray, seed: int) -> NDArray[np.float64]:
    from sklearn.linear_model import Ridge

    return np.asarray(Ridge(alpha=RIDGE, random_state=seed).fit(train, places).predict(test))


def _perceptron(train: NDArray, places: NDArray[np.float64], test: NDArray, seed: int) -> NDArray[np.float64]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is the regularisation
        model = MLPRegressor(
            hidden_layer_sizes=(HIDDEN,), alpha=1e-2, learning_rate_init=2e-3, max_iter=EPOCHS, random_state=seed
        )
        mean, sd = places.mean(0), places.std(0)
        return np.asarray(model.fit(train, (places - mean) / sd).predict(test)) * sd + mean


def movement(
    before: NDArray[np.floating], after: NDArray[np.floating], among: NDArray[np.floating] | None = None
) -> float:
    """Root mean square distance between vectors of the same cells, over the spread of ``among`` (or ``before``)."""
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    every = first if among is None else np.asarray(among, np.float64)
    spread = ((every - every.mean(0)) ** 2).sum(1).mean()
    return float(np.sqrt(((first - second) ** 2).sum(1).mean() / spread))


def _across_tiles(here: TileCells, there: TileCells) -> tuple[float, float]:
    """Movement and equal types of the cells that are far from the edges of both tiles; NaN if there is none."""
    far = MARGIN_PX / TILE_PX
    kept = [cells.places[:, 2] >= far for cells in (here, there)]
    _, first, second = np.intersect1d(here.cells[kept[0]], there.cells[kept[1]], return_indices=True)
    if not len(first):
        return float("nan"), float("nan")
    a, b = (
        cells.embeddings[keep][index] for cells, keep, index in zip((here, there), kept, (first, second), strict=True)
    )
    types = here.types[kept[0]][first] == there.types[kept[1]][second]
    return movement(a, b, here.embeddings), float(types.mean())


def _without_surroundings(
    predictor: TilePredictor, samples: Sequence[Sample], here: TileCells, seed: int
) -> tuple[float, float]:
    """Movement and equal types of some cells when all but their box and ``MARGIN_PX`` around it is painted over."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(here.cells))[:OCCLUDED])
    starts = np.cumsum([0, *(len(sample) for sample in samples)])
    vectors, types = [], []
    for i in chosen:
        sample = samples[here.images[i]]
        box = sample.boxes[here.cells[i] - starts[here.images[i]]]
        corner = ((box[:2] + box[2:]) / 2 // TILE_PX).astype(int) * TILE_PX
        tile = sample.image[corner[1] : corner[1] + TILE_PX, corner[0] : corner[0] + TILE_PX]
        own = np.clip(box - np.tile(corner, 2), 0, TILE_PX)
        vector, kind = embed(predictor, occluded(tile, own, MARGIN_PX), own[None])
        vectors.append(vector[0])
        types.append(kind[0])
    moved = movement(here.embeddings[chosen], np.stack(vectors), here.embeddings)
    return moved, float((np.array(types) == here.types[chosen]).mean())


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
    from rich.table import Table

    first = next(iter(reports.values()))
    table = Table(title=f"Place in embeddings: {first.cells:,} cells of {first.images} images")
    for name in ("", *reports):
        table.add_column(name, justify="right" if name else "left")
    for name in first.readout:
        r2 = (report.readout[name] for report in reports.values())
        table.add_row(f"R2 of x / y / border, {name}", *(" / ".join(f"{x[t]:.3f}" for t in TARGETS) for x in r2))
    moves = [[*report.origin.values(), report.tile, report.surroundings] for report in reports.values()]
    names = (*(f"origin moved by {px} px" for px in ORIGINS_PX), "another tile", "surroundings painted over")
    for name, row in zip(names, zip(*moves, strict=True), strict=True):
        table.add_row(name, *(f"moved {moved:.3f}, types kept {kept:.1%}" for moved, kept in row))
    return table
