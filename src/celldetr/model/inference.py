"""From tiles to cells: the network as the slide engine, the array API and the evaluation use it.

Only boxes above the score threshold are represented: most queries are background, and without self-attention in the
representation decoder a cell's embedding does not depend on which others are asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from celldetr.config import InferenceOptions, ModelConfig, Precision
from celldetr.errors import InputError, UntypedWarning, untyped
from celldetr.measure import stains
from celldetr.model.celldetr import CellDETR, Memories, Representations
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.cpu_caches import limit_caches
from celldetr.model.detection import DetectionOutput, SelectedQueries
from celldetr.model.device import guard_forks, in_bf16, in_float32, pick_device
from celldetr.model.familiarity import Familiarity
from celldetr.model.folding import for_inference
from celldetr.model.hub import find_model
from celldetr.model.nms import close_pairs, distinct, nested_pairs
from celldetr.model.orientations import Orientation, merge, orientations_of
from celldetr.model.output import TileCells
from celldetr.model.representation import hide_padding
from celldetr.outlines import RADII

# Centres nearer than this are one nucleus; chosen on the validation images of BRCA-M2C (docs/how-to/training.md).
SAME_NUCLEUS_UM = 2.5

# Of two cells one of which has this share of its box in the other's, the worse goes; chosen on training and validation
# images of five data sets (benchmarks/nested_cells.py).
NESTED_SHARE = 0.8

# A token has to score this part of the threshold to become a query. Of cells above the threshold none had less on any
# tissue looked at (benchmarks/query_scores.py); a quarter to a third of the queries are spared.
QUERY_SHARE = 0.5

# With several orientations, what scores this part of the threshold in one of them counts there; less counts as 0. On
# the validation images of BRCA-M2C 0.05 to 0.5 are alike (F1 within .001); 1 loses cells.
CANDIDATE_SHARE = 0.2

ALONE_PX = 256**2  # a tile with more pixels fills a CPU by itself


def trained_px(config: ModelConfig, recipe: object) -> int | None:
    """Side of the images of training for a network that measures in fractions of them, if its recipe has it."""
    if config.coordinates == "pixels":
        return None
    augment = recipe.get("augment") if isinstance(recipe, dict) else None
    side = augment.get("crop") if isinstance(augment, dict) else None
    return side if isinstance(side, int) and side > 0 else None


def padded(images: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Images whose sides are multiples of the coarsest stride, and how much of them is valid.

    Args:
        images: (B, 3, H, W).
        stride: pixels.

    Returns:
        (B, 3, H', W'), zeros at the right and below, and (B, 2) float32 width and height before.
    """
    batch, _, height, width = images.shape
    sizes = torch.tensor([[width, height]], device=images.device, dtype=torch.float32).expand(batch, 2)
    return functional.pad(images, (0, -width % stride, 0, -height % stride)), sizes


def type_probabilities(logits: Tensor) -> Tensor:
    """(..., K) logits of the types -> float32 that add up to 1: their sigmoids, divided by the sum of these."""
    # From their logarithms: cells that are unlike all types underflow otherwise.
    return functional.logsigmoid(logits.float()).softmax(-1)


@dataclass(frozen=True)
class _View:
    """Tiles of one size as the network sees them in one orientation, and N candidates for cells in each.

    Attributes:
        orientation: of the tiles.
        memories, detection: of the tiles in it.
        chosen: (B, N) queries of the candidates.
        boxes: (B, N, 4) cxcywh, fractions of the tiles as they are.
        scores: (B, N).
        valid: (B, N) False where there is no candidate.
    """

    orientation: Orientation
    memories: Memories
    detection: DetectionOutput
    chosen: Tensor
    boxes: Tensor
    scores: Tensor
    valid: Tensor


