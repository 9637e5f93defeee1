"""A model as one ONNX file, for programs without PyTorch: ONNX Runtime, OpenVINO, C++, the browser.

The graph takes uint8 images of any number and any size and returns all queries, best first; which of them are cells
(threshold, one query a nucleus) is left to the reader, as ``examples/onnx_predict.py`` shows. What the reader needs for
that is in the file's metadata.

The graph is recorded by running the network once (PyTorch's TorchScript exporter). Sizes are tensors while that
happens, so everything that depends on them is computed in the graph: padding to whole cells of the coarsest level, the
number of queries, the places of tokens. The other exporter, ``dynamo=True``, reasons about sizes symbolically instead;
with torch 2.15 that took ten times as long and fixed one size without a word. That a graph holds for other sizes than
the recorded one is tested before the file gets its name: ONNX Runtime must agree with the network on an image of
another size.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from celldetr.errors import InputError, install
from celldetr.io.files import output_errors, replacing
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, Checkpoint, load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import NESTED_SHARE, SAME_NUCLEUS_UM, trained_px, type_probabilities

OPSET = 17  # GridSample came with 16, LayerNormalization with 17
INPUT = "images"
OUTPUTS = ("boxes", "scores", "types", "embeddings")
RADII_OUTPUT = "radii"  # of a model with outlines
TOLERANCE = 1e-3  # largest difference from PyTorch: pixels, probabilities, units of an embedding


class AllQueries(nn.Module):
    """What is exported: uint8 images in, every query out.

    (B, 3, H, W) uint8 RGB -> boxes (B, Q, 4) float32 xyxy in pixels, which may reach over the image's edge; scores
    (B, Q) in [0, 1], falling; types (B, Q, K), probabilities that sum to 1; embeddings (B, Q, d); of a network with
    outlines radii (B, Q, ``RADII``), in the boxes as the image cuts them.
    """

    def __init__(self, network: CellDETR) -> None:
        super().__init__()
        self.network = copy.copy(network)  # shares all weights but the backbone's
        detector = copy.copy(network.detector)
        detector.near = network.config.queries == "selected"
        backbone = _with_fixed_padding(network.backbone)
        self.network._modules = {**network._modules, "backbone": backbone, "detector": detector}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return OUTPUTS if self.network.outliner is None else (*OUTPUTS, RADII_OUTPUT)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        network = self.network
        batch, _, height, width = images.shape
        coarsest = network.config.strides[-1]
        beyond = "replicate" if network.config.border == "replicate" else "constant"
        padded = functional.pad(network.normalise(images), (0, -width % coarsest, 0, -height % coarsest), mode=beyond)
        x = torch.arange(padded.shape[3], device=images.device) >= width
        y = torch.arange(padded.shape[2], device=images.device) >= height
        padding = (y[:, None] | x[None, :]).expand(batch, -1, -1)
        size = torch.stack([torch.as_tensor(side) for side in (width, height)]).to(padded)
        sizes = size.expand(batch, 2)
        memories = network.encode(padded, sizes, padding)
        detection = network.detect(memories)
        found = detection.last
        scores, order = found.logits.sigmoid().sort(dim=1, descending=True)
        boxes = found.boxes.gather(1, order[..., None].expand(-1, -1, 4))
        cells = network.describe(memories, detection, order)
        types = type_probabilities(cells.logits)
        corners = box_convert(boxes, "cxcywh", "xyxy")
        outputs = corners * sizes.repeat(1, 2)[:, None], scores, types, cells.embeddings
        if network.outliner is None:
            return outputs
        return *outputs, network.outline(memories, box_convert(corners.clamp(0, 1), "xyxy", "cxcywh"))


def export_onnx(
    source: str | Path | Checkpoint | None, out: str | Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write a model as one ONNX file. The file appears whole and tested, or not at all.

    Args:
        source: a model's name or folder, as ``load_model`` takes it, or a loaded checkpoint.
        out: the file, ending in .onnx; default: the model's name, in the current folder. Missing folders are made.
        overwrite: replace an existing file.

    Returns:
        The path written.

    Raises:
        InputError: the packages are missing, there is no such model, it cannot be one graph, or the place cannot be
            written to.
    """
    if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise InputError(f"to write ONNX, {' and '.join(missing)} must be installed: {install('onnx')}")
    checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(_model_folder(source))
    network, card = checkpoint.network, checkpoint.card
    if network.config.self_attention != "none":
        raise InputError(
            f"model {card.name!r} has self_attention={network.config.self_attention!r}: its embeddings depend on which "
            "other cells pass the threshold, which is no part of the graph; only self_attention='none' can be exported"
        )
    target = Path(_file_name(card.name)) if out is None else Path(out)
    if target.is_dir() or target.suffix.lower() != ".onnx":
        raise InputError(f"{target}: expected the name of a file that ends in .onnx")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; choose another name or overwrite it (`overwrite=True`)")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    module = AllQueries(copy.deepcopy(network)).eval().cpu()  # the caller's may be in training, or on a GPU
    with replacing(target) as temporary:
        _record(module, temporary)
        _describe(temporary, card)
        _verify(module, temporary, card.name)
    return target


