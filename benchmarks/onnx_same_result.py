"""How far ONNX Runtime is from float32 PyTorch on an exported file: the largest difference of any query.

python benchmarks/onnx_same_result.py | tee benchmarks/results/onnx_same_result.txt

Tiles of the sample slide's tissue and noise. A query is compared with the one nearest to it; each must have its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.nn import functional
from torchvision.ops import box_convert

from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.folding import for_inference
from celldetr.model.hub import find_model
from celldetr.model.onnx import OUTPUTS, export_onnx
from tile_speed import tissue

BATCHES = ((1, 256), (3, 256), (1, 512), (3, 512), (1, 96), (3, 96))


def main() -> None:
    network = for_inference(load_checkpoint(find_model("small-20x")).network)
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx("small-20x", Path(folder) / "small-20x.onnx")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}; boxes in pixels")
    print(f"{'tiles':24}  queries  {'  '.join(f'{name:>10}' for name in OUTPUTS)}")
    for batch, side in BATCHES:
        noise = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        for kind, tiles in (("tissue", np.stack(tissue(batch, side))), ("noise", noise)):
            images = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))
            with torch.inference_mode():
                memories = network.memorise(torch.from_numpy(images))
                found = network.detect(memories).last
                cells = network.represent(memories, found.boxes)
                boxes, scores = box_convert(found.boxes, "cxcywh", "xyxy") * side, found.logits.sigmoid()
                types = functional.logsigmoid(cells.logits).softmax(-1)
            expected = [x.numpy() for x in (boxes, scores, types, cells.embeddings)]
            found_there = session.run(list(OUTPUTS), {"images": images})
            worst = np.zeros(len(OUTPUTS))
            for image in range(batch):
                a, b = ([x[image].reshape(x.shape[1], -1) for x in outputs] for outputs in (expected, found_there))
                partner = np.abs(a[0][:, None] - b[0][None]).max(-1).argmin(1)
                if sorted(partner) != list(range(len(partner))):
                    raise SystemExit(f"{batch} x {side} px, {kind}: other queries were selected")
                worst = np.maximum(worst, [np.abs(x - y[partner]).max() for x, y in zip(a, b, strict=True)])
            shown = "  ".join(f"{value:10.1e}" for value in worst)
            print(f"{batch} of {side} x {side} px, {kind:6}  {expected[0].shape[1]:7d}  {shown}", flush=True)


if __name__ == "__main__":
    main()