class TilePredictor:
    """A trained network that turns tiles into cells. Implements ``celldetr.model.output.TileModel``."""

    def __init__(
        self,
        network: CellDETR,
        *,
        threshold: float,
        card: dict[str, Any] | None = None,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
        batch_size: int = 4,
        same_nucleus_um: float = SAME_NUCLEUS_UM,
        nested_share: float = NESTED_SHARE,
        orientations: int = 1,
        outlines: bool = True,
        familiarity: Familiarity | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            network: it is put in evaluation mode and moved to ``device``.
            threshold: cells scoring less are not reported; tokens that score less than half of it are not looked at.
            card: what provenance should record about the weights.
            device: where to run.
            precision: bf16 computes convolutions and linear layers in bfloat16; auto: bf16 on CUDA and on CPUs that
                multiply it natively, float32 elsewhere.
            batch_size: tiles of one size that go through the network together; on a CPU large ones go one by one.
            same_nucleus_um: of cells of a tile whose centres are nearer than this, the best stays; 0 keeps all.
            nested_share: of two cells of a tile one of which has this share of its box in the other's, or more, the
                better stays; more than 0.5 and at most 1; 0 keeps all.
            orientations: how many flips and turns of a tile are looked at and averaged, 1, 2, 4 or 8; time and memory
                grow with it. More than one need ``same_nucleus_um``.
            outlines: draw nuclei, if the network can.
            familiarity: what is said of each cell; None: nothing.

        Raises:
            InputError: another number of orientations.
        """
        self.orientations = orientations_of(orientations)
        if orientations > 1 and same_nucleus_um <= 0:
            raise InputError(f"{orientations=} are put together within same_nucleus_um, which must not be 0 then")
        if orientations > 1 and network.representer is None:
            raise InputError(f"{orientations=} needs a representation decoder, and this model has none")
        self.device = torch.device(device)
        if self.device.type == "cpu":
            guard_forks()
            limit_caches()  # before the network first runs, as it does for folding: the bound is read then
        self.network = for_inference(network.eval().to(device))
        self.set_threshold(threshold)
        self.card = card or {}
        self.batch_size = batch_size
        self.same_nucleus_um = float(same_nucleus_um)
        self.nested_share = float(nested_share)
        self.outlines = outlines and network.outliner is not None
        self.familiarity = familiarity
        self.bf16 = in_bf16(precision, self.device)

    @classmethod
    def load(cls, options: InferenceOptions) -> Self:
        """Load a checkpoint.

        Args:
            options: which, on what device, and how it is run.

        Raises:
            InputError: no such model or device, or a broken checkpoint.

        Warns:
            UntypedWarning: the model was trained without types.
        """
        device = pick_device(options.device)
        checkpoint = load_checkpoint(find_model(options.model), device=device)
        card = checkpoint.card
        if not card.types_trained:
            warnings.warn(untyped(card.name), UntypedWarning, stacklevel=3)
        return cls(
            checkpoint.network,
            threshold=card.threshold if options.threshold is None else options.threshold,
            card=card.model_dump(mode="json"),
            device=device,
            precision=options.precision,
            batch_size=options.batch_size,
            orientations=options.orientations,
            outlines=not options.boxes,
            familiarity=checkpoint.familiarity,
        )

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the tiles."""
        return self.network.config.mpp

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the K types."""
        return self.network.config.types

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.network.config.embedding_dim

    @property
    def image_px(self) -> int | None:
        """See ``trained_px``."""
        return trained_px(self.network.config, self.card.get("recipe"))

    def set_threshold(self, threshold: float) -> None:
        """Predict as if loaded with another threshold."""
        self.threshold = float(threshold)
        queries = self.network.detector.queries
        if isinstance(queries, SelectedQueries):
            # Of the threshold, whatever ``least_score`` is asked for: that shows more of the same queries, no others.
            queries.least_score = self.threshold * QUERY_SHARE
        self._candidate = self.threshold * CANDIDATE_SHARE  # for the same reason

    def describe(self) -> dict[str, object]:
        """What provenance should record: the card's identity, and how it is run."""
        facts: dict[str, object] = {
            key: self.card[key] for key in ("name", "sha256", "licence", "package_version") if key in self.card
        }
        return facts | {
            "threshold": self.threshold,
            "same_nucleus_um": self.same_nucleus_um,
            "nested_share": self.nested_share,
            "orientations": len(self.orientations),
            "mpp": self.mpp,
            "types": list(self.types),
            "precision": "bf16" if self.bf16 else "float32",
            **({} if self.network.outliner is None else {"outlines": self.outlines}),
        }

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> list[TileCells]:
        """Find the cells of each (H, W, 3) uint8 RGB tile, in the order given; sizes may differ.

        Args:
            tiles: images at the model's mpp.
            least_score: of a cell; None: the threshold. A lower one gives more of the same cells: which tokens become
                queries depends on the threshold.

        Raises:
            InputError: something that is not such a tile.
        """
        least = self.threshold if least_score is None else least_score
        results: dict[int, TileCells] = {}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, tile in enumerate(tiles):
            if tile.ndim != 3 or tile.shape[2] != 3 or tile.dtype != np.uint8 or not tile.size:
                raise InputError(f"tile {index}: expected an (H, W, 3) uint8 RGB array, got {tile.shape} {tile.dtype}")
            by_size.setdefault(tile.shape, []).append(index)
        for shape, indices in by_size.items():
            # On a CPU larger batches of large tiles are no faster, hold more memory, and each new shape is compiled.
            alone = self.device.type == "cpu" and shape[0] * shape[1] > ALONE_PX
            size = 1 if alone else self.batch_size
            for start in range(0, len(indices), size):
                chosen = indices[start : start + size]
                batch = np.stack([tiles[i] for i in chosen]).transpose(0, 3, 1, 2)
                found = self._predict(torch.from_numpy(np.ascontiguousarray(batch)), least)
                for i, cells in zip(chosen, found, strict=True):
                    results[i] = replace(cells, stains=stains(tiles[i], cells.boxes, cells.radii))
        return [results[i] for i in range(len(tiles))]

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of this predictor, for whatever calls its network."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    @torch.inference_mode()
    @in_float32()
    def _predict(self, images: Tensor, least: float) -> list[TileCells]:
        """Cells of tiles of one size, (B, 3, H, W) uint8, that score at least ``least``."""
        size = images.shape[3], images.shape[2]
        images = images.to(self.device)
        with self.autocast():
            views = [self._look(images, orientation, least) for orientation in self.orientations]
            first = views[0].boxes, views[0].scores, views[0].valid
            boxes, scores, valid = self._merge(views, size, least) if len(views) > 1 else first
            blocked = hide_padding(valid) if self.network.config.self_attention == "after_first" else None
            cells = [self._represent(view, boxes, blocked) for view in views]
        probabilities = _mean([type_probabilities(each.logits) for each in cells])
        embeddings = _mean([each.embeddings.float() for each in cells])
        corners = box_convert(boxes.float(), "cxcywh", "xyxy").clamp(0, 1)
        absolute = corners * boxes.new_tensor(size * 2, dtype=torch.float32)
        valid = valid & (absolute[..., 2:] > absolute[..., :2]).all(-1)  # a box may have left the tile
        radii = self._outline(views, box_convert(corners, "xyxy", "cxcywh"), valid) if self.outlines else None
        found = []
        for i, keep in enumerate(valid):
            vectors = embeddings[i, keep].to(torch.float16).cpu().numpy()
            found.append(
                TileCells(
                    boxes=absolute[i, keep].cpu().numpy(),
                    scores=scores[i, keep].cpu().numpy(),
                    probabilities=probabilities[i, keep].cpu().numpy(),
                    embeddings=vectors,
                    radii=None if radii is None else radii[i, keep].to(torch.float16).cpu().numpy(),
                    familiarity=None if self.familiarity is None else self.familiarity(vectors),
                )
            )
        return found

    def _look(self, images: Tensor, orientation: Orientation, least: float) -> _View:
        """Detect in one orientation of tiles of one size, (B, 3, H, W) uint8."""
        images = orientation.turn(images)
        size = images.shape[3], images.shape[2]
        images, sizes = padded(images, self.network.config.strides[-1])
        memories = self.network.memorise(images, sizes)
        detection = self.network.detect(memories)
        found = detection.last
        scores = found.logits.float().sigmoid().nan_to_num(0.0)  # NaN would be the best of all
        limit = least if len(self.orientations) == 1 else self._candidate
        most = int((scores >= limit).sum(1).max()) if scores.numel() else 0
        best = scores.topk(most, dim=1)
        chosen, valid = best.indices, best.values >= limit
        boxes, scores = found.boxes.gather(1, chosen[..., None].expand(-1, -1, 4)), scores.gather(1, chosen)
        valid &= self._distinct(boxes * sizes.repeat(1, 2)[:, None], scores, valid, size)
        return _View(orientation, memories, detection, chosen, orientation.back(boxes), scores, valid)

    def _merge(self, views: Sequence[_View], size: tuple[int, int], least: float) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of all orientations -> boxes (B, N, 4), scores (B, N) and validity (B, N) of cells."""
        pixels = np.array(size * 2, np.float32)
        distance = self.same_nucleus_um / self.mpp
        found = []
        for b in range(len(views[0].boxes)):
            seen = [view.boxes[b, view.valid[b]].float().cpu().numpy() * pixels for view in views]
            how_sure = [view.scores[b, view.valid[b]].float().cpu().numpy() for view in views]
            merged, score = merge(seen, how_sure, distance)
            keep = self._keep(merged, score, size) & (score >= least)
            found.append((torch.from_numpy(merged[keep] / pixels), torch.from_numpy(score[keep])))
        boxes, scores = (pad_sequence(list(each), batch_first=True) for each in zip(*found, strict=True))
        valid = pad_sequence([torch.ones(len(score), dtype=torch.bool) for _, score in found], batch_first=True)
        return boxes.to(self.device), scores.to(self.device), valid.to(self.device)

    def _represent(self, view: _View, boxes: Tensor, blocked: Tensor | None) -> Representations:
        """Boxes (B, N, 4), fractions of the tiles as they are, as one orientation shows them."""
        if len(self.orientations) == 1:
            return self.network.describe(view.memories, view.detection, view.chosen, blocked=blocked)
        return self.network.represent(view.memories, view.orientation.turn_boxes(boxes), blocked=blocked)

    def _outline(self, views: Sequence[_View], boxes: Tensor, valid: Tensor) -> Tensor:
        """(B, N, RADII) outlines of boxes (B, N, 4), fractions of the tiles as they are, that are ``valid`` (B, N)."""
        most = int(valid.sum(1).max()) if valid.numel() else 0
        some = valid.float().topk(most, dim=1)  # all valid ones, and no more than it takes
        index, wanted = some.indices[..., None], some.values > 0
        chosen = boxes.gather(1, index.expand(-1, -1, 4))
        with self.autocast():
            seen = [
                view.orientation.back_radii(
                    self.network.outline(view.memories, view.orientation.turn_boxes(chosen), wanted)
                )
                for view in views
            ]
        return boxes.new_zeros(*valid.shape, RADII).scatter(1, index.expand(-1, -1, RADII), _mean(seen))

    def _distinct(self, boxes: Tensor, scores: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, 4) cxcywh in pixels, (B, N) scores and validity -> (B, N) mask of the best query of each nucleus."""
        kept = torch.zeros_like(valid)
        for b, real in enumerate(valid & boxes.isfinite().all(-1)):
            there, score = boxes[b, real].float().cpu().numpy(), scores[b, real].cpu().numpy()
            kept[b, real] = torch.from_numpy(self._keep(there, score, size)).to(kept.device)
        return kept

    def _keep(
        self, boxes: NDArray[np.floating], scores: NDArray[np.floating], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """(N,) mask of the best cell of each nucleus; boxes (N, 4) cxcywh in pixels of a tile of this width, height."""
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        close = close_pairs(boxes[:, :2], self.same_nucleus_um / self.mpp)
        nested = nested_pairs(corners.clip(0, size * 2), self.nested_share)  # as they are reported
        return distinct(scores, np.concatenate([close, nested]))


def _mean(each: Sequence[Tensor]) -> Tensor:
    """Over orientations; of one it is that, bit for bit."""
    return each[0] if len(each) == 1 else torch.stack(list(each)).mean(0)
