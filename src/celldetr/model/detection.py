"""The detection decoder: which places are nuclei, and their boxes. Class-agnostic.

Queries come in one of two ways. *learned* (the paper): a table of positions and contents, first reference a point.
*selected* (ours by default): every encoder token scores itself and proposes a box; the best become the queries.
Selection needs no fixed image size, learns much faster, and the number of queries follows the tile's area.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.config import ModelConfig
from celldetr.model.dropout import Dropout
from celldetr.model.geometry import geometry
from celldetr.model.layers import MLP, DeformableAttention, FeedForward, at_least_single, lowered
from celldetr.model.memory import Memory
from celldetr.model.near_attention import NearQueries, near_attention

LEARNED_SIZE_LOGIT = -2.0  # of the first width and height of a learned query
PRIOR_LOGIT = -math.log(99)  # an untrained query is a nucleus with probability 1 %
QUERY_STEP = 128  # numbers of queries differ by this: processors prepare for each anew, and keep it


@dataclass(frozen=True)
class Detections:
    """Boxes and their objectness, from one decoder layer or from the encoder's tokens.

    Attributes:
        boxes: (B, Q, 4) cxcywh, fractions of each image's valid region.
        logits: (B, Q) objectness; padding has the lowest finite value.
    """

    boxes: Tensor
    logits: Tensor


@dataclass(frozen=True)
class DetectionOutput:
    """What the detector returns.

    Attributes:
        layers: one per decoder layer; the last is the result.
        proposals: of every token that competes to become a query, or None with learned queries.
        anchors: (B, T, 4) the boxes those tokens started from, or None.
        extra: of the queries that were added in training, one per decoder layer.
        contents: (B, Q, d) of the decoder's own queries after each layer.
    """

    layers: tuple[Detections, ...]
    proposals: Detections | None
    anchors: Tensor | None
    extra: tuple[Detections, ...] = ()
    contents: tuple[Tensor, ...] = ()

    @property
    def last(self) -> Detections:
        """The detector's result."""
        return self.layers[-1]


class SelfAttention(nn.Module):
    """Multi-head attention among queries; positions enter queries and keys, not values.

    Its weights have no dropout of their own, with which PyTorch would leave its fast kernel.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        blocked: Tensor | None = None,
        neighbours: NearQueries | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            content, position: (B, Q, d).
            blocked: boolean, True where a query (row) may not see another (column), broadcastable to (B, heads, Q, Q).
            neighbours: the queries that each one sees, instead.

        Returns:
            (B, Q, d)
        """
        where = lowered(content + position)
        q, k, v = self.q_proj(where), self.k_proj(where), self.v_proj(content)
        if neighbours is not None:
            return self.output_proj(near_attention(q, k, v, self.heads, neighbours))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        allowed = None if blocked is None else ~blocked
        # On CPUs, the gradient of PyTorch's kernel takes twice as long in bfloat16 as in float32.
        single = q.device.type == "cpu" and torch.is_grad_enabled()
        with torch.autocast("cpu", enabled=False) if single else nullcontext():
            q, k, v = (x.float() if single and x.dtype == torch.bfloat16 else x for x in (q, k, v))
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.output_proj(mixed.transpose(1, 2).flatten(2))


class DetectionLayer(nn.Module):
    """Post-norm: self-attention among queries, deformable cross-attention into memory, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config.d_model, config.heads)
        self.self_norm = nn.LayerNorm(config.d_model)
        self.cross_attention = DeformableAttention(
            config.d_model,
            config.heads,
            len(config.encoder_strides),
            config.points,
            inside=config.border == "replicate",
        )
        self.cross_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.ffn = FeedForward(config.d_model, config.ffn, config.dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Memory,
        neighbours: NearQueries | None = None,
        blocked: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, d) content and position, (B, Q, 2 | 4) reference -> (B, Q, d) content."""
        attended = self.self_attention(content, position, blocked, neighbours)
        content = self.self_norm(content + self.dropout(attended))
        seen = self.cross_attention(content + position, reference, memory)
        return self.ffn(self.cross_norm(content + self.dropout(seen)))


