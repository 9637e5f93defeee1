"""Pictures of labels: every kind of pixel, and pictures that are stored turned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from corpus.scene import (
    HEIGHT,
    NUCLEI,
    WIDTH,
    case,
    coco,
    coco_twin,
    collection,
    features,
    pixels,
    points,
    points_twin,
    qupath_twin,
    save,
    write_json,
    write_table,
)  # fmt: skip

TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # EXIF orientation -> how an upright picture is stored
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(TURNS[orientation](pixels()))
    save(path, stored, exif=exif, quality=97) if path.suffix == ".jpg" else save(path, stored, exif=exif)


def labelled(folder: Path, name: str) -> None:
    write_json(folder / "labels.json", coco(name))


@case("turned", coco_twin)
def coco_jpeg_turned_by_exif_6(folder: Path) -> None:
    turned(folder / "images/a.jpg", 6)
    labelled(folder, "a.jpg")


@case("turned", coco_twin)
def coco_png_turned_by_exif_8(folder: Path) -> None:
    turned(folder / "images/a.png", 8)
    labelled(folder, "a.png")


@case("turned", coco_twin, "either")
def coco_jpeg_turned_by_exif_3(folder: Path) -> None:
    turned(folder / "images/a.jpg", 3)
    labelled(folder, "a.jpg")


@case("turned", points_twin, "either")
def points_jpeg_turned_by_exif_6(folder: Path) -> None:
    turned(folder / "images/a.jpg", 6)
    write_table(folder / "labels/a.csv", points())


@case("turned", qupath_twin, "either")
def geojson_jpeg_turned_by_exif_8(folder: Path) -> None:
    turned(folder / "a.jpg", 8)
    write_json(folder / "a.geojson", collection(features()))


@case("turned", qupath_twin, "either")
def geojson_tiff_turned_by_its_tag(folder: Path) -> None:
    tifffile.imwrite(
        folder / "a.tif", np.rot90(pixels()).copy(), photometric="rgb", extratags=[(274, 3, 1, 6, False)], metadata=None
    )
    write_json(folder / "a.geojson", collection(features()))


@case("turned", points_twin, "either")
def points_tiff_turned_by_its_tag(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(
        folder / "images/a.tif", pixels()[::-1, ::-1].copy(), photometric="rgb", metadata=None,
        extratags=[(274, 3, 1, 3, False)],
    )  # fmt: skip
    write_table(folder / "labels/a.csv", points())


@case("scale", coco_twin, "either")
def coco_of_a_picture_that_was_halved(folder: Path) -> None:
    save(folder / "images/a.png", np.asarray(Image.fromarray(pixels()).resize((WIDTH // 2, HEIGHT // 2))))
    labelled(folder, "a.png")


@case("scale", coco_twin, "refused", "size|px")
def coco_of_a_picture_that_was_doubled(folder: Path) -> None:
    save(folder / "images/a.png", np.asarray(Image.fromarray(pixels()).resize((WIDTH * 2, HEIGHT * 2))))
    labelled(folder, "a.png")


@case("scale", coco_twin, "refused", "px")
def coco_of_a_picture_that_was_cropped(folder: Path) -> None:
    save(folder / "images/a.png", np.pad(pixels(), ((30, 0), (30, 0), (0, 0))))
    labelled(folder, "a.png")


# ---- kinds of pixels; twins are the same picture in RGB


def with_points(folder: Path) -> None:
    write_table(folder / "labels/a.csv", points())


def on_white(folder: Path) -> Path:
    image = pixels()
    save(folder / "images/a.png", np.where(image.mean(2, keepdims=True) < 190, image, 255).astype(np.uint8))
    with_points(folder)
    return folder


@case("pixels", on_white)
def png_with_transparent_glass(folder: Path) -> None:
    alpha = np.where(pixels().mean(2) < 190, 255, 0).astype(np.uint8)
    save(folder / "images/a.png", np.dstack([np.where(alpha[..., None] > 0, pixels(), 0), alpha]))
    with_points(folder)


@case("pixels", on_white)
def palette_with_a_transparent_colour(folder: Path) -> None:
    (folder / "images").mkdir()
    indexed = Image.fromarray((pixels().mean(2) < 160).astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, *map(int, (88, 52, 128))])
    indexed.save(folder / "images/a.png", transparency=0)
    with_points(folder)


def deep(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return image.astype(np.uint16) * 257


@case("pixels", points_twin)
def rgb_tiff_of_16_bits(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images/a.tif", deep(pixels()), photometric="rgb")
    with_points(folder)


@case("pixels", points_twin)
def grey_png_of_16_bits(folder: Path) -> None:
    save(folder / "images/a.png", deep(pixels().mean(2).astype(np.uint8)))
    with_points(folder)


@case("pixels", points_twin)
def grey_tiff_of_16_bits(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images/a.tif", deep(pixels().mean(2).astype(np.uint8)), photometric="minisblack")
    with_points(folder)


@case("pixels", points_twin)
def cmyk_jpeg(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.fromarray(pixels()).convert("CMYK").save(folder / "images/a.jpg", quality=97)
    with_points(folder)


@case("pixels", points_twin, "either")
def cmyk_tiff(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.fromarray(pixels()).convert("CMYK").save(folder / "images/a.tif")
    with_points(folder)


@case("pixels", points_twin)
def tiff_with_white_as_zero(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images/a.tif", 255 - pixels().mean(2).astype(np.uint8), photometric="miniswhite")
    with_points(folder)


@case("pixels", points_twin)
def bitmap(folder: Path) -> None:
    save(folder / "images/a.bmp")
    with_points(folder)


@case("pixels", points_twin, "either")
def tiff_of_floats(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images/a.tif", pixels().astype(np.float32) / 255, photometric="rgb")
    with_points(folder)


@case("pixels", points_twin, "refused", "save it with 8 bits")
def rgb_tiff_of_16_bits_with_values_of_8(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images/a.tif", pixels().astype(np.uint16), photometric="rgb")
    with_points(folder)


@case("pixels", points_twin)
def mask_before_the_picture_in_one_tiff(folder: Path) -> None:
    (folder / "images").mkdir()
    with tifffile.TiffWriter(folder / "images/a.tif") as file:
        file.write((pixels().mean(2) < 150).astype(np.uint8), photometric="minisblack")
        file.write(pixels(), photometric="rgb")
    with_points(folder)


@case("pixels", points_twin)
def transparency_that_is_none(folder: Path) -> None:
    (folder / "images").mkdir()
    samples = np.dstack([pixels(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    tifffile.imwrite(folder / "images/a.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    with_points(folder)


@case("pixels", points_twin, "either")
def luminance_in_tiff(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.fromarray(pixels()).convert("YCbCr").save(folder / "images/a.tif")
    with_points(folder)


def with_codec(folder: Path, codec: str, **options: Any) -> None:
    tiff(folder / "images/a.tif", tile=(64, 64), compression=codec, **options)
    with_points(folder)


@case("codec", points_twin, "read", "", mpp=None)
def tiles_in_jpeg_2000(folder: Path) -> None:
    with_codec(folder, "jpeg2000")


@case("codec", points_twin, "read", "", mpp=None)
def tiles_in_webp(folder: Path) -> None:
    with_codec(folder, "webp", bigtiff=True)


@case("codec", points_twin, "read", "", mpp=None)
def tiles_in_jpeg_xl(folder: Path) -> None:
    with_codec(folder, "jpegxl", byteorder=">")


@case("codec", coco_twin, "read", "", mpp=None)
def svs_in_jpeg_2000_with_a_decimal_comma(folder: Path) -> None:
    about = "Aperio Image Library v11.2.1 \r\n240x160 (64x64) J2K|AppMag = 20|MPP = 0,5000"
    path = folder / "images/a.svs"
    path.parent.mkdir()
    tifffile.imwrite(
        path, pixels(), photometric="rgb", tile=(64, 64), compression="jpeg2000", description=about, metadata=None
    )
    write_json(folder / "labels.json", coco("a.svs"))


@case("scale", qupath_twin, "refused", "0.5|half|mpp", mpp=2.0)
def geojson_with_four_times_the_resolution_of_the_file(folder: Path) -> None:
    tiff(folder / "a.tif")
    write_json(folder / "a.geojson", collection(features()))


@case("scale", coco_twin, "refused", "0.5|mpp", mpp=2.0)
def coco_with_four_times_the_resolution_of_the_file(folder: Path) -> None:
    tiff(folder / "images/a.tif")
    labelled(folder, "a.tif")


@case("scale", coco_twin, "read", mpp=None)
def coco_with_the_resolution_of_its_file(folder: Path) -> None:
    tiff(folder / "images/a.tif")
    labelled(folder, "a.tif")


@case("scale", points_twin, "read", mpp=None)
def points_with_the_resolution_of_their_file(folder: Path) -> None:
    tiff(folder / "images/a.tif")
    with_points(folder)


@case("scale", None, "either", "the file says 0.5", mpp=2.0)
def points_with_four_times_the_resolution_of_the_file(folder: Path) -> None:
    tiff(folder / "images/a.tif")
    with_points(folder)


def tiff(path: Path, mpp: float = 0.5, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels(), photometric="rgb", resolution=(1e4 / mpp,) * 2, resolutionunit=3, **options)


assert len(NUCLEI) > 30
