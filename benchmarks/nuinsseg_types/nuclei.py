"""What the scripts of this folder share: tiles of NuInsSeg with their nuclei, and clusters of embeddings per organ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from celldetr.data.card import load_card
from celldetr.data.masks import number_nuclei
from celldetr.data.readers.common import labelled_image, read_image
from celldetr.data.readers.instance_maps import InstanceOptions, read_map
from celldetr.data.readers.layout import find_items
from celldetr.data.sources import rescale
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor

SPLITS = ("train", "val")  # organs of the split test are never looked at
CLUSTERS = 10  # per organ
WEIGHTS = "small-20x"


@dataclass(frozen=True)
class Tile:
    """Image (H, W, 3), instance map (H, W), and of N nuclei: numbers there, boxes xyxy, areas, px, and embeddings."""

    name: str
    organ: str
    split: str
    image: NDArray[np.uint8]
    instances: NDArray[np.integer]
    numbers: NDArray[np.int64]
    boxes: NDArray[np.float32]
    areas: NDArray[np.int64]
    embeddings: NDArray[np.float32]

    @property
    def centres(self) -> NDArray[np.float32]:
        """(N, 2) centres (x, y) of the boxes, px."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


def tiles(cache: Path, organs: Sequence[str] = ()) -> Iterator[Tile]:
    """Tiles of ``SPLITS``, of some organs or all; embeddings are computed once and kept in the folder ``cache``."""
    cache.mkdir(parents=True, exist_ok=True)
    card = load_card("nuinsseg")
    predictor: TilePredictor | None = None
    for split in SPLITS:
        for item in find_items(card, split, card.options_as(InstanceOptions)):
            organ = card.group_of(item.name)
            if organs and organ not in organs:
                continue
            image, instances = read_image(item.image), read_map(item.label(".png"))
            numbers, masks = number_nuclei(instances)
            boxes, areas = masks.extents()
            path = cache / f"{item.name}.npy"
            if not path.exists():
                predictor = predictor or TilePredictor(load_checkpoint(find_model(WEIGHTS)).network, threshold=0.5)
                sample = labelled_image(card, item.name, image, boxes, [0] * len(boxes), [""] * len(boxes))
                small = rescale(sample, predictor.network.config.mpp)
                np.save(path, embed_boxes(predictor, small.image, small.boxes))
            yield Tile(item.name, organ, split, image, instances, numbers, boxes, areas, np.load(path))


def by_organ(found: Iterable[Tile]) -> dict[str, list[Tile]]:
    """Organ -> its tiles."""
    organs: dict[str, list[Tile]] = defaultdict(list)
    for tile in found:
        organs[tile.organ].append(tile)
    return dict(organs)


def clusters(organ: list[Tile]) -> list[NDArray[np.int64]]:
    """For each tile of an organ, the cluster (N,) of each nucleus: k-means of the embeddings, the largest first."""
    vectors = np.concatenate([tile.embeddings for tile in organ])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    of = KMeans(CLUSTERS, n_init=5, random_state=0).fit_predict(vectors)
    rank = np.argsort(np.argsort(-np.bincount(of, minlength=CLUSTERS), kind="stable"))
    ends = np.cumsum([len(tile.numbers) for tile in organ])[:-1]
    return np.split(rank[of], ends)
