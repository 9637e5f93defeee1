"""Every setting, once: frozen pydantic models that the command line, recipes (YAML), checkpoints and Python share.

Unknown keys are refused and the near ones named.
"""

from __future__ import annotations

from celldetr.config.base import (
    Config,
    Count,
    ImageMpp,
    Mpp,
    Positive,
    Precision,
    Probability,
    Share,
    SlideMpp,
    TypeName,
    merge,
    override,
    parse,
)
from celldetr.config.cells import ClusterOptions, ExplainOptions, ExportOptions, IndexOptions, SimilarOptions
from celldetr.config.data import AugmentConfig, DataSource
from celldetr.config.evaluation import EvaluateOptions, ProbeOptions, RotationsOptions, ThresholdOptions
from celldetr.config.inference import InferenceOptions
from celldetr.config.model import ModelConfig
from celldetr.config.recipe import Recipe
from celldetr.config.training import DETECTION, ContrastiveConfig, Part, TrainConfig

__all__ = [
    "DETECTION",
    "AugmentConfig",
    "ClusterOptions",
    "Config",
    "ContrastiveConfig",
    "Count",
    "DataSource",
    "EvaluateOptions",
    "ExplainOptions",
    "ExportOptions",
    "ImageMpp",
    "IndexOptions",
    "InferenceOptions",
    "ModelConfig",
    "Mpp",
    "Part",
    "Positive",
    "Precision",
    "Probability",
    "ProbeOptions",
    "Recipe",
    "RotationsOptions",
    "Share",
    "SimilarOptions",
    "SlideMpp",
    "ThresholdOptions",
    "TrainConfig",
    "TypeName",
    "merge",
    "override",
    "parse",
]