class BoxHead(nn.Module):
    """Objectness and box correction from a query's content; starts at 1 % and at no correction."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.objectness = nn.Linear(d_model, 1)
        self.box = MLP(d_model, d_model, 4, layers=3)
        nn.init.constant_(self.objectness.bias, PRIOR_LOGIT)
        for parameter in self.box.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def score(self, content: Tensor) -> Tensor:
        """(B, Q, d) -> logits (B, Q), float32 at least."""
        return at_least_single(self.objectness(content)[..., 0])

    def correct(self, content: Tensor) -> Tensor:
        """(B, Q, d) -> corrections (B, Q, 4), float32 at least."""
        return at_least_single(self.box(content))

    def forward(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, d) -> logits and corrections."""
        return self.score(content), self.correct(content)


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    Attributes:
        content: (B, Q, d).
        reference: (B, Q, 2) points or (B, Q, 4) boxes, fractions of the image.
        position: (B, Q, d) the same in all layers, or None: made from each layer's reference.
    """

    content: Tensor
    reference: Tensor
    position: Tensor | None

    def join(self, others: Queries) -> Queries:
        """These and, after them, others of the same kind."""
        position = None
        if self.position is not None and others.position is not None:
            position = torch.cat([self.position, others.position], dim=1)
        content = torch.cat([self.content, others.content], dim=1)
        return Queries(content, torch.cat([self.reference, others.reference], dim=1), position)


@dataclass(frozen=True)
class ExtraQueries:
    """Boxes that the decoder is to start from besides its own queries.

    Attributes:
        boxes: (B, M, 4) cxcywh fractions.
        blocked: (B, 1, M, M) True where one (row) may not see another (column).
    """

    boxes: Tensor
    blocked: Tensor

    def beside(self, own: int) -> Tensor:
        """(B, 1, own + M, own + M), as ``blocked``, when ``own`` queries come before these and see each other."""
        batch, _, count, _ = self.blocked.shape
        blocked = self.blocked.new_ones(batch, 1, own + count, own + count)
        blocked[..., :own, :own] = False
        blocked[..., own:, own:] = self.blocked
        return blocked


class LearnedQueries(nn.Module):
    """The paper's queries: a learned position and content each; the first reference is read off the position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.num_queries, 2 * config.d_model)
        self.reference = nn.Linear(config.d_model, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, batch: int) -> Queries:
        """The same queries for every image of a batch."""
        position, content = self.table.weight.expand(batch, -1, -1).chunk(2, dim=-1)
        return Queries(content, at_least_single(self.reference(position)).sigmoid(), position)

    def at(self, boxes: Tensor, memory: Memory) -> Queries:
        """Queries that start at the centres of ``boxes`` (B, M, 4): each is the learned one whose place is nearest."""
        own = self(len(boxes))
        assert own.position is not None
        nearest = torch.cdist(boxes[..., :2], own.reference.detach()).argmin(-1)[..., None]
        content, position = (x.gather(1, nearest.expand(-1, -1, x.shape[-1])) for x in (own.content, own.position))
        return Queries(content, boxes[..., :2], position)


