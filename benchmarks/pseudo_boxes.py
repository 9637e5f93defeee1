"""How well boxes derived from points agree with true boxes, and how far their centres are from the points.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/pseudo_boxes.py [--split train]

CoNSeP has true extents. Its tiles are brought to 0.5 micrometres per pixel, the points are the centroids of its
nuclei, moved by up to ``jitter`` pixels in x and y as an annotator's click is. The parameters were chosen on the train
split; the test split is for one look at the end. BRCA-M2C has points only: there the question is whether the box keeps
the point in its middle, since evaluation asks for the point.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from torchvision.ops import box_iou

from celldetr.data.card import load_card
from celldetr.data.pseudo_boxes import basins, pseudo_boxes
from celldetr.data.readers.instance_maps import read_map
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.stain import haematoxylin

MPP = 0.5
CONSTANT = 16  # px


def centroids(split: str, sample: Sample, scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, 2) centres of mass of the nuclei, in pixels of the rescaled tile."""
    card = load_card("consep")
    instances = read_map(card.directory() / split / "labels" / f"{sample.name}_inst.png")
    numbers = np.unique(instances)[1:]
    rows_columns = np.array(ndimage.center_of_mass(instances > 0, instances, numbers))
    return ((rows_columns[:, ::-1] + 0.5) * scale).astype(np.float32)


def constant(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([points - CONSTANT / 2, points + CONSTANT / 2], axis=1)


def thresholded_watershed(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same basins, cut by one threshold (Otsu's) for the image: what a plain watershed gives."""
    stain = haematoxylin(image)
    smooth = ndimage.gaussian_filter(stain, 1)
    parts = np.where(smooth > threshold_otsu(smooth), basins(stain, points, MPP), 0)
    boxes = constant(image, points)
    for index, window in enumerate(ndimage.find_objects(parts, len(points))):
        if window is not None:
            boxes[index] = window[1].start, window[0].start, window[1].stop, window[0].stop
    return boxes


METHODS = {
    f"constant {CONSTANT} px": constant,
    "watershed, Otsu": thresholded_watershed,
    "celldetr": lambda image, points: pseudo_boxes(image, points, MPP),
}


def consep(split: str) -> None:
    tiles = [(tile, rescale(tile, MPP)) for tile in load_samples(load_card("consep"), split)]
    types = np.concatenate([small.types for _, small in tiles])
    true = np.concatenate([small.boxes for _, small in tiles])
    names = tiles[0][0].type_names
    print(f"CoNSeP {split}: {len(tiles)} tiles at {MPP} um/px, {len(types)} nuclei")
    print(
        "jitter  method            median  mean   q25  width ratio  "
        + "  ".join(f"{name:>12}" for name in names)
        + "  s/tile"
    )
    for jitter in (0.0, 1.0):
        rng = np.random.default_rng(0)
        points = []
        for tile, small in tiles:
            scale = np.array(small.image.shape[1::-1]) / np.array(tile.image.shape[1::-1])
            centres = centroids(split, tile, scale)
            points.append(centres + rng.uniform(-jitter, jitter, centres.shape).astype(np.float32))
        for name, method in METHODS.items():
            start = time.perf_counter()
            found = np.concatenate([method(small.image, at) for (_, small), at in zip(tiles, points, strict=True)])
            seconds = (time.perf_counter() - start) / len(tiles)
            overlap = box_iou(torch.from_numpy(found), torch.from_numpy(true)).diagonal().numpy()
            ratio = np.median((found[:, 2:] - found[:, :2]) / (true[:, 2:] - true[:, :2]))
            each = "  ".join(f"{np.median(overlap[types == index]):12.3f}" for index in range(len(names)))
            print(
                f"{jitter:6.1f}  {name:16}  {np.median(overlap):6.3f}  {overlap.mean():.3f}  "
                f"{np.quantile(overlap, 0.25):.3f}  {ratio:11.2f}  {each}  {seconds:6.2f}"
            )


def brca(split: str) -> None:
    samples = load_samples(load_card("brca-m2c"), split)
    away = np.concatenate(
        [np.linalg.norm((sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 - sample.points, axis=1) for sample in samples]
    )
    near = ", ".join(f"{(away <= limit).mean():.4f} within {limit} px" for limit in (2, 3, 6))
    print(
        f"BRCA-M2C {split}: {len(away)} points; centre of the pseudo box {near}; largest distance {away.max():.2f} px"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="train", choices=["train", "test"], help="of CoNSeP")
    consep(parser.parse_args().split)
    brca("val")


if __name__ == "__main__":
    main()
