"""Pictures from which nuclei of NuInsSeg are named: tiles with numbered outlines, and a sheet for each cluster.

CELLDETR_DATA=... python benchmarks/nuinsseg_types/draw.py FOLDER [ORGAN ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from nuclei import CLUSTERS, Tile, by_organ, clusters, tiles
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

ZOOM = 2  # of whole tiles
CROP_PX, SHOWN_PX = 96, 112  # a nucleus on a sheet, with its surroundings: before and after enlargement
COLUMNS, ROWS = 12, 6
COLOURS = ("#00ff00", "#00ffff", "#ffff00", "#ff8000", "#ff00ff", "#ffffff", "#0040ff", "#ff0000", "#80ff80", "#000000")


def brighter(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with its 99th percentile white: the camera's pictures are dim."""
    top = np.percentile(image, 99.5, axis=(0, 1))
    return np.clip(image * (250 / top), 0, 255).astype(np.uint8)


def whole(tile: Tile, of: NDArray[np.int64]) -> Image.Image:
    """A tile enlarged, nuclei outlined in the colour of their cluster, with their numbers."""
    large = np.asarray(
        Image.fromarray(brighter(tile.image)).resize([ZOOM * side for side in tile.image.shape[1::-1]], Image.BICUBIC)
    ).copy()
    instances = tile.instances.repeat(ZOOM, 0).repeat(ZOOM, 1)
    rim = find_boundaries(instances, mode="inner")
    colours = np.zeros((int(tile.instances.max(initial=0)) + 1, 3), np.uint8)
    for number, cluster in zip(tile.numbers, of, strict=True):
        colours[number] = [int(COLOURS[cluster][i : i + 2], 16) for i in (1, 3, 5)]
    large[rim] = colours[instances[rim]]
    picture = Image.fromarray(large)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    for number, (x, y) in zip(tile.numbers, tile.centres, strict=True):
        pen.text((x * ZOOM, y * ZOOM), str(number), "#ffff00", font, anchor="mm", stroke_width=1, stroke_fill="black")
    return picture


def crop(tile: Tile, index: int) -> Image.Image:
    """A nucleus with its surroundings, in a thin frame that leaves it visible."""
    half = CROP_PX // 2
    x, y = map(round, map(float, tile.centres[index]))
    padded = np.pad(brighter(tile.image), ((half, half), (half, half), (0, 0)), constant_values=255)
    picture = Image.fromarray(padded[y : y + CROP_PX, x : x + CROP_PX]).resize((SHOWN_PX, SHOWN_PX), Image.BICUBIC)
    scale = SHOWN_PX / CROP_PX
    box = (tile.boxes[index] - [x, y, x, y] + half) * scale + [-3, -3, 3, 3]
    pen = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = np.clip(box, 0, SHOWN_PX - 1)
    for cx, cy, dx, dy in ((x0, y0, 1, 1), (x1, y0, -1, 1), (x0, y1, 1, -1), (x1, y1, -1, -1)):
        pen.line([(cx + 7 * dx, cy), (cx, cy), (cx, cy + 7 * dy)], "#00ff00", 2)
    return picture


def sheet(members: list[tuple[Tile, int]], captions: list[str]) -> Image.Image:
    """Crops in rows, each with a line below it."""
    rows = -(-len(members) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * (SHOWN_PX + 4), rows * (SHOWN_PX + 16)), "white")
    pen = ImageDraw.Draw(picture)
    for place, ((tile, index), caption) in enumerate(zip(members, captions, strict=True)):
        x, y = place % COLUMNS * (SHOWN_PX + 4), place // COLUMNS * (SHOWN_PX + 16)
        picture.paste(crop(tile, index), (x, y))
        pen.text((x + SHOWN_PX / 2, y + SHOWN_PX + 6), caption, "black", ImageFont.load_default(12), anchor="mm")
    return picture


def overview(organ: list[Tile]) -> Image.Image:
    """All tiles of an organ, small."""
    side, columns = 256, 6
    picture = Image.new("RGB", (columns * side, -(-len(organ) // columns) * side), "white")
    pen = ImageDraw.Draw(picture)
    for place, tile in enumerate(organ):
        corner = place % columns * side, place // columns * side
        picture.paste(Image.fromarray(brighter(tile.image)).resize((side - 2, side - 2), Image.BICUBIC), corner)
        pen.text(
            corner,
            f"{tile.name[:3]} ({len(tile.numbers)})",
            "black",
            ImageFont.load_default(18),
            stroke_width=2,
            stroke_fill="white",
        )
    return picture


def main(folder: Path, wanted: list[str]) -> None:
    random = np.random.default_rng(0)
    organs = by_organ(tiles(folder / "embeddings"))
    for organ in wanted or organs:
        of_organ = organs[organ]
        found = clusters(of_organ)
        (folder / organ).mkdir(exist_ok=True)
        overview(of_organ).save(folder / organ / "overview.png")
        for tile, of in zip(of_organ, found, strict=True):
            whole(tile, of).save(folder / organ / f"{tile.name}.png")
        for cluster in range(CLUSTERS):
            members = [
                (tile, int(index))
                for tile, of in zip(of_organ, found, strict=True)
                for index in np.flatnonzero(of == cluster)
            ]
            chosen = [members[i] for i in sorted(random.permutation(len(members))[: COLUMNS * ROWS])]
            captions = [f"{tile.name[:3]}:{tile.numbers[index]}" for tile, index in chosen]
            sheet(chosen, captions).save(folder / organ / f"cluster-{cluster}.png")
            print(organ, cluster, len(members), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
