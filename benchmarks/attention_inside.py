"""Share of the representation decoder's attention inside the nucleus's own mask and box, model by model.

CELLDETR_DATA=... python benchmarks/attention_inside.py MODEL [MODEL ...] --dataset consep --split test

MODEL is what ``celldetr predict --model`` takes. The data set needs masks (format instance_maps); its true boxes are
what the models are asked about. "evenly over the box" is what attention without preference inside the box would have.
"""

from __future__ import annotations

import argparse
from functools import partial

from celldetr.data.card import load_card
from celldetr.model.attention_trace import trace_attention
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.research.attention import attention_inside, masked_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="+")
    parser.add_argument("--dataset", default="consep")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tile", type=int, default=768, help="px at the model's mpp that it sees at once")
    options = parser.parse_args()
    samples = masked_samples(load_card(options.dataset), options.split)
    print(f"{options.dataset} {options.split}, {len(samples)} images; mean over cells of the share of attention")
    print(f"{'model':<24} {'layer':>7} {'cells':>7} {'in mask':>8} {'in box':>8}")
    for name in options.models:
        network = load_checkpoint(find_model(name)).network.eval()
        found = attention_inside(partial(trace_attention, network), network.config.mpp, samples, options.tile)
        for layer, (mask, box) in enumerate(zip(found.in_mask, found.in_box, strict=True), 1):
            print(f"{name:<24} {layer:>7} {found.cells:>7} {mask:>8.3f} {box:>8.3f}")
        mask, box = (sum(shares) / len(shares) for shares in (found.in_mask, found.in_box))
        print(f"{name:<24} {'mean':>7} {found.cells:>7} {mask:>8.3f} {box:>8.3f}", flush=True)
    print(f"{'evenly over the box':<24} {'':>7} {found.cells:>7} {found.mask_of_box:>8.3f} {1:>8.3f}")


if __name__ == "__main__":
    main()
