"""Embeddings of boxes that somebody drew: backbone, encoder and representation decoder, the detector left out.

``cells_at_boxes`` says of boxes in a tile all that a run says of the cells it finds; the others say one thing of boxes.

An image goes through the network whole, or in pieces where it is large. A cell belongs to the piece that holds the
centre of its box; a piece sees ``CONTEXT_PX`` beyond its border, so that no cell is embedded without its surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celldetr.boxes import normalise_boxes
from celldetr.errors import InputError
from celldetr.measure import stains
from celldetr.model.celldetr import CellDETR, Memories, Representations
from celldetr.model.device import in_float32
from celldetr.model.inference import TilePredictor, padded, type_probabilities
from celldetr.model.output import TileCells
from celldetr.outlines import RADII

LARGEST_PX = 1280  # side of an image that is looked at whole
CONTEXT_PX = 64  # what a piece sees beyond its border; a multiple of every stride, as the borders are
_ALIGN = 64  # px; pieces begin where tokens of the coarsest level do
_THINNEST = 1.0  # px; a box that its image leaves less of is this wide


def cuts(size: int, largest: int) -> list[tuple[int, int]]:
    """Divide ``size`` pixels into pieces of about one length, at most ``largest`` px rounded up to a token's place."""
    count = -(-size // largest)
    step = -(-size // count // _ALIGN) * _ALIGN
    return list(pairwise([*range(0, size, step), size]))


EmbedWindow = Callable[[NDArray[np.uint8], NDArray[np.float64]], NDArray[np.float32]]
"""(H, W, 3) part of an image and (N, 4) boxes xyxy in its pixels -> (N, d)."""


def embed_boxes(
    predictor: TilePredictor, image: NDArray[np.uint8], boxes: NDArray[np.floating], largest: int = LARGEST_PX
) -> NDArray[np.float32]:
    """Embed the contents of boxes.

    Args:
        predictor: its network must have a representation decoder; computes in its precision, as a run does.
        image: (H, W, 3) uint8 RGB at the network's mpp.
        boxes: (N, 4) xyxy in pixels of the image; they are clipped to it.
        largest: side of a piece, px.

    Returns:
        (N, d) float32, in the order of the boxes.

    Raises:
        InputError: the network measures in fractions of images of one size, and this one is larger.
    """
    return _represent(predictor, image, boxes, largest, lambda found: found.embeddings, predictor.embedding_dim)


def type_boxes(predictor: TilePredictor, image: NDArray[np.uint8], boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, K) logits of the types of boxes, as ``embed_boxes``."""
    kinds = len(predictor.network.config.types)
    return _represent(predictor, image, boxes, LARGEST_PX, lambda found: found.logits, kinds)


def _represent(
    predictor: TilePredictor,
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    largest: int,
    choose: Callable[[Representations], Tensor],
    dim: int,
) -> NDArray[np.float32]:
    """(N, ``dim``) what ``choose`` takes of what the representation decoder makes of boxes; see ``embed_boxes``."""
    side = predictor.image_px
    if side is not None and max(image.shape[:2]) > side:
        raise InputError(
            f"an image of {image.shape[1]} x {image.shape[0]} px: this model measures in fractions of images of {side} "
            "px (coordinates='image') and can embed boxes in those only; cut the images, or use a model with"
            " coordinates='pixels'"
        )
    # With self-attention among cells, those around a piece's own have their say, as in a run.
    together = predictor.network.config.self_attention != "none"
    network = predictor.network
    look = look_into(predictor, lambda memories, where: choose(network.represent(memories, where)))
    return embed_in_pieces(look, dim, image, boxes, largest, together=together)


def embed_in_pieces(
    look: EmbedWindow,
    dim: int,
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    largest: int = LARGEST_PX,
    *,
    together: bool = False,
) -> NDArray[np.float32]:
    """Embed the contents of boxes of an image that may be too large to be looked at whole.

    Args:
        look: embeds the boxes of a piece.
        dim: d of its vectors.
        image: (H, W, 3).
        boxes: (N, 4) xyxy in pixels of the image; they are clipped to it.
        largest: side of a piece, px.
        together: whether ``look`` wants the boxes around a piece's own as well.

    Returns:
        (N, d) float32, in the order of the boxes.
    """
    height, width = image.shape[:2]
    found = np.zeros((len(boxes), dim), np.float32)
    corners = _clipped(boxes, width, height)
    centre = np.minimum((corners[:, :2] + corners[:, 2:]) / 2, np.array([width, height]) - 1e-3)
    for top, bottom in cuts(height, largest):
        for left, right in cuts(width, largest):
            own = _within(centre, (left, top), (right, bottom))
            if not own.any():
                continue
            x0, y0 = max(left - CONTEXT_PX, 0), max(top - CONTEXT_PX, 0)
            window = image[y0 : bottom + CONTEXT_PX, x0 : right + CONTEXT_PX]
            size = np.array([window.shape[1], window.shape[0]])
            seen = _within(centre, (x0, y0), (x0 + size[0], y0 + size[1])) if together else own
            inside = np.clip(corners[seen] - [x0, y0, x0, y0], 0, np.tile(size, 2))
            found[own] = look(window, inside)[own[seen]]
    return found


def _clipped(boxes: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
    """(N, 4) xyxy boxes -> what an image leaves of them, at least ``_THINNEST`` px along each axis."""
    edge = np.array([width, height], np.float64)
    clipped = np.clip(boxes.astype(np.float64).reshape(-1, 2, 2), 0, edge)
    low = np.minimum(clipped[:, 0], edge - _THINNEST)
    return np.concatenate([low, np.maximum(clipped[:, 1], low + _THINNEST)], axis=1)


def refuse_without_decoder(network: CellDETR) -> None:
    """Refuse a model that embeds the queries of its detector only (represent='queries'), with an InputError."""
    if network.representer is None:
        raise InputError(
            "this model embeds what its detector finds (represent='queries') and cannot embed given cells; choose one"
            " with a representation decoder"
        )


@torch.inference_mode()
@in_float32()
def cells_at_boxes(
    predictor: TilePredictor,
    tile: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    radii: NDArray[np.floating] | None = None,
) -> TileCells:
    """The cells in boxes of a tile, as ``TilePredictor.predict_tiles`` reports those that it finds.

    Args:
        predictor: its network must have a representation decoder; its precision, orientations and outlines are used.
        tile: (H, W, 3) uint8 RGB at the network's mpp.
        boxes: (N, 4) xyxy in pixels of the tile; they are clipped to it.
        radii: (N, ``RADII``) outlines that are known, NaN in rows of others, which the model draws if it can.

    Returns:
        N cells in the order of the boxes: these, with a score of 1. Radii are NaN where there is no outline.

    Raises:
        InputError: the network has no representation decoder.
    """
    network, (height, width) = predictor.network, tile.shape[:2]
    refuse_without_decoder(network)
    clipped = _clipped(boxes, width, height)
    image = torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))[None].to(predictor.device)
    where = normalise_boxes(torch.from_numpy(clipped).float(), width, height)[None].to(predictor.device)
    embeddings, probabilities, drawn = [], [], []
    with predictor.autocast():
        for orientation in predictor.orientations:
            images, sizes = padded(orientation.turn(image), network.config.strides[-1])
            memories, turned = network.memorise(images, sizes), orientation.turn_boxes(where)
            found = network.represent(memories, turned)
            embeddings.append(found.embeddings[0].float())
            probabilities.append(type_probabilities(found.logits[0]))
            if predictor.outlines:
                drawn.append(orientation.back_radii(network.outline(memories, turned))[0].float())
    outlines = np.full((len(boxes), RADII), np.nan, np.float32) if radii is None else radii.astype(np.float32)
    unknown = np.isnan(outlines[:, 0])
    if drawn:
        outlines[unknown] = _mean(drawn)[unknown]
    vectors = _mean(embeddings).astype(np.float16)
    return TileCells(
        boxes=boxes,
        scores=np.ones(len(boxes), np.float32),
        probabilities=_mean(probabilities),
        embeddings=vectors,
        radii=outlines.astype(np.float16),
        stains=stains(tile, clipped, np.nan_to_num(outlines, nan=1.0)),  # without an outline, of the ellipse in the box
        familiarity=None if predictor.familiarity is None else predictor.familiarity(vectors),
    )


def _mean(each: list[Tensor]) -> NDArray[np.float32]:
    """Over orientations."""
    mean: NDArray[np.float32] = torch.stack(each).mean(0).cpu().numpy()
    return mean


def _within(centre: NDArray, low: tuple[int, int], high: tuple[int, int]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((centre >= low) & (centre < high), axis=1)
    return inside


def look_into(predictor: TilePredictor, read: Callable[[Memories, Tensor], Tensor]) -> EmbedWindow:
    """A function for ``embed_in_pieces``: what ``read`` makes of a window's memories and (1, N, 4) boxes, (1, N, d)."""

    @torch.inference_mode()
    @in_float32()
    def look(window: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        height, width = window.shape[:2]
        tensor = torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))[None].to(predictor.device)
        where = normalise_boxes(torch.from_numpy(boxes).float(), width, height)[None].to(predictor.device)
        images, sizes = padded(tensor, predictor.network.config.strides[-1])
        with predictor.autocast():
            vectors = read(predictor.network.memorise(images, sizes), where)
        found: NDArray[np.float32] = vectors[0].float().cpu().numpy()
        return found

    return look
