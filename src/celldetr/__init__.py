"""CellDETR: every nucleus of an H&E slide located, typed and embedded.

    import celldetr
    cells = celldetr.load_model().predict(image, mpp=0.5)       # an array in, a DataFrame out
    celldetr.predict_slide("slide.svs", "out")                  # a slide in, a folder out
    cells = celldetr.read_cells("out/slide")

Names are imported when they are first used, so that ``import celldetr`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celldetr.api import Model, load_model, predict_slide
    from celldetr.cells.export import export_cells
    from celldetr.cells.geodataframe import to_geodataframe
    from celldetr.cells.reader import read_cells, read_embeddings
    from celldetr.config import ClusterOptions, ModelConfig, Recipe
    from celldetr.demo_slide import sample_slide
    from celldetr.errors import InputError
    from celldetr.model.celldetr import CellDETR
    from celldetr.model.hub import list_models
    from celldetr.search.clustering import cluster_cells
    from celldetr.search.index import build_index
    from celldetr.search.similar import similar
    from celldetr.slide.options import PredictOptions
    from celldetr.training.loop import train

__version__ = version("celldetr")

_HOMES = {
    "Model": "celldetr.api",
    "load_model": "celldetr.api",
    "predict_slide": "celldetr.api",
    "ClusterOptions": "celldetr.config",
    "cluster_cells": "celldetr.search.clustering",
    "build_index": "celldetr.search.index",
    "similar": "celldetr.search.similar",
    "ModelConfig": "celldetr.config",
    "Recipe": "celldetr.config",
    "InputError": "celldetr.errors",
    "export_cells": "celldetr.cells.export",
    "CellDETR": "celldetr.model.celldetr",
    "list_models": "celldetr.model.hub",
    "sample_slide": "celldetr.demo_slide",
    "PredictOptions": "celldetr.slide.options",
    "read_cells": "celldetr.cells.reader",
    "read_embeddings": "celldetr.cells.reader",
    "to_geodataframe": "celldetr.cells.geodataframe",
    "train": "celldetr.training.loop",
}

__all__ = [
    "CellDETR",
    "ClusterOptions",
    "InputError",
    "Model",
    "ModelConfig",
    "PredictOptions",
    "Recipe",
    "build_index",
    "cluster_cells",
    "export_cells",
    "list_models",
    "load_model",
    "predict_slide",
    "read_cells",
    "read_embeddings",
    "sample_slide",
    "similar",
    "to_geodataframe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'celldetr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
