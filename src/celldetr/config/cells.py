"""Settings of the commands that take finished cells: cluster, index, similar, export and explain."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from celldetr.config.base import Config, Positive, SlideMpp

SAMPLED_CELLS = 50_000  # cells that are clustered by default


class ClusterOptions(Config):
    """Settings of a clustering: all decide which groups come out.

    Examples:
        >>> import celldetr
        >>> celldetr.ClusterOptions(resolution=1.0).neighbours
        15
    """

    resolution: Positive = Field(0.5, le=1000, description="Resolution of Leiden; larger gives more, smaller clusters.")
    neighbours: int = Field(15, ge=2, le=200, description="Neighbours of each cell in the graph, which also vote.")
    sample: int = Field(
        SAMPLED_CELLS,
        ge=100,
        le=1_000_000,
        description="Cells that are clustered; the others join the nearest ones' clusters.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of sample, clusters and map.")


class IndexOptions(Config):
    """How an index is made."""

    seed: int = Field(0, ge=0, description="Seed of the sample that the index's lists are made from.")


class SimilarOptions(Config):
    """What counts as a neighbour."""

    k: int = Field(20, ge=1, le=10_000, description="Neighbours of each query.")
    mean: bool = Field(False, description="The cells given are one query: their mean.")
    other_slides: bool = Field(
        False, description="Look on other slides than the query's only; with `type` it needs `slide`."
    )
    apart_um: float = Field(
        0.0,
        ge=0,
        title="UM",
        description="Leave out cells nearer than this to the query's, micrometres; not with `type`.",
    )
    exact: bool = Field(False, description="Compare with every cell, even if there is an index.")


class ExportOptions(Config):
    """How cells are written; each is of one format."""

    shape: Literal["outline", "box", "ellipse"] | None = Field(
        None, description="geojson: what is drawn of a cell; default: its outline, or its box if there is none."
    )
    origin: Literal["bounds", "slide"] | None = Field(
        None,
        description="geojson: what becomes (0, 0): the corner of the scanned bounds, as in QuPath, or of the slide; "
        "default: bounds.",
    )
    classify: Literal["type", "model", "cluster"] | None = Field(
        None,
        description="geojson: class of a cell in QuPath: its type (the taught one after celldetr retype), the model's "
        "type, or its cluster (celldetr cluster); default: type.",
    )
    embeddings: bool | None = Field(None, description="csv: with the embeddings, in columns e0, e1, ...")
    image_mpp: Positive | None = Field(
        None,
        description="spatialdata: micrometres per pixel of the finest level of the slide's image; default: as it is.",
    )


class ExplainOptions(Config):
    """What of a slide is looked at to explain types."""

    region: tuple[float, float, float, float] | None = Field(
        None,
        title="X Y WIDTH HEIGHT",
        description="Without given cells, where they are looked for, in pixels at full resolution.",
    )
    mpp: SlideMpp = None
    tile: int = Field(
        768, ge=64, le=4096, description="Side of what a model sees around a cell, px at the model's mpp."
    )
