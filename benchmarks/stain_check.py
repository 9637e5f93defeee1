"""How often tiles of H&E are taken for something else, and other images for H&E (``celldetr.slide.stain_check``).

    python benchmarks/stain_check.py DATA > benchmarks/results/stain_check.txt

DATA is the folder of the data sets. Each tile is looked at as it is, with red and blue exchanged, and as luminance and
chroma that nobody decoded, at 1 um per pixel. The test split of BRCA-M2C is left out: bounds are chosen here.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from celldetr.slide.stain_check import looks_like

# Folder of the images, and their um per pixel.
SETS = {
    "brca_m2c/images": 0.5,
    "consep": 0.275,
    "dsb2018_he/images": 0.4,
    "histolytics": 0.5,
    "monuseg_train/images": 0.25,
    "nucls_cellvitpp_examples": 0.25,
    "nuinsseg/images": 0.165,
    "pannuke_breast_mini": 0.25,
    "tnbc/images": 0.25,
}
NOT_IMAGES = ("label", "mask", "inst")
TEST = "brca_m2c/brca_ds_test.txt"  # names of images that are left out
MOST = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--most", type=int, default=MOST, help="tiles of a set")
    options = parser.parse_args()
    print(f"{'set':28}{'tiles':>6}  {'as it is':28}{'exchanged':34}{'not decoded'}")
    test = set((options.data / TEST).read_text().split()) if (options.data / TEST).is_file() else set()
    for folder, mpp in SETS.items():
        paths = sorted(
            path
            for path in (options.data / folder).rglob("*")
            if path.suffix in (".jpg", ".png", ".tif")
            and path.name not in test
            and not any(word in path.relative_to(options.data).as_posix().lower() for word in NOT_IMAGES)
        )
        paths = paths[:: max(1, len(paths) // options.most)]
        looks: list[Counter[str]] = [Counter(), Counter(), Counter()]
        for path in paths:
            with Image.open(path) as image:
                size = (max(1, round(image.width * mpp)), max(1, round(image.height * mpp)))
                small = image.convert("RGB").resize(size, Image.Resampling.BOX)
            rgb = np.asarray(small)
            for counter, pixels in zip(looks, (rgb, rgb[..., ::-1], np.asarray(small.convert("YCbCr"))), strict=True):
                counter[looks_like(pixels)] += 1
        said = [", ".join(f"{name} {count}" for name, count in counter.most_common()) for counter in looks]
        print(f"{folder:28}{len(paths):>6}  {said[0]:28}{said[1]:34}{said[2]}")


if __name__ == "__main__":
    main()
