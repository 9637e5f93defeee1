"""A second naming of 300 nuclei of the training organs, from shuffled crops without names, organs or numbers.

    CELLDETR_DATA=... python benchmarks/nuinsseg_types/agreement.py FOLDER    draws FOLDER/second-N.png
    python benchmarks/nuinsseg_types/agreement.py                             compares second.txt with first names

A line of second.txt is a sheet, a letter is a nucleus, in the order of reading: l, e, s, o, or ? where a crop does not
say. second.csv keeps which nuclei they were and what their first names were.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from draw import brighter
from PIL import Image, ImageDraw
from sklearn.metrics import cohen_kappa_score

from celldetr.data.card import load_card
from celldetr.data.readers.common import read_image, read_lines

HERE = Path(__file__).parent
COUNT, COLUMNS, ROWS, SIDE = 300, 8, 4, 192  # SIDE: px of a crop, about 32 um
LETTERS = {"l": "lymphocyte", "e": "epithelial", "s": "stromal", "o": "other"}


def draw(folder: Path) -> None:
    """Draw nuclei at random, and keep which they were."""
    card = load_card("nuinsseg-typed")
    lines = read_lines(card.beside(card.options["types_file"]))
    train = card.splits["train"]
    rows = [
        row for row in csv.DictReader(line for line in lines if line[:1] != "#") if card.group_of(row["image"]) in train
    ]
    chosen = [rows[i] for i in np.random.default_rng(24).permutation(len(rows))[:COUNT]]
    with (HERE / "second.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "nucleus", "x", "y", "type", "named"])
        writer.writeheader()
        writer.writerows(chosen)
    for sheet in range(-(-COUNT // (COLUMNS * ROWS))):
        picture = Image.new("RGB", (COLUMNS * (SIDE + 4), ROWS * (SIDE + 4)), "white")
        for place, row in enumerate(chosen[sheet * COLUMNS * ROWS :][: COLUMNS * ROWS]):
            image = brighter(read_image(card.directory() / "images" / f"{row['image']}.jpg"))
            padded = np.pad(image, ((SIDE // 2,) * 2, (SIDE // 2,) * 2, (0, 0)), constant_values=255)
            x, y = round(float(row["x"])), round(float(row["y"]))
            crop = Image.fromarray(padded[y : y + SIDE, x : x + SIDE])
            pen = ImageDraw.Draw(crop)
            for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):  # four marks that point at the nucleus
                start, end = SIDE // 2 + 34 * np.array([dx, dy]), SIDE // 2 + 46 * np.array([dx, dy])
                pen.line([tuple(map(float, start)), tuple(map(float, end))], "#00ff00", 2)
            picture.paste(crop, (place % COLUMNS * (SIDE + 4), place // COLUMNS * (SIDE + 4)))
        picture.save(folder / f"second-{sheet}.png")


def compare() -> None:
    """Print agreement, kappa and the table of first against second names."""
    letters = "".join((HERE / "second.txt").read_text().split())
    with (HERE / "second.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if len(letters) != len(rows):
        raise SystemExit(f"second.txt names {len(letters)} nuclei, second.csv has {len(rows)}")
    pairs = [(row["type"], LETTERS[letter]) for row, letter in zip(rows, letters, strict=True) if letter != "?"]
    first, second = zip(*pairs, strict=True)
    print(f"{len(rows)} nuclei, {len(rows) - len(pairs)} unsure in the second pass")
    print(f"agreement {np.mean([a == b for a, b in pairs]):.3f}, kappa {cohen_kappa_score(first, second):.3f}")
    counts, kinds = Counter(pairs), list(LETTERS.values())
    print(f"{'first':12s}" + "".join(f"{kind:>12s}" for kind in kinds) + f"{'agree':>8s}")
    for kind in kinds:
        row = [counts[kind, other] for other in kinds]
        print(
            f"{kind:12s}" + "".join(f"{count:12d}" for count in row) + f"{counts[kind, kind] / max(sum(row), 1):8.2f}"
        )


if __name__ == "__main__":
    draw(Path(sys.argv[1])) if len(sys.argv) > 1 else compare()