class SelectedQueries(nn.Module):
    """Scores every token of the query levels and starts the decoder from the best (two-stage Deformable DETR)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.geometry = config, geometry(config)
        self.least_score: float | None = None  # at inference: tokens that score less do not become queries
        self.project = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.head = BoxHead(config.d_model)

    def count(self, memory: Memory) -> int:
        """Queries for this batch: ``num_queries`` per 256 x 256 px, at most the tokens there are."""
        tokens = memory.tokens.shape[1]
        if torch.onnx.is_in_onnx_export():  # sizes are tensors there: the same in what stays in the graph
            each = self.config.num_queries / 256**2 / sum(1 / stride**2 for stride in memory.strides)
            many = cast(Tensor, tokens).double()
            return cast(int, torch.minimum((each * many).round().clamp(min=1), many).long())
        area = tokens / sum(1 / stride**2 for stride in memory.strides)
        return max(1, min(tokens, round(self.config.num_queries * area / 256**2)))

    def forward(self, memory: Memory) -> tuple[Queries, Detections | None, Tensor]:
        """Propose a box at every token and keep the best.

        Returns:
            the queries, the proposals of all T tokens (None where ``least_score`` says that only the queries' are
            wanted), and the anchors (B, T, 4) those started from.
        """
        memory = memory.select(self.config.query_strides)
        features = self.norm(self.project(memory.tokens))
        logits = self.head.score(features)
        anchors = self.geometry.anchors(memory)
        if memory.padding is not None:
            logits = logits.masked_fill(memory.padding, torch.finfo(logits.dtype).min)
        best = logits.detach().topk(self._kept(logits, self.count(memory)), dim=1).indices[..., None]
        content = features.gather(1, best.expand(-1, -1, features.shape[-1]))
        if self.least_score is not None:
            start = anchors.gather(1, best.expand(-1, -1, 4))
            return Queries(content, self.geometry.refine(start, self.head.correct(content)), None), None, anchors
        boxes = self.geometry.refine(anchors, self.head.correct(features))
        reference = boxes.detach().gather(1, best.expand(-1, -1, 4))
        return Queries(content, reference, None), Detections(boxes, logits), anchors

    def at(self, boxes: Tensor, memory: Memory) -> Queries:
        """Queries that start from ``boxes`` (B, M, 4); their contents are those of the tokens at their centres."""
        memory = memory.select(self.config.query_strides)
        apart = torch.cdist(boxes[..., :2] * memory.sizes[:, None], memory.centres() * memory.sizes[:, None])
        if memory.padding is not None:
            apart = apart.masked_fill(memory.padding[:, None], torch.inf)
        token = apart.argmin(-1)[..., None].expand(-1, -1, memory.tokens.shape[-1])
        return Queries(self.norm(self.project(memory.tokens.gather(1, token))), boxes, None)

    def _kept(self, logits: Tensor, most: int) -> int:
        """How many of the best tokens, of ``most``, become queries; of a batch as many as its fullest image needs."""
        if not self.least_score or torch.onnx.is_in_onnx_export():
            return most
        worth = int((logits.sigmoid() >= self.least_score).sum(1).max())
        return min(most, max(1, math.ceil(worth / QUERY_STEP)) * QUERY_STEP)


class DetectionDecoder(nn.Module):
    """Queries through the layers, each layer refining the boxes of the one before."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.geometry = config, geometry(config)
        self.near = False  # at inference: queries see near ones only (``near_attention``)
        self.queries = LearnedQueries(config) if config.queries == "learned" else SelectedQueries(config)
        self.layers = nn.ModuleList(DetectionLayer(config) for _ in range(config.detection_layers))
        self.heads = nn.ModuleList(BoxHead(config.d_model) for _ in range(config.detection_layers))
        if config.queries == "learned":
            # A learned query is a point: its first width and height are sigmoid(-2) = 12 % of the image (Deformable
            # DETR), 30 px of 256. Without it they would be half of the image.
            with torch.no_grad():
                cast(nn.Linear, cast(BoxHead, self.heads[0]).box.layers[-1]).bias[2:] = LEARNED_SIZE_LOGIT
        if config.queries == "selected":
            self.position = MLP(2 * config.d_model, config.d_model, config.d_model, layers=2)

    def forward(
        self, memory: Memory, origin: Tensor | None = None, extra: ExtraQueries | None = None
    ) -> DetectionOutput:
        """Detect.

        Args:
            memory: the encoder's output.
            origin: (B, 2) where each image's corner lies in pixel coordinates; None means (0, 0).
            extra: boxes to start from besides, in training; the decoder's own queries do not see them, nor they those.
        """
        proposals = anchors = blocked = None
        if isinstance(self.queries, LearnedQueries):
            queries = self.queries(memory.tokens.shape[0])
        else:
            queries, proposals, anchors = self.queries(memory)
        neighbours = NearQueries.of(queries.reference, memory.sizes) if self.near else None
        if extra is not None:
            own = queries.content.shape[1]
            parts = slice(own), slice(own, None)
            queries = queries.join(self.queries.at(extra.boxes, memory))
            blocked, neighbours = extra.beside(own), None
        content, reference = queries.content, queries.reference
        layers, contents = [], []
        for layer, head in zip(self.layers, self.heads, strict=True):
            position = queries.position
            if position is None:
                features = self.config.d_model // 2
                position = self.position(self.geometry.sine(reference, memory.sizes, features, origin))
            content = layer(content, position, reference, memory, neighbours, blocked)
            logits, delta = head(content)
            boxes = self.geometry.refine(reference, delta)
            layers.append(Detections(boxes, logits))
            contents.append(content)
            reference = boxes.detach()
        if extra is None:
            return DetectionOutput(tuple(layers), proposals, anchors, contents=tuple(contents))
        first, others = ([Detections(x.boxes[:, part], x.logits[:, part]) for x in layers] for part in parts)
        kept = tuple(content[:, :own] for content in contents)
        return DetectionOutput(tuple(first), proposals, anchors, tuple(others), kept)
