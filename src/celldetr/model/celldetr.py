"""CellDETR, the network: image -> memory -> boxes -> one embedding and one type per box.

The three steps are methods of their own, because they are used on their own: ``memorise`` (backbone, projections,
encoder), ``detect`` (boxes and objectness), ``represent`` (embeddings and types of any boxes: detected, annotated or
jittered). ``forward`` chains them, the sequential mode of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.config import ModelConfig
from celldetr.model.backbone import build_backbone
from celldetr.model.detection import PRIOR_LOGIT, DetectionDecoder, DetectionOutput, ExtraQueries
from celldetr.model.device import in_float32
from celldetr.model.encoder import Encoder
from celldetr.model.geometry import geometry
from celldetr.model.layers import at_least_single
from celldetr.model.memory import Memory, as_tensor
from celldetr.model.outline import OutlineHead
from celldetr.model.representation import RepresentationDecoder


@dataclass(frozen=True)
class Memories:
    """One image batch as both decoders read it.

    Attributes:
        detection: the encoder's levels.
        representation: the levels that ``representation_strides`` names.
        images: (B, 3, H, W) normalised, as the backbone saw them; None where levels came without.
    """

    detection: Memory
    representation: Memory
    images: Tensor | None = None


@dataclass(frozen=True)
class Representations:
    """Embeddings and types of boxes.

    Attributes:
        embeddings: (B, N, d).
        logits: (B, N, K), sigmoid logits of the types.
        auxiliary: logits after each layer before the last, in training.
    """

    embeddings: Tensor
    logits: Tensor
    auxiliary: tuple[Tensor, ...]


@dataclass(frozen=True)
class Output:
    """A forward pass: what was detected, and what it is."""

    detection: DetectionOutput
    representation: Representations


class CellDETR(nn.Module):
    """Deformable-DETR nucleus detector with a box-constrained, location-free representation decoder.

    Source: CellDETR, arXiv 2606.29463; Deformable DETR, ICLR 2021.

    Examples:
        >>> import celldetr, torch
        >>> network = celldetr.CellDETR(celldetr.ModelConfig(types=("tumour", "other"))).eval()
        >>> with torch.inference_mode():
        ...     output = network(torch.rand(1, 3, 256, 256))
        >>> output.detection.layers[-1].boxes.shape, output.representation.embeddings.shape
        (torch.Size([1, 300, 4]), torch.Size([1, 300, 128]))
    """

    mean: Tensor
    std: Tensor

    @in_float32()
    def __init__(self, config: ModelConfig) -> None:
        """Build the network; initial backbone weights as ``config.pretrained`` says.

        Raises:
            InputError: a backbone, stride or pretrained source that does not exist.
        """
        super().__init__()
        self.config, self.geometry = config, geometry(config)
        self.backbone = build_backbone(config)
        convolutions = [nn.Conv2d(channels, config.d_model, 1) for channels in self.backbone.channels]
        self.projections = nn.ModuleList(nn.Sequential(conv, _level_norm(config)) for conv in convolutions)
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(cast(Tensor, convolution.bias))
        self.encoder = Encoder(config)
        self.detector = DetectionDecoder(config)
        self.representer = RepresentationDecoder(config) if config.represent == "boxes" else None
        self.type_head = nn.Linear(config.d_model, len(config.types))
        self.outliner = OutlineHead(config.d_model) if config.outlines else None
        nn.init.constant_(self.type_head.bias, PRIOR_LOGIT)
        mean, std = torch.tensor(config.mean), torch.tensor(config.std)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float, normalised as the backbone expects."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def memorise(self, images: Tensor, sizes: Tensor | None = None, origin: Tensor | None = None) -> Memories:
        """Backbone, projections and encoder.

        Args:
            images: (B, 3, H, W) uint8, or float already normalised; smaller images stand at the top left, padded.
            sizes: (B, 2) valid width and height of each image in pixels; None: all of it.
            origin: (B, 2) pixel coordinates of the images' corners; None: (0, 0).
        """
        if not images.is_floating_point():
            images = self.normalise(images)
        batch, _, height, width = images.shape
        if sizes is None:
            sizes = images.new_tensor([width, height]).expand(batch, 2)
        sizes = sizes.to(device=images.device, dtype=torch.float32)
        full = sizes.new_tensor([width, height])
        if sizes.shape != (batch, 2) or bool((sizes < 1).any()) or bool((sizes > full).any()):
            raise ValueError(f"sizes must be ({batch}, 2) between 1 and ({width}, {height}), got {sizes.tolist()}")
        padding = self._padding(sizes, height, width)
        if padding is not None:
            if self.config.border == "replicate":
                images = replicate_edges(images, sizes)
            else:
                images = images.masked_fill(padding[:, None], 0.0)
        return self.encode(images, sizes, padding, origin)

    def encode(self, images: Tensor, sizes: Tensor, padding: Tensor | None, origin: Tensor | None = None) -> Memories:
        """``memorise`` without its checks.

        Args:
            images: (B, 3, H, W) normalised; in the padding as ``config.border`` says.
            sizes: (B, 2) float, valid width and height of each.
            padding: (B, H, W) True outside each image; None: there is none.
            origin: as in ``memorise``.
        """
        return replace(self.encode_levels(self.levels(images), sizes, padding, origin), images=images)

    def levels(self, images: Tensor) -> dict[int, Tensor]:
        """The backbone's features of (B, 3, H, W) normalised images: stride -> (B, C, h, w)."""
        return dict(zip(self.config.strides, self.backbone(images), strict=True))

    def encode_levels(
        self, levels: Mapping[int, Tensor], sizes: Tensor, padding: Tensor | None, origin: Tensor | None = None
    ) -> Memories:
        """``encode`` from the backbone's features on, all of ``levels``."""
        read = self._flatten(levels, self.config.encoder_strides, sizes, padding)
        position = None
        if self.config.encoder_position == "absolute":
            position = self.geometry.place(read.centres(), sizes, origin, self.config.d_model).to(read.tokens.dtype)
        return self.complete(self.encoder(read, position), levels, padding)

    @property
    def own_strides(self) -> list[int]:
        """Strides of the levels that the representation decoder reads from the backbone, past the encoder."""
        config = self.config
        encoded = config.encoder_strides if config.representation_values == "encoder" else ()
        return [stride for stride in config.representation_strides if stride not in encoded]

    def complete(self, encoded: Memory, levels: Mapping[int, Tensor], padding: Tensor | None = None) -> Memories:
        """Give the representation decoder its levels: projections of the backbone's, or of the encoder's memory.

        Args:
            encoded: of the encoder.
            levels: as of ``levels``, those at least that ``own_strides`` names.
            padding: as in ``encode``.
        """
        config, own = self.config, self.own_strides
        read = self._flatten(levels, own, encoded.sizes, padding) if own else None
        if config.representation_values == "encoder":
            read = (encoded if read is None else encoded.join(read)).select(config.representation_strides)
        assert read is not None
        return Memories(encoded, read)

    def detect(
        self, memories: Memories, origin: Tensor | None = None, extra: ExtraQueries | None = None
    ) -> DetectionOutput:
        """Boxes and objectness of every query; see ``DetectionDecoder``."""
        return self.detector(memories.detection, origin, extra)

    def represent(
        self,
        memories: Memories,
        boxes: Tensor,
        origin: Tensor | None = None,
        blocked: Tensor | None = None,
        *,
        position_in_self_attention: bool = True,
    ) -> Representations:
        """Embeddings and type logits of ``boxes`` (B, N, 4), cxcywh fractions; see ``RepresentationDecoder``."""
        if self.representer is None:
            raise ValueError("represent='queries' has no representation decoder: use read_queries")
        layers = self.representer(
            boxes,
            memories.representation,
            origin=origin,
            blocked=blocked,
            position_in_self_attention=position_in_self_attention,
        )
        return self._typed(layers)

    def outline(self, memories: Memories, boxes: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, RADII) outlines of the nuclei in ``boxes`` (B, N, 4), cxcywh fractions; see ``model.outline``."""
        if self.outliner is None or memories.images is None:
            raise ValueError("outlines=False, or memories without images: there is nothing to draw outlines with")
        return self.outliner(memories.images, memories.detection, boxes, valid)

    def read_queries(self, detection: DetectionOutput, chosen: Sequence[Tensor]) -> Representations:
        """Embeddings and type logits of the detector's own queries, plain Deformable DETR.

        Args:
            detection: of ``detect``.
            chosen: for each decoder layer (B, N) indices of queries.
        """
        pairs = zip(detection.contents, chosen, strict=True)
        return self._typed([c.gather(1, index[..., None].expand(-1, -1, c.shape[-1])) for c, index in pairs])

    def describe(
        self,
        memories: Memories,
        detection: DetectionOutput,
        chosen: Tensor,
        origin: Tensor | None = None,
        blocked: Tensor | None = None,
    ) -> Representations:
        """Embeddings and type logits of detected cells, as ``config.represent`` says.

        Args:
            memories, detection: of ``memorise`` and ``detect``.
            chosen: (B, N) indices of queries.
            origin, blocked: as in ``represent``.
        """
        if self.representer is None:
            return self.read_queries(detection, [chosen] * len(detection.contents))
        boxes = detection.last.boxes.detach().gather(1, chosen[..., None].expand(-1, -1, 4))
        return self.represent(memories, boxes, origin, blocked)

    def _typed(self, layers: Sequence[Tensor]) -> Representations:
        """Contents (B, N, d) after each layer, with the types read off them; of the last only, at inference."""
        *auxiliary, logits = [at_least_single(self.type_head(x)) for x in (layers if self.training else layers[-1:])]
        return Representations(layers[-1], logits, tuple(auxiliary))

    def forward(self, images: Tensor, sizes: Tensor | None = None, origin: Tensor | None = None) -> Output:
        """Detect, then represent what was detected (the paper's sequential mode; boxes are detached).

        Args: as in ``memorise``.
        """
        memories = self.memorise(images, sizes, origin)
        detection = self.detect(memories, origin)
        queries = detection.last.boxes.shape[1]
        everyone = torch.arange(queries, device=images.device).expand(len(images), -1)
        return Output(detection, self.describe(memories, detection, everyone, origin))

    def _project(self, stride: int, features: Tensor) -> Tensor:
        """(B, C, h, w) of the backbone -> (B, d, h, w), normalised."""
        convolution, norm = cast(nn.Sequential, self.projections[self.config.strides.index(stride)])
        projected: Tensor = convolution(features)
        if isinstance(norm, nn.LayerNorm):
            return cast(Tensor, norm(projected.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        if torch.is_grad_enabled() and projected.device.type == "cpu":
            # The gradient of PyTorch's GroupNorm, channels last, takes twice as long in bfloat16 as in float32.
            return cast(Tensor, norm(projected.float())).to(projected.dtype)
        return cast(Tensor, norm(projected))

    def _padding(self, sizes: Tensor, height: int, width: int) -> Tensor | None:
        """(B, H, W) True outside each image, or None where all images fill the batch."""
        if bool((sizes == sizes.new_tensor([width, height])).all()):
            return None
        x = torch.arange(width, device=sizes.device)[None, None, :] >= sizes[:, 0, None, None]
        y = torch.arange(height, device=sizes.device)[None, :, None] >= sizes[:, 1, None, None]
        return x | y

    def _flatten(
        self, levels: Mapping[int, Tensor], strides: Sequence[int], sizes: Tensor, padding: Tensor | None
    ) -> Memory:
        """Features of the backbone -> tokens of the levels with the strides, with their geometry."""
        chosen = tuple(stride for stride in self.config.strides if stride in strides)
        features = [self._project(stride, levels[stride]) for stride in chosen]
        shapes = tuple((x.shape[2], x.shape[3]) for x in features)
        masks, valid_cells = [], []
        for height, width in shapes:
            if padding is None:
                valid_cells.append(sizes.new_tensor([width, height]).expand(len(sizes), 2))
                continue
            mask = functional.interpolate(padding[:, None].float(), size=(height, width))[:, 0].bool()
            masks.append(mask.flatten(1))
            valid_cells.append(torch.stack([(~mask[:, 0]).sum(-1), (~mask[:, :, 0]).sum(-1)], dim=-1).to(sizes.dtype))
        cells = as_tensor([(w, h) for h, w in shapes], like=sizes)
        pixels = sizes.new_tensor(chosen)[:, None]
        ratios = self.geometry.ratios(cells[None], torch.stack(valid_cells, dim=1), pixels, sizes)
        return Memory(
            tokens=torch.cat([x.flatten(2).transpose(1, 2) for x in features], dim=1),
            shapes=shapes,
            strides=chosen,
            ratios=ratios,
            padding=torch.cat(masks, dim=1) if masks else None,
            sizes=sizes,
        )


def replicate_edges(images: Tensor, sizes: Tensor) -> Tensor:
    """(B, C, H, W) images whose padding, beyond (B, 2) valid width and height, repeats their last column and row."""
    height, width = images.shape[2:]
    last = sizes.ceil().long() - 1
    x = torch.arange(width, device=images.device).minimum(last[:, :1])
    y = torch.arange(height, device=images.device).minimum(last[:, 1:])
    return torch.stack([image[:, rows][:, :, columns] for image, rows, columns in zip(images, y, x, strict=True)])


def _level_norm(config: ModelConfig) -> nn.Module:
    """The normalisation of a projected level."""
    return nn.LayerNorm(config.d_model) if config.level_norm == "layer" else nn.GroupNorm(32, config.d_model)
