"""Patch sets without labels for docs/reports/pretraining.md: training images of two data sets, nuclei found by a model.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/pretraining/sets.py runs/pretraining

makes runs/pretraining/consep and runs/pretraining/brca with ``celldetr data sample``: a patch an image, as large as
most images allow at 0.4 um. The labels of these images are not used. The default model, which finds the nuclei, has
learned boxes and types from BRCA-M2C, and nothing from CoNSeP.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from celldetr.data.card import load_card
from celldetr.data.sources import load_samples

SETS = {"consep": ("consep-train", "fit", 680), "brca": ("brca-m2c", "train", 560)}  # card, split, px of a patch


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, (card_name, split, px) in SETS.items():
        card = load_card(card_name)
        images = out / f"{name}-images"
        images.mkdir(exist_ok=True)
        for sample in load_samples(card, split):
            Image.fromarray(sample.image).save(images / f"{sample.name}.png", compress_level=1)
        command = ["celldetr", "data", "sample", str(images), "-o", str(out / name), "--mpp", str(card.mpp)]
        everything = ["--min-tissue", "0", "--max-pen", "1"]  # these images were chosen by people already
        command += [*everything, "--px", str(px), "--licence", card.licence, "--overwrite"]
        code = subprocess.run(command, check=False).returncode
        if code not in (0, 3):  # 3: there is a set, without some of the images
            sys.exit(code)


if __name__ == "__main__":
    main()