def _file_name(model: str) -> str:
    """Where a model called so goes by default. Who wrote the card chose the name, but not a path: letters only."""
    return (re.sub(r"[^0-9A-Za-z_.-]+", "-", model).strip(".-")[:100] or "model") + ".onnx"


def _model_folder(source: str | Path | None) -> Path:
    """The checkpoint's folder; a slide's result is a likely mix-up."""
    path = Path(source) if source is not None else None
    if path is not None and ((path / "cells.parquet").is_file() or path.suffix == ".parquet"):
        raise InputError(f"{path}: cells of a slide; onnx is a format of models: give a model's name or folder")
    return find_model(source)


def _with_fixed_padding(backbone: nn.Module) -> nn.Module:
    """A copy whose "same" convolutions pad by constants: an image of whole cells needs the same at any size.

    Runtimes merge a constant padding with the convolution; a computed one is a pass over the whole map.
    """
    copied = copy.deepcopy(backbone)
    for name, module in list(copied.named_modules()):
        if type(module).__name__ != "Conv2dSame":
            continue
        old = cast(nn.Conv2d, module)
        pads: list[int] = []
        for axis in (1, 0):  # functional.pad begins with the last
            total = max((old.kernel_size[axis] - 1) * old.dilation[axis] + 1 - old.stride[axis], 0)
            pads += [total // 2, total - total // 2]
        plain = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            cast(tuple[int, int], old.kernel_size),
            cast(tuple[int, int], old.stride),
            0,
            cast(tuple[int, int], old.dilation),
            old.groups,
        )
        plain.weight, plain.bias = old.weight, old.bias
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, nn.Sequential(nn.ZeroPad2d(cast(Any, tuple(pads))), plain))
    return copied


def _record(module: AllQueries, path: Path) -> None:
    """Run the network on an example and write the graph of what happened."""
    side = 2 * module.network.config.strides[-1]
    example = torch.zeros(2, 3, side, side + 1, dtype=torch.uint8)
    dynamic: dict[str, dict[int, str]] = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    dynamic |= {name: {0: "batch", 1: "queries"} for name in module.outputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # each value that is recorded as a constant; _verify finds those that are not
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(module.outputs),
            dynamic_axes=dynamic,
        )


def _describe(path: Path, card: Card) -> None:
    """Put what a reader must know into the file: texts, lists as JSON."""
    import onnx

    facts = {
        "name": card.name,
        "version": card.package_version,
        "sha256": card.sha256,
        "licence": card.licence,
        "mpp": repr(card.config.mpp),
        "types": json.dumps(list(card.config.types)),
        "threshold": repr(card.threshold),
        "same_nucleus_um": repr(SAME_NUCLEUS_UM),
        "nested_share": repr(NESTED_SHARE),
    }
    if side := trained_px(card.config, card.recipe):
        facts["image_px"] = repr(side)
    graph = onnx.load(path)
    graph.producer_name, graph.producer_version = "celldetr", card.package_version
    graph.doc_string = AllQueries.__doc__ or ""
    onnx.helper.set_model_props(graph, facts)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def run_onnx(path: Path, images: NDArray[np.uint8], threads: int | None = None) -> tuple[NDArray[np.float32], ...]:
    """All outputs of an exported file in ONNX Runtime on the CPU.

    Args:
        path: the file.
        images: (B, 3, H, W) uint8 RGB.
        threads: at most; None: those of PyTorch.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return tuple(session.run(None, {INPUT: images}))


def _verify(module: AllQueries, path: Path, name: str) -> None:
    """Refuse a graph that is another function than the network.

    Raises:
        InputError: it does not run, or differs, at another size than the recorded one.
    """
    side = 3 * module.network.config.strides[-1] + 1
    images = np.random.default_rng(0).integers(0, 256, (1, 3, side, side + 70), dtype=np.uint8)
    with torch.no_grad():
        expected = [output.numpy() for output in module(torch.from_numpy(images))]
    try:
        found = run_onnx(path, images)
    except Exception as error:
        raise InputError(f"model {name!r} cannot be exported: ONNX Runtime says {str(error).splitlines()[0]}") from None
    for output, a, b in zip(module.outputs, expected, found, strict=True):
        if a.shape != b.shape:
            raise InputError(f"model {name!r} cannot be exported: {output} has shape {b.shape}, expected {a.shape}")
    # Queries that are equally good may change places, or one that just misses the cut may come in for another.
    distance = np.abs(expected[0][0][:, None] - found[0][0][None]).max(-1)
    nearest = (distance + np.abs(expected[1][0][:, None] - found[1][0][None])).argmin(1)
    pairs = ((a[0], b[0][nearest]) for a, b in zip(expected, found, strict=True))
    differs = np.max([np.abs(a - b).reshape(len(a), -1).max(1) for a, b in pairs], axis=0)
    if (share := float((~(differs <= TOLERANCE)).mean())) > 0.02:
        most = f"{share:.0%} of its queries differ in ONNX Runtime, by up to {differs.max():.2g}"
        raise InputError(f"model {name!r} cannot be exported: {most}")
