"""Cells of an image with numpy, ONNX Runtime and Pillow alone: no PyTorch, no celldetr.

celldetr export small-20x --format onnx -o small-20x.onnx
python examples/onnx_predict.py small-20x.onnx region.png --out cells.csv  # an image at the model's mpp

A nucleus on the very line between two windows may appear twice or not at all; celldetr itself settles those too.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Where windows begin; the last is pushed back to end with the image."""
    return [*range(0, max(length - side, 0), side - overlap), max(length - side, 0)]


def owned(begins: list[int], i: int, side: int) -> tuple[float, float]:
    """The part of an axis whose cells are window i's: to the middle of what it shares with its neighbours."""
    low = (begins[i - 1] + side + begins[i]) / 2 if i else -np.inf
    return low, (begins[i] + side + begins[i + 1]) / 2 if i + 1 < len(begins) else np.inf


def distinct(centres: np.ndarray, boxes: np.ndarray, distance: float, share: float) -> np.ndarray:
    """Mask (N,) of the cells, given best first: no better one is near, or shares so much of the smaller's box."""
    keep, areas = np.ones(len(centres), bool), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for i in range(len(centres)):
        low, high = np.maximum(boxes[:, :2], boxes[i, :2]), np.minimum(boxes[:, 2:], boxes[i, 2:])
        rivals = (high - low).clip(0).prod(1) >= np.maximum(share * np.minimum(areas, areas[i]), 1e-9)
        rivals |= np.linalg.norm(centres - centres[i], axis=1) < distance
        keep[i + 1 :] &= ~(rivals[i + 1 :] & keep[i])
    return keep


def cells_of(session: onnxruntime.InferenceSession, tile: np.ndarray) -> tuple[np.ndarray, ...]:
    """(H, W, 3) uint8 -> boxes (N, 4) xyxy in pixels, scores (N,), types (N, K), embeddings (N, d); of a model with
    outlines their radii (N, 32)."""
    facts = session.get_modelmeta().custom_metadata_map
    outputs = [x[0] for x in session.run(None, {"images": tile.transpose(2, 0, 1)[None]})]
    found = [x[outputs[1] >= float(facts["threshold"])] for x in outputs]  # best first
    centres = (found[0][:, :2] + found[0][:, 2:]) / 2
    boxes = found[0].clip(0, np.tile(tile.shape[1::-1], 2))
    distance, share = float(facts["same_nucleus_um"]) / float(facts["mpp"]), float(facts["nested_share"])
    keep = distinct(centres, boxes, distance, share) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return tuple(x[keep] for x in (boxes, *found[1:]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--out", required=True, help="CSV to write")
    parser.add_argument("--side", type=int, help="of a window, pixels; default: 512, or what the model needs")
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    types, least = json.loads(facts["types"]), int(facts.get("image_px", 0))  # or images of that size alone
    side, image = args.side or least or 512, np.asarray(Image.open(args.image).convert("RGB"))
    image = np.pad(image, [*((0, max(least - n, 0)) for n in image.shape[:2]), (0, 0)], constant_values=255)
    rows, columns = (starts(length, side, min(64, side // 2)) for length in image.shape[:2])
    with Path(args.out).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x_px", "y_px", "w_px", "h_px", "score", "type"])
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            y, x = rows[i], columns[j]
            boxes, scores, kinds, *_ = cells_of(session, image[y : y + side, x : x + side])
            centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2 + (x, y), boxes[:, 2:] - boxes[:, :2]
            (left, right), (top, bottom) = owned(columns, j, side), owned(rows, i, side)
            mine = (centres >= (left, top)).all(1) & (centres < (right, bottom)).all(1)
            for k in np.flatnonzero(mine):
                writer.writerow(
                    [*centres[k].round(2), *sizes[k].round(2), scores[k].round(4), types[kinds[k].argmax()]]
                )
