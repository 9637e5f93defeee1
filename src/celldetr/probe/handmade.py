"""Hand-made features: the nucleus segmented in its box, and its size, shape, colour and texture measured.

The mask is Otsu's threshold of the haematoxylin channel in the box, of which the part under the centre is taken with
its holes filled; where that is hardly anything, the ellipse that fills the box. Texture is Haralick's (1973).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import threshold_otsu
from skimage.measure import regionprops

from celldetr.data.sample import Sample
from celldetr.stain import UNMIX, optical_density

LEVELS = 16  # grey levels of the co-occurrence matrix, over stain from 0 to STAIN_TOP
STAIN_TOP = 2.5
DISTANCES = (1, 3)  # px
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
RING_PX = 4  # width of what is measured around the nucleus
LEAST_SHARE = 0.1  # of the box; a smaller mask is not one of the nucleus
TEXTURE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
SHAPE = ("area", "perimeter", "eccentricity", "solidity", "extent", "axis_major_length", "axis_minor_length")
_COLOUR = ("red", "green", "blue", "haematoxylin", "eosin", "residual")

FEATURES: tuple[str, ...] = (
    "box_width",
    "box_height",
    *SHAPE,
    "circularity",
    *(f"mean_{name}" for name in _COLOUR),
    *(f"sd_{name}" for name in _COLOUR),
    "haematoxylin_10",
    "haematoxylin_90",
    *(f"ring_mean_{name}" for name in _COLOUR),
    *(f"{name}_{distance}" for name in TEXTURE for distance in DISTANCES),
)


def handmade_features(sample: Sample) -> NDArray[np.float32]:
    """Measure the nuclei of a labelled image: (N, len(FEATURES)); lengths are in micrometres."""
    density = optical_density(sample.image)
    channels = np.concatenate([density, density @ UNMIX], axis=2)  # (H, W, 6) as in _COLOUR
    rows = [_nucleus(channels, box, sample.mpp) for box in sample.boxes]
    return np.array(rows, np.float32).reshape(len(rows), len(FEATURES))


def nucleus_mask(stain: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which pixels of a box are nucleus.

    Args:
        stain: (h, w) haematoxylin in the box.

    Returns:
        (h, w), never empty.
    """
    height, width = stain.shape
    y, x = np.ogrid[:height, :width]
    ellipse = ((y + 0.5) / height * 2 - 1) ** 2 + ((x + 0.5) / width * 2 - 1) ** 2 <= 1
    ellipse[height // 2, width // 2] = True
    if stain.max() > stain.min():
        labels, _ = ndimage.label(stain > threshold_otsu(stain))  # type: ignore[no-untyped-call]
        core = labels[height // 3 : height - height // 3, width // 3 : width - width // 3]
        sizes = np.bincount(core.ravel())
        sizes[0] = 0
        if sizes.any():
            mask: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == sizes.argmax())
            if mask.sum() >= LEAST_SHARE * mask.size:
                return mask
    return ellipse


def _nucleus(channels: NDArray[np.float32], box: NDArray[np.float32], mpp: float) -> list[float]:
    height, width = channels.shape[:2]
    x0, y0 = (int(np.clip(np.floor(v), 0, size - 1)) for v, size in zip(box[:2], (width, height), strict=True))
    x1, y1 = (int(np.clip(np.ceil(v), a + 1, s)) for v, a, s in zip(box[2:], (x0, y0), (width, height), strict=True))
    mask = nucleus_mask(channels[y0:y1, x0:x1, 3])
    inside = channels[y0:y1, x0:x1][mask]  # (M, 6)
    shape = regionprops(mask.astype(np.uint8))[0]  # type: ignore[no-untyped-call]
    lengths = {"area": mpp**2, "perimeter": mpp, "axis_major_length": mpp, "axis_minor_length": mpp}
    measured = [float(shape[name]) * lengths.get(name, 1.0) for name in SHAPE]
    circularity = 4 * np.pi * measured[0] / max(measured[1], mpp) ** 2
    return [
        *((box[2:] - box[:2]) * mpp),
        *measured,
        circularity,
        *inside.mean(0),
        *inside.std(0),
        *np.percentile(inside[:, 3], [10, 90]),
        *_ring(channels, mask, x0, y0),
        *_texture(channels[y0:y1, x0:x1, 3], mask),
    ]


def _ring(channels: NDArray[np.float32], mask: NDArray[np.bool_], x0: int, y0: int) -> NDArray[np.float32]:
    """(6,) means around the mask, which begins at (x0, y0) of the image."""
    height, width = channels.shape[:2]
    before = min(y0, RING_PX), min(x0, RING_PX)
    after = min(height - y0 - mask.shape[0], RING_PX), min(width - x0 - mask.shape[1], RING_PX)
    wide = np.pad(mask, ((before[0], after[0]), (before[1], after[1])))
    ring = ndimage.binary_dilation(wide, iterations=RING_PX) & ~wide
    part = channels[y0 - before[0] :, x0 - before[1] :][: wide.shape[0], : wide.shape[1]]
    return (part[ring] if ring.any() else part[wide]).mean(0)


def _texture(stain: NDArray[np.float32], mask: NDArray[np.bool_]) -> list[float]:
    """Co-occurrence features of the masked pixels, means over four directions."""
    # Level 0 is what is outside; its row and column are dropped, so that pairs are within the nucleus.
    levels = np.clip(stain / STAIN_TOP * LEVELS, 0, LEVELS - 1).astype(np.uint8) + 1
    counts = graycomatrix(np.where(mask, levels, 0), DISTANCES, ANGLES, LEVELS + 1, symmetric=True)  # type: ignore[no-untyped-call]
    pairs = counts[1:, 1:].astype(np.float64)
    pairs[0, 0, pairs.sum(axis=(0, 1)) == 0] = 1.0  # a nucleus of a pixel or two has no pair at that distance: flat
    shares = pairs / pairs.sum(axis=(0, 1))
    return [float(v) for name in TEXTURE for v in np.nan_to_num(graycoprops(shares, name)).mean(1)]  # type: ignore[no-untyped-call]
