"""InstanSeg with the architecture of brightfield_nuclei, in the TorchScript form in which its models are released."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from drawn_nuclei import draw
from serving import Peer, Tile, serve
from torch import nn

LAYERS = [256, 128, 64, 32]
COORDINATES, SIGMAS, SEEDS = 2, 2, 1
UNITS = 64 / 256  # of its coordinates, per pixel
NEAR = 0.5  # units: pixels whose embedding is nearer to a seed's are of its nucleus
SHARPNESS = 20.0


class Fixed(nn.Module):
    """Stands for the network and returns given maps."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("maps", maps)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.maps + 0 * image[:, :1]


def classifier(trained: bool) -> nn.Module:
    """The small network that tells from embeddings whether a pixel is of a seed's nucleus.

    Args:
        trained: with weights that answer "nearer than ``NEAR``", instead of random ones.
    """
    from instanseg.utils.loss.instanseg_loss import ProbabilityNet

    net = ProbabilityNet(COORDINATES + SIGMAS, width=5)
    if trained:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
            for hidden, (channel, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
                net.fc1.weight[hidden, channel] = sign
                net.fc2.weight[0, hidden] = 1  # |dx| + |dy|
            net.fc3.weight[0, 0], net.fc3.bias[0] = -SHARPNESS, SHARPNESS * NEAR
    return net


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    from instanseg.utils.loss.instanseg_loss import InstanSeg_Torchscript

    module = InstanSeg_Torchscript(network.eval(), n_sigma=SIGMAS, dim_coords=COORDINATES, dim_seeds=SEEDS)
    return torch.jit.script(module.eval())


def maps_of(tile: Tile, rng: np.random.Generator) -> torch.Tensor:
    """(1, 5, S, S): embeddings that point to the nucleus' centre, sigmas, and the distance transform as seeds."""
    nuclei = draw(tile.boxes, tile.image.shape[0])
    shift = -nuclei.offset.transpose(2, 0, 1) * UNITS + rng.normal(0, 0.03, (2, *nuclei.labels.shape))
    share = np.clip(shift / 8 + 0.5, 1e-3, 1 - 1e-3)
    seeds = 15 * (np.where(nuclei.labels > 0, 1 - nuclei.radius, 0) - 0.5)
    sigmas = rng.normal(0, 1, shift.shape)
    noise = rng.normal(0, 0.01, seeds.shape)  # no two neighbours equal
    return torch.from_numpy(np.concatenate([np.log(share / (1 - share)), sigmas, [seeds + noise]])).float()[None]


def build(options: argparse.Namespace, tiles: list[Tile]) -> Peer:
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet
    from instanseg.utils.utils import percentile_normalize

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    unet = InstanSeg_UNet(3, [[COORDINATES, SIGMAS, SEEDS]], layers=LAYERS, norm="BATCH")
    unet.pixel_classifier = classifier(trained=False)
    model = scripted(unet)
    rng = np.random.default_rng(0)
    posts = []
    for tile in tiles:
        fixed = Fixed(maps_of(tile, rng))
        fixed.pixel_classifier = classifier(trained=True)
        posts.append(scripted(fixed))
    blank = torch.zeros(1, 3, *tiles[0].image.shape[:2])

    @torch.inference_mode()
    def network(images: np.ndarray) -> object:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return model.fcn(torch.stack([percentile_normalize(image) for image in pixels]))

    @torch.inference_mode()
    def post(index: int) -> int:
        return len(torch.unique(posts[index](blank.clone()))) - 1

    for index, tile in enumerate(tiles * 2):  # TorchScript optimises in its first two calls
        network(tile.image[None])
        post(index % len(tiles))
    return Peer(network, post)


if __name__ == "__main__":
    serve(build)
