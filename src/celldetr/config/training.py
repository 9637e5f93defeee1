"""How a network is trained: losses, schedule and contrastive pretraining."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from celldetr.config.base import Config, Count, Positive, Precision, Probability

Part = Literal["backbone", "encoder", "detector", "representer"]
DETECTION: tuple[Part, ...] = ("backbone", "encoder", "detector")  # the parts that decide which nuclei are found


def _noise(jitter: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    low, high, _, _ = jitter
    if not low <= high < 1:
        raise ValueError(f"{list(jitter)}: expected [low, high, grow, share] with low <= high < 1")
    return jitter


# Noise of boxes, as ``training.box_sources.jitter_boxes`` takes it: low, high, grow, share.
Jitter = Annotated[tuple[Probability, Probability, Probability, Probability], AfterValidator(_noise)]


class ContrastiveConfig(Config):
    """Cell-level contrastive pretraining: positive pairs, and the negatives of an anchor."""

    views: Literal["two", "released"] = Field(
        "two",
        description="Positive pairs. two: across two augmented views of each image, so that colour, blur and turns "
        "differ and not the box alone; released: boxes and perturbed boxes of one image, as in the authors' code.",
    )
    shift: Probability = Field(
        0.15, description="Largest distance between the two views' crops along x and y, in crop sides."
    )
    zoom: float = Field(1.2, ge=1, le=4, description="Largest ratio of the two views' zooms.")
    jitter: Jitter = Field(
        (0.1, 0.4, 0.5, 1.0), description="Noise of the anchors' boxes: [low, high, grow, share], as training.jitter."
    )
    temperature: float = Field(0.1, ge=0.01, le=10, description="Temperature of InfoNCE.")
    border: float = Field(
        8.0,
        ge=0,
        description="Cells nearer than this to the edge of a view, px, are neither anchors nor negatives: a cut is a "
        "shortcut cue. They still train detection. 0: none is left out.",
    )
    negatives: Literal["batch", "image"] = Field(
        "batch", description="An anchor's negatives: the other cells of its image, or of the batch of all processes."
    )
    debias: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Assumed share of negatives of the anchor's own type, subtracted from the sum (Chuang et al., "
        "Debiased Contrastive Learning, NeurIPS 2020). 0: plain InfoNCE.",
    )
    projection: tuple[Positive, Positive] | None = Field(
        (2.0, 0.5),
        description="Hidden and output width, in d_model, of the projection head, which the checkpoint leaves out. "
        "null: the loss is of the embeddings themselves.",
    )
    start: Literal["random", "whitened"] = Field(
        "random",
        description="Initial content projection with model.content=features. whitened: principal components of the "
        "features in the boxes of training cells, up to d_model; no labels are used.",
    )
    weight: Positive = Field(1.0, description="Weight of the contrastive loss beside those of detection.")
    detection: Literal["first", "both", "none"] = Field(
        "first", description="Views whose boxes continue to train detection."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _, high, _, share = self.jitter
        if self.views == "released":
            if not high * share:
                raise ValueError(
                    f"views='released' distinguishes anchors from cells by the noise of their boxes; jitter has {high=}"
                )
            if self.detection == "both":
                raise ValueError("views='released' has one view of an image: use detection='first' or 'none'")
        return self


class TrainConfig(Config):
    """Objective, schedule, loss weights and what is frozen."""

    objective: Literal["supervised", "contrastive"] = Field(
        "supervised",
        description="supervised: nuclei and their types; contrastive: nuclei, and embeddings without types.",
    )
    contrastive: ContrastiveConfig = ContrastiveConfig()

    mode: Literal["sequential", "parallel", "parallel_jittered", "mixed", "positive_negative"] = Field(
        "mixed",
        description="Boxes that train the representation decoder. sequential: matched detections; parallel: true "
        "boxes; parallel_jittered: perturbed true boxes; mixed: detections and perturbed boxes; positive_negative: "
        "true boxes, slightly perturbed ones, and strongly perturbed ones of no type (DINO).",
    )
    jitter: Jitter = Field(
        (0.1, 0.3, 0.5, 0.6),
        description="Noise of true boxes: [low, high, grow, share]. A share of them is perturbed: sides are scaled by "
        "1 +- U(low, high), + with probability grow, and centres move by +- U(low, high) of half a side.",
    )
    steps: Count = Field(6000, description="Optimiser steps.")
    batch_size: Count = Field(4, description="Images of a step, of all processes together.")
    lr: Positive = Field(4e-4, description="Peak learning rate.")
    backbone_lr: Positive = Field(1e-4, description="Peak learning rate of the backbone.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of AdamW.")
    clip: Positive = Field(0.1, description="Largest norm of the gradient.")
    warmup: int = Field(300, ge=0, description="Steps of linear warm-up, before the cosine decay.")
    ema: Probability = Field(0.998, description="Decay of the averaged weights, which are validated and saved.")
    # YAML reads 32 as a number.
    precision: Annotated[Precision, BeforeValidator(str)] = Field(
        "auto", description="auto: bf16 where the device multiplies it natively, 32 elsewhere."
    )
    seed: int = Field(0, ge=0, description="Seed of weights, order and augmentation.")
    workers: int = Field(1, ge=0, description="Data loader processes.")
    validate_every: Count = Field(500, description="Steps between validations.")
    validation_images: Count | None = Field(
        None, description="Validate on so many images, spread evenly over the split; default: all."
    )
    checkpoint_minutes: Positive = Field(
        5.0, description="Minutes between the states that an interrupted run resumes from."
    )

    w_class: float = Field(2.0, description="Weight of the objectness loss.")
    w_l1: float = Field(5.0, description="Weight of the L1 loss of boxes.")
    w_giou: float = Field(2.0, description="Weight of the GIoU loss of boxes.")
    w_type: float = Field(2.0, description="Weight of the type loss.")
    w_composition: float = Field(0.0, ge=0, description="Weight of the loss of spots' compositions; 0: not learned.")
    w_outline: float = Field(1.0, ge=0, description="Weight of the loss of outlines, where there are masks.")
    class_balance: Probability = Field(
        0.5,
        description="Exponent of the inverse frequency with which cells of a type are drawn, in the type loss; 0: all "
        "types count alike.",
    )
    auxiliary_types: bool = Field(True, description="Type loss after every representation layer, not only the last.")
    denoising: int = Field(
        0,
        ge=0,
        le=100,
        description="Pairs of perturbed true boxes, near and far, added per nucleus to the detector's queries; 0: off.",
    )
    dense_queries: float = Field(
        1.0, ge=0, description="Weight of one-to-many supervision of the encoder's scores; 0: one-to-one only."
    )
    unlabelled_score: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Boxes without a labelled nucleus that score more than this, away from labelled ones, may be of "
        "nuclei that annotators left out, and are not punished; 1: all are.",
    )

    # Fine-tuning (docs/how-to/finetune.md).
    freeze: tuple[Part, ...] = Field(
        (), description="Parts that keep the weights of the recipe's init; backbone includes its projections."
    )
    labels: Literal["all", "some"] = Field(
        "all",
        description="Whether every nucleus of the images is labelled. some: detection has to be frozen, crops are "
        "drawn around labelled cells, and validation pairs labelled nuclei only.",
    )
    head_lr: Positive | None = Field(None, description="Learning rate of the type head, if new; default: lr.")
    hold_out: float = Field(
        0.0, ge=0, lt=1, description="Share of the cells to validate on, if the recipe has no validation data."
    )

    @model_validator(mode="after")
    def _some_labels_teach_no_detection(self) -> Self:
        if self.labels == "some" and not self.detection_frozen:
            missing = [part for part in DETECTION if part not in self.freeze]
            raise ValueError(
                f"labels='some' would teach that nuclei without a label are background: freeze {list(DETECTION)}"
                f" ({', '.join(missing)} missing), or label every nucleus and set labels='all'"
            )
        return self

    @model_validator(mode="after")
    def _contrastive_learns_embeddings(self) -> Self:
        if self.objective != "contrastive":
            return self
        if "representer" in self.freeze:
            raise ValueError("objective='contrastive' learns embeddings, and freeze keeps the representer as it is")
        if self.labels == "some":
            raise ValueError("labels='some' is about types, which objective='contrastive' does not learn: use 'all'")
        return self

    @property
    def learns_types(self) -> bool:
        """Whether there is a loss that teaches types."""
        return self.w_type > 0 or self.w_composition > 0

    @property
    def outlines_only(self) -> bool:
        """Whether the network finds, embeds and types nuclei as its start does, so that outlines alone are learned."""
        return self.detection_frozen and "representer" in self.freeze and not self.learns_types

    @property
    def detection_frozen(self) -> bool:
        """Whether all parts that decide which nuclei are found are frozen."""
        return set(DETECTION) <= set(self.freeze)


class QueryTrainConfig(TrainConfig):
    """Training of a model with ``represent: queries``: its detection queries learn the types.

    There is no representation decoder to be trained on boxes, pretrained or frozen.
    """

    objective: Literal["supervised"] = "supervised"
    mode: Literal["sequential"] = "sequential"
    freeze: tuple[Literal["backbone", "encoder"], ...] = ()


# By ``ModelConfig.represent``.
TRAINING: dict[str, type[TrainConfig]] = {"boxes": TrainConfig, "queries": QueryTrainConfig}
