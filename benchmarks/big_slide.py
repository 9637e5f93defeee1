"""A very large pyramidal TIFF of real tissue, to see whether memory and speed stay flat on it.

    python benchmarks/big_slide.py --side 60000 -o runs/big.tif

A crop of the sample slide, mirrored left and right, up and down, covers the slide: tissue goes on over every seam and
no nucleus is cut. The pattern repeats every 4096 px, a whole number of TIFF tiles on every level, so each distinct tile
is encoded once and its bytes are written as often as needed. The pattern is shifted by an odd distance, so that its
seams are not those of the TIFF's tiles; a model's tiles, which overlap, meet it at another place each time.

BigTIFF, JPEG of quality 85 with halved colour (as scanners write), levels 1, 4, 16 and 64, reduced pages as in an SVS.
Memory does not grow with ``--side``. The number of cells to expect is what ``--model`` finds on the crop, times the
number of crops that the slide holds; ``--model ''`` skips that.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celldetr.demo_slide import sample_slide
from celldetr.io.files import replacing
from celldetr.slide.reader import open_slide

CROP = (96, 320)  # x, y of the corner on the sample slide: tissue of all kinds it has, with some glass
CROP_SIDE = 2048
SHIFT = (1077, 733)  # odd: no seam of the pattern lies on a seam of TIFF tiles, on any level
REDUCTIONS = (1, 4, 16, 64)
QUALITY = 85
MPP = 0.5


def pattern() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The crop (2048, 2048, 3) and the period that repeats (4096, 4096, 3)."""
    with open_slide(sample_slide()) as slide:
        crop = slide.read_region(*CROP, CROP_SIDE, CROP_SIDE, CROP_SIDE, CROP_SIDE)
    wide = np.concatenate([crop, crop[:, ::-1]], axis=1)
    return crop, np.roll(np.concatenate([wide, wide[::-1]]), SHIFT, axis=(0, 1))


def reduced(image: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Means over squares of ``by`` pixels."""
    return np.asarray(Image.fromarray(image).reduce(by))


def encoded(period: NDArray[np.uint8], tile: int) -> list[list[bytes]]:
    """JPEG bytes of the distinct tiles, rows of columns; a period smaller than a tile is repeated to fill one."""
    repeats = max(1, tile // len(period))
    period = np.tile(period, (repeats, repeats, 1))
    starts = range(0, len(period), tile)
    return [
        [
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(period[y : y + tile, x : x + tile]),
                level=QUALITY,
                colorspace="RGB",
                outcolorspace="YCBCR",
                subsampling="420",
            )
            for x in starts
        ]
        for y in starts
    ]


def raw_tiles(distinct: list[list[bytes]], across: int) -> Iterator[bytes]:
    """The bytes of every tile of a level ``across`` x ``across`` tiles large."""
    for row, column in itertools.product(range(across), repeat=2):
        cells = distinct[row % len(distinct)]
        yield cells[column % len(cells)]


def write(path: Path, side: int, tile: int, period: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as tiff:
        for by in REDUCTIONS:
            size = side // by
            tiff.write(
                raw_tiles(encoded(reduced(period, by), tile), -(-size // tile)),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(1e4 / MPP / by, 1e4 / MPP / by),
                resolutionunit="CENTIMETER",
                subfiletype=1 if by > 1 else 0,
                metadata=None,
            )


def expected(crop: NDArray[np.uint8], side: int, model: str) -> float:
    """Cells on the whole slide, were they as dense everywhere as ``model`` finds them on the crop."""
    from celldetr.api import load_model  # PyTorch, which writing does not need

    return len(load_model(model).predict(crop, mpp=MPP)) * (side / CROP_SIDE) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=60000, help="of level 0, px (default 60000)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/big.tif"))
    parser.add_argument("--tile", type=int, default=256, choices=(256, 512), help="side of the TIFF's tiles, px")
    parser.add_argument("--model", default="small-20x", help="that counts the cells of the crop; '' for none")
    options = parser.parse_args()
    if options.side < max(REDUCTIONS):
        parser.error(f"--side {options.side}: too small for {len(REDUCTIONS)} levels; at least {max(REDUCTIONS)}")
    start = time.perf_counter()
    crop, period = pattern()
    write(options.output, options.side, options.tile, period)
    seconds, size = time.perf_counter() - start, options.output.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.output}: {options.side} x {options.side} px, {MPP} um/px, {size / 2**30:.2f} GiB,"
        f" written in {seconds:.1f} s, peak memory {peak:.2f} GiB"
    )
    if options.model:
        print(f"expected: about {expected(crop, options.side, options.model):,.0f} cells ({options.model})")


if __name__ == "__main__":
    main()
