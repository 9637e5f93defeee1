"""Open a slide, whatever file its pixels are in: the reader is chosen by the file's first bytes and by OpenSlide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.ome_zarr import is_store

# What files of slides, and of plain images, are called where a folder is searched; a file that is named may be called
# anything.
SLIDES = {
    ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".qptiff", ".dcm", ".tif", ".tiff",
    ".btf", ".tf2", ".tf8",
}  # fmt: skip
IMAGES = {".png", ".jpg", ".jpeg", ".bmp"}
MOST_PIXELS = 2**28  # of a file that is read as one image
# Files that no library here reads, and what to do with them. Some are TIFF with a picture of the label.
CONVERT = "must be converted to OME-TIFF (bfconvert of Bio-Formats)"
EXPORT = "only the software of its scanner reads: export it as TIFF, OME-TIFF or DICOM"
SAVE = "must be saved as PNG, JPEG or TIFF"
UNREADABLE = {
    ".vsi": CONVERT, ".ets": CONVERT, ".oir": CONVERT, ".oib": CONVERT, ".zvi": CONVERT, ".lif": CONVERT,
    ".xlef": CONVERT, ".lof": CONVERT, ".nd2": CONVERT, ".ims": CONVERT, ".afi": CONVERT,
    ".isyntax": EXPORT, ".i2syntax": EXPORT, ".kfb": EXPORT, ".kfbf": EXPORT, ".tmap": EXPORT, ".sdpc": EXPORT,
    ".dyqx": EXPORT, ".mds": EXPORT, ".mdsx": EXPORT,
    ".dzi": SAVE, ".szi": SAVE, ".jp2": SAVE, ".j2k": SAVE, ".jpx": SAVE, ".jxl": SAVE, ".webp": SAVE, ".gif": SAVE,
    ".heic": SAVE,
}  # fmt: skip


def open_slide(path: Path | str, mpp: float | None = None) -> SlideReader:
    """Open a slide or an image.

    Args:
        path: what OpenSlide reads (SVS, NDPI, MRXS, SCN, VMS, BIF, Philips TIFF, DICOM, ...), a plain, tiled,
            pyramidal, ImageJ or OME TIFF, the folder of an OME-Zarr, a PNG or a JPEG.
        mpp: micrometres per pixel of level 0; overrides the metadata. Needed where there are none, as in PNG and JPEG.

    Raises:
        InputError: no such file, a directory, not an image, damaged, not a colour image, or of unknown resolution.
    """
    path = Path(path)
    if is_store(path):
        from celldetr.slide.ome_zarr_reader import open_ome_zarr

        return open_ome_zarr(path, mpp)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; expected a slide file, or a folder that is an OME-Zarr") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if remedy := UNREADABLE.get(path.suffix.lower()):
        raise InputError(f"{path}: a file {path.suffix.lower()}, which {remedy}")
    if head == b"version https://":
        raise InputError(f"{path}: a pointer of Git LFS, not the file itself; fetch that with: git lfs pull")
    if not head:
        raise InputError(f"{path}: the file is empty; expected a slide or an image")

    # Libraries are imported when their format is met: a PNG should not wait for OpenSlide, nor a table for either.
    # The .mrxs file of a MIRAX slide is a JPEG: its preview.
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")) and path.suffix.lower() != ".mrxs":
        from celldetr.slide.image_reader import open_image

        return open_image(path, mpp)
    from celldetr.slide.openslide_reader import detect_vendor, open_openslide

    if detect_vendor(path) is not None:
        return open_openslide(path, mpp)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        from celldetr.slide.tiff_reader import open_tiff

        return open_tiff(path, mpp)
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: a ZIP archive; unpack it, and give the slide or the OME-Zarr folder that is in it")
    raise InputError(
        f"{path}: not an image that can be read; expected a slide that OpenSlide knows, TIFF, OME-TIFF, OME-Zarr "
        "(a folder), PNG or JPEG"
    )


Picture = NDArray[Any] | Image.Image | Path | str


def as_slide(image: Picture, mpp: float | None = None) -> SlideReader:
    """A slide from whatever holds one image.

    Args:
        image: (H, W, 3) RGB, uint8 or floats in [0, 1]; a Pillow image of any mode; or the path of what ``open_slide``
            reads, of at most ``MOST_PIXELS``.
        mpp: micrometres per pixel; only a file may know its own.

    Raises:
        InputError: none of these, or no mpp.
    """
    if isinstance(image, str | Path):
        slide = open_slide(image, mpp)
        if slide.width * slide.height <= MOST_PIXELS:
            return slide
        slide.close()
        raise InputError(
            f"{image}: {slide.width:,} x {slide.height:,} px are a slide, not an image; predict_slide reads it in parts"
        )
    from celldetr.slide.image_reader import ArrayReader, to_rgb
    from celldetr.slide.resolution import resolve

    if isinstance(image, Image.Image):
        pixels, notes = to_rgb(image)
        return ArrayReader(pixels, resolve("image", mpp, ()), "image", warnings=notes)
    return from_array(image, mpp, "image")


def from_array(array: NDArray[Any], mpp: float | None, name: str = "array") -> SlideReader:
    """A slide from pixels in memory.

    Args:
        array: (H, W, 3) RGB, uint8, which is not copied, or floats in [0, 1].
        mpp: micrometres per pixel; None is refused.
        name: of the slide.

    Raises:
        InputError: another shape or type (the message says how to convert), or an mpp out of range.
    """
    from celldetr.slide.image_reader import ArrayReader, check_rgb, from_unit
    from celldetr.slide.resolution import resolve

    return ArrayReader(check_rgb(from_unit(array)), resolve(name, mpp, ()), name)
