"""Slides that are damaged or unusual, each beside its twin: the same scene in a file as it should be."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from celldetr.slide.array import find_cells
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import Job
from celldetr.slide.plan import checked_plan
from celldetr.slide.provenance import job_warnings
from celldetr.slide.reader import open_slide
from celldetr.slide.seams import centres
from corpus.scene import Case
from helpers.synthetic import CentroidModel, draw, level, per_cm

Image8 = NDArray[np.uint8]
FINE, FACTOR, TILE = 0.125, 4, 256  # um per pixel of the slides, reduction of their second level, side of its tiles
SLIDES: list[Case] = []


Make = Callable[[Path], Path]


def slide(must: str, says: str = "", mpp: float | None = None, beside: Make | None = None) -> Callable[[Make], Make]:
    """Add a file to the corpus; it must be ``read`` as its twin (``beside``, or the usual one), and ``says`` is said of
    it; or it must be ``refused``, or ``doubted``: read with ``says``. See ``Case``.
    """

    def add(make: Make) -> Make:
        SLIDES.append(Case(make.__name__.replace("_", " "), "slide", make, beside or twin, must, says, mpp))
        return make

    return add


def seen(path: Path, mpp: float | None = None) -> tuple[NDArray[np.float64], list[str]]:
    """(N, 2) places of the discs of a slide, um, and what is said of it."""
    model, options = CentroidModel(), PredictOptions()
    with open_slide(path, mpp) as reader:
        job = Job(reader, model, options, checked_plan(reader, model, options))
        return centres(find_cells(job).boxes) * (reader.mpp_x, reader.mpp_y), job_warnings(job)


def scene() -> Image8:
    return draw(FINE, FINE)[0]


def filled(image: Image8, width: int, height: int) -> Image8:
    full = np.full((height, width, 3), 255, np.uint8)
    full[: image.shape[0], : image.shape[1]] = image[:height, :width]
    return full


def pyramid(path: Path, *levels: Image8, **options: Any) -> Path:
    with tifffile.TiffWriter(path) as file:
        for index, image in enumerate(levels):
            own = {"subfiletype": 1} if index else per_cm(FINE, FINE)
            kind = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "zlib", "metadata": None}
            file.write(image, **(kind | own | options))
    return path


def twin(folder: Path) -> Path:
    return pyramid(folder / "twin.tif", scene(), level(scene(), FACTOR))


# ---- levels


@slide("read")
def levels_filled_up_to_tiles(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), filled(level(scene(), FACTOR), 512, 512))


@slide("read")
def levels_filled_up_along_one_side(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), filled(level(scene(), FACTOR), 512, 320))


@slide("read", beside=lambda folder: pyramid(folder / "twin.tif", scene()[:1024, :1024]))
def levels_filled_up_to_a_whole_but_wrong_reduction(folder: Path) -> Path:
    small = level(scene()[:1024, :1024], 8)  # 128 px, of which tiles of 256 make a reduction of 4
    return pyramid(folder / "a.tif", scene()[:1024, :1024], filled(small, 256, 256))


@slide("doubted", "finer level is read")
def levels_cut_to_whole_tiles(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), level(scene(), FACTOR)[:256, :256])


@slide("read")
def levels_coarse_first(folder: Path) -> Path:
    path = folder / "a.tif"
    with tifffile.TiffWriter(path) as file:
        kind = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None}
        file.write(level(scene(), FACTOR), subfiletype=1, **kind)
        file.write(scene(), **kind, **per_cm(FINE, FINE))
    return path


@slide("doubted", "finer level is read")
def levels_of_another_slide(folder: Path) -> Path:
    other = np.ascontiguousarray(scene()[::-1, ::-1])
    return pyramid(folder / "a.tif", scene(), filled(level(other, FACTOR), 512, 512))


@slide("doubted", "finer level is read")
def levels_mirrored(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), np.ascontiguousarray(level(scene(), FACTOR)[:, ::-1]))


@slide("doubted", "finer level is read")
def levels_shifted(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), np.roll(level(scene(), FACTOR), (20, 20), (0, 1)))


@slide("doubted", "finer level is read")
def levels_never_written(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), np.full_like(level(scene(), FACTOR), 255))


def of_another_tint(folder: Path, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Path:
    coarse = change(level(scene(), FACTOR).astype(np.float64)).clip(0, 255).astype(np.uint8)
    return pyramid(folder / "a.tif", scene(), coarse)


@slide("doubted", "in its colours.*finer level is read")
def levels_darker(folder: Path) -> Path:
    return of_another_tint(folder, lambda pixels: pixels * 0.8)


@slide("doubted", "in its colours.*finer level is read")
def levels_lighter(folder: Path) -> Path:
    return of_another_tint(folder, lambda pixels: 128 + pixels / 2)


@slide("doubted", "in its colours.*finer level is read")
def levels_in_bgr(folder: Path) -> Path:
    return of_another_tint(folder, lambda pixels: pixels[..., ::-1])


@slide("doubted", "in its colours.*finer level is read")
def levels_grey(folder: Path) -> Path:
    return of_another_tint(folder, lambda pixels: np.repeat(pixels.mean(2, keepdims=True), 3, axis=2))


@slide("read")
def levels_sharpened_and_compressed_again(folder: Path) -> Path:
    coarse = Image.fromarray(level(scene(), FACTOR)).filter(ImageFilter.UnsharpMask(1, 80))
    return pyramid(folder / "a.tif", scene(), np.asarray(coarse), compression="jpeg", compressionargs={"level": 70})


# ---- colours


@slide("read", "order of their names")
def channels_in_another_order(folder: Path) -> Path:
    path = folder / "a.ome.tif"
    stored = np.ascontiguousarray(np.moveaxis(scene()[..., ::-1], -1, 0))
    about = {
        "axes": "CYX",
        "Channel": {"Name": ["Blue", "Green", "Red"]},
        **{f"PhysicalSize{axis}": FINE for axis in "XY"},
    }
    tifffile.imwrite(path, stored, photometric="minisblack", metadata=about)
    return path


@slide("refused", "fluorescence.*any_stain")
def fluorescence(folder: Path) -> Path:
    glow = np.zeros_like(scene())
    glow[..., 2] = np.where(scene()[..., 1] < 100, 220, 12)
    return pyramid(folder / "a.tif", glow)


@slide("refused", "16 bits per channel.*12 bits would look black")
def twelve_bits_in_sixteen(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene().astype(np.uint16) * 16)


@slide("read", "16 bits per channel")
def sixteen_bits(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene().astype(np.uint16) * 257)


@slide("doubted", "luminance and chroma")
def luminance_called_rgb(folder: Path) -> Path:
    stored = scene().copy()
    stored[:300] = (243, 241, 244)  # glass
    return pyramid(folder / "a.tif", np.asarray(Image.fromarray(stored).convert("YCbCr")))


@slide("doubted", "no tissue was found")
def negative(folder: Path) -> Path:
    return pyramid(folder / "a.tif", 255 - scene())


@slide("doubted", "the image is grey")
def grey_saved_as_rgb(folder: Path) -> Path:
    return pyramid(folder / "a.tif", np.repeat(scene()[..., 1:2], 3, axis=2))


# ---- resolution


@slide("refused", "mpp=0.125|0.125")
def resolution_per_cm_called_inch(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), resolution=(1e6 / FINE, 1e6 / FINE), resolutionunit="CENTIMETER")


@slide("refused", "pass `mpp`")
def resolution_of_a_screen(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), resolution=(72, 72), resolutionunit="INCH")


@slide("refused", "mpp=0.125")
def nanometres_called_micrometres(folder: Path) -> Path:
    path = folder / "a.ome.tif"
    tifffile.imwrite(
        path, scene(), photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 125.0, "PhysicalSizeY": 125.0}
    )
    return path


@slide("doubted", "objective power of 10x")
def resolution_against_the_objective(folder: Path) -> Path:
    about = f"Aperio Image Library v12.0.1\r\n1x1|MPP = {FINE}|AppMag = 10"
    return pyramid(folder / "a.svs", scene(), description=about, compression="jpeg")


@slide("doubted", "not square")
def pixels_twice_as_wide(folder: Path) -> Path:
    wide = np.ascontiguousarray(scene()[:, ::2])
    return pyramid(folder / "a.tif", wide, resolution=(1e4 / FINE / 2, 1e4 / FINE), resolutionunit="CENTIMETER")


# ---- files


def dicom(path: Path, syntax: str) -> Path:
    """The head of a slide in DICOM: explicit lengths, little endian; pixels follow in the transfer syntax."""

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        value += (b"\0" if kind in (b"UI", b"OB") else b" ") * (len(value) % 2)
        wide = kind == b"OB"
        size = struct.pack("<2xI", len(value)) if wide else struct.pack("<H", len(value))
        return struct.pack("<HH", group, number) + kind + size + value

    slide = b"1.2.840.10008.5.1.4.1.1.77.1.6"
    about = element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", slide) + element(2, 3, b"UI", b"1.2.3")
    about += element(2, 0x10, b"UI", syntax.encode())
    data = element(8, 8, b"CS", b"ORIGINAL\\PRIMARY\\VOLUME\\NONE") + element(8, 0x16, b"UI", slide)
    path.write_bytes(bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(about))) + about + data)
    return path


for name, number in {"RLE": "5", "JPEG-LS": "4.80", "HTJ2K": "4.203", "JPEG XL": "4.110"}.items():

    def make(folder: Path, syntax: str = f"1.2.840.10008.1.2.{number}") -> Path:
        return dicom(folder / "a.dcm", syntax)

    make.__name__ = f"dicom_in_{name.replace(' ', '_')}"
    slide("refused", f"DICOM in {name} .*wsidicom")(make)


@slide("refused", "damaged or incomplete")
def dicom_cut_off(folder: Path) -> Path:
    return dicom(folder / "a.dcm", "1.2.840.10008.1.2.4.50")


for suffix, remedy in {
    ".isyntax": "software of its scanner", ".kfb": "software of its scanner", ".sdpc": "software of its scanner",
    ".tmap": "software of its scanner", ".lif": "bfconvert", ".webp": "PNG", ".czi": "not an image that can be read",
}.items():  # fmt: skip

    def nothing(folder: Path, suffix: str = suffix) -> Path:
        (folder / f"a{suffix}").write_bytes(b"unknown" * 9)
        return folder / f"a{suffix}"

    nothing.__name__ = f"a_file_{suffix[1:]}"
    slide("refused", remedy)(nothing)


@slide("refused", "converted to OME-TIFF")
def olympus_vsi_with_its_label(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene()).rename(folder / "a.vsi")


@slide("doubted", "holds 2 images")
def two_slides_in_a_file(folder: Path) -> Path:
    return pyramid(folder / "a.tif", scene(), scene()[:1200], subfiletype=0)


@slide("refused", "truncated")
def cut_off_in_the_middle(folder: Path) -> Path:
    path = twin(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@slide("refused", "git lfs pull")
def a_pointer_of_git_lfs(folder: Path) -> Path:
    (folder / "a.svs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return folder / "a.svs"


@slide("refused", "is empty")
def an_empty_file(folder: Path) -> Path:
    (folder / "a.svs").touch()
    return folder / "a.svs"


@slide("refused", "no such file")
def a_link_to_nothing(folder: Path) -> Path:
    (folder / "a.svs").symlink_to(folder / "gone.svs")
    return folder / "a.svs"


@slide("read", "stored turned", mpp=FINE)
def a_photo_stored_turned(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(scene()))).save(folder / "a.jpg", quality=97, exif=exif)
    return folder / "a.jpg"
