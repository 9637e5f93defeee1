"""StarDist 2D with the configuration of its H&E model, 2D_versatile_he.

The network is called by ``predict_on_batch``: Keras' ``predict``, which ``predict_instances`` goes through, adds about
55 ms to every call, which counts on tiles as small as these but not on the larger images StarDist is usually given.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np
from drawn_nuclei import draw, rays
from serving import Peer, Tile, serve

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PROBABILITY, OVERLAP = 0.6924782541382084, 0.3  # the thresholds that come with 2D_versatile_he


def build(options: argparse.Namespace, tiles: list[Tile]) -> Peer:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D

    # U-Net of depth 3 with 32 filters, 128 channels behind it: the defaults, which that model has.
    config = Config2D(n_rays=32, n_channel_in=3, grid=(2, 2), axes="YXC")
    model = StarDist2D(config, name="peer", basedir=tempfile.mkdtemp(prefix="stardist-"))
    rng = np.random.default_rng(0)
    prepared = []
    for tile in tiles:
        nuclei = draw(tile.boxes, tile.image.shape[0])
        probability = 1 - nuclei.radius + rng.normal(0, 0.02, nuclei.radius.shape)
        rows, columns = np.nonzero(probability[::2, ::2] > PROBABILITY)
        points = np.stack([rows, columns], axis=1) * 2
        there = points[:, 0], points[:, 1]
        distances = rays(nuclei, *there, 32) * rng.normal(1, 0.05, (len(points), 32))
        prepared.append((probability[there].astype(np.float32), distances.astype(np.float32), points))

    def network(images: np.ndarray) -> object:
        normal = np.stack([normalize(image, 1, 99.8, axis=(0, 1)) for image in images])
        return model.keras_model.predict_on_batch(normal)

    def post(index: int) -> int:
        probability, distances, points = prepared[index]
        _, found = model._instances_from_prediction(
            tiles[index].image.shape[:2],
            probability,
            distances,
            points=points,
            prob_thresh=PROBABILITY,
            nms_thresh=OVERLAP,
        )
        return len(found["points"])

    return Peer(network, post)


if __name__ == "__main__":
    serve(build)
