"""What the representation decoder looks at: where each layer samples for each cell, and how much each point counts.

Locations and weights come from the layer's own methods, called with what the layer itself was called with, while the
network runs as it is; all is computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert

from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import padded, type_probabilities
from celldetr.model.layers import DeformableAttention
from celldetr.model.memory import Memory

EDGE_PX = 1e-2  # a point this little outside a box is on its edge: float32 in a tile of some thousand pixels


@dataclass(frozen=True)
class AttentionTrace:
    """Attention of the A layers of the representation decoder for N cells of an image.

    Attributes:
        boxes: (N, 4) xyxy, pixels of the image; the cells.
        strides: of the L feature levels sampled, pixels.
        locations: (A, N, heads, L, P, 2) float32 (x, y), pixels of the image; pixel i covers [i, i + 1).
        weights: (A, N, heads, L, P) float32; over the levels and points of a head they add up to 1.
        probabilities: (N, K) float32, of the types, as in the cell table.
    """

    boxes: NDArray[np.float32]
    strides: tuple[int, ...]
    locations: NDArray[np.float32]
    weights: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def share(self, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Share of the attention that some of the points have.

        Args:
            inside: (A, N, heads, L, P), which points count.

        Returns:
            (A, N), between 0 and 1.
        """
        axes = (2, 3, 4)
        weights = self.weights.astype(np.float64)
        return cast(NDArray[np.float64], np.where(inside, weights, 0).sum(axes) / weights.sum(axes))

    def share_in_box(self) -> NDArray[np.float64]:
        """(A, N) share of the attention inside each cell's own box, edges included."""
        low, high = (corner[None, :, None, None, None] for corner in (self.boxes[:, :2], self.boxes[:, 2:]))
        inside = (self.locations >= low - EDGE_PX) & (self.locations <= high + EDGE_PX)
        return self.share(np.all(inside, axis=-1))


@torch.inference_mode()
def trace_attention(network: CellDETR, image: NDArray[np.uint8], boxes: NDArray[np.floating]) -> AttentionTrace:
    """Represent the cells of an image and keep where each layer looked.

    Args:
        network: in evaluation mode, as it is or prepared for inference (``TilePredictor.network``).
        image: (H, W, 3) uint8 RGB at the network's mpp; it is seen in one piece.
        boxes: (N, 4) xyxy in pixels of it, wherever they are from. With self-attention in the decoder
            (``after_first``) what is seen of one depends on which others are here.
    """
    device = network.mean.device
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device)
    pixels, sizes = padded(pixels, network.config.strides[-1])
    absolute = torch.from_numpy(np.asarray(boxes, dtype=np.float32)).to(device)
    memories = network.memorise(pixels, sizes)
    with _listening(network) as seen:
        cells = network.represent(memories, box_convert(absolute / sizes.repeat(1, 2), "xyxy", "cxcywh")[None])
    memory = memories.representation
    shape = (len(boxes), network.config.heads, len(memory.strides), network.config.points)
    nowhere = [(absolute.new_zeros(*shape, 2), absolute.new_zeros(shape))] * network.config.representation_layers
    places, weights = zip(*(seen or nowhere), strict=True)  # the decoder does not run for no cell
    return AttentionTrace(
        boxes=absolute.cpu().numpy(),
        strides=memory.strides,
        locations=torch.stack(places).cpu().numpy(),
        weights=torch.stack(weights).cpu().numpy(),
        probabilities=type_probabilities(cells.logits)[0].cpu().numpy(),
    )


@contextmanager
def _listening(network: CellDETR) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Locations in pixels and weights of every call of a cross-attention of the representation decoder, in order."""
    if network.representer is None:
        raise InputError(
            "a model without a representation decoder reads types off the detector's queries: nothing to show"
        )
    seen: list[tuple[Tensor, Tensor]] = []

    def before(attention: DeformableAttention, arguments: tuple[Any, ...]) -> None:
        query, reference, memory = cast(tuple[Tensor, Tensor, Memory], arguments)
        points, weights = attention.points_of(query, reference, memory, clamp=False)
        fractions = points / memory.ratios[:, None, None, :, None, :]
        seen.append(((fractions * memory.sizes[:, None, None, None, None])[0], weights[0]))

    attentions = [m for m in network.representer.modules() if isinstance(m, DeformableAttention)]
    handles = [attention.register_forward_pre_hook(before) for attention in attentions]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
