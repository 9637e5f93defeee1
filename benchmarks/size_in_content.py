"""How much of an embedding comes from the size in the content query, and how much from where the box lets look.

python benchmarks/size_in_content.py [MODEL ...] | tee benchmarks/results/size_in_content.txt

Method section 1 makes a cell's content query from (w, h). Here cells of the sample slide are embedded as they are; with
another size in the content query alone; and with that size in the sampling box alone. Printed is how far embeddings
move, as a share of the spread between cells (root mean square distance to their mean).
"""

from __future__ import annotations

import argparse
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from celldetr.api import load_model
from celldetr.demo_slide import sample_slide
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.display_names import short_titles
from celldetr.slide.damage import read_around
from celldetr.slide.reader import open_slide

SIDE_UM = 400.0
PLACE = (700.0, 700.0)  # level-0 px


class OtherSize(nn.Module):
    """A box encoding that is told other sizes than there are."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, boxes: Tensor, sizes: Tensor, origin: Tensor | None) -> tuple[Tensor, Tensor]:
        """As the inner one."""
        place, size = boxes.split(2, dim=-1)
        return cast(tuple[Tensor, Tensor], self.inner(torch.cat([place, size * self.factor], dim=-1), sizes, origin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*", default=["small-20x"])
    print(f"{'model':<28} {'cells':>6} {'size times':>11} {'content alone':>14} {'box alone':>10}")
    names = parser.parse_args().models
    for name, title in zip(names, short_titles(names), strict=True):
        model = load_model(name, "cpu", precision="32")
        with open_slide(sample_slide()) as reader:
            side = SIDE_UM / reader.mpp
            pixels = round(SIDE_UM / model.mpp)
            image, _ = read_around(reader, *PLACE, side, side, pixels, pixels)
        cells = model.predict(image, model.mpp)
        centre, size = cells[["x_px", "y_px"]].to_numpy(), cells[["w_px", "h_px"]].to_numpy()
        representer = cast(Any, model.network.representer)
        encode = representer.encode

        def embed(content: float, box: float) -> NDArray[np.float32]:
            representer.encode = OtherSize(encode, content / box)  # noqa: B023 - called before the next model
            half = size * box / 2  # noqa: B023
            return embed_boxes(model, image, np.concatenate([centre - half, centre + half], axis=1))  # noqa: B023

        plain = embed(1, 1)
        spread = np.sqrt(((plain - plain.mean(0)) ** 2).sum(1).mean())
        for factor in (0.5, 2.0):
            moved = [np.sqrt(((embed(*how) - plain) ** 2).sum(1).mean()) / spread for how in ((factor, 1), (1, factor))]
            print(f"{title:<28} {len(cells):>6} {factor:>11g} {moved[0]:>14.3f} {moved[1]:>10.3f}", flush=True)
        representer.encode = encode


if __name__ == "__main__":
    main()
