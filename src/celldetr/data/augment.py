"""Augmentation of a labelled image: a random crop, turned, restained, coloured and blurred, with its boxes and points.

A cell is in a crop when its point is, as at inference a cell belongs to the tile with its centre; its box is clipped to
the crop. A crop larger than its source is filled up with the source's background colour: reflected tissue would show
nuclei without labels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from celldetr.config import AugmentConfig
from celldetr.data.sample import Sample
from celldetr.stain import LUMA, STAINS, UNMIX, from_optical_density, optical_density

# Crops are drawn from a range that is wider than the image by this part of the crop at each end, then pushed back
# inside: with plain uniform positions the border of an image is hardly ever seen.
BORDER = 0.25


def augment(
    sample: Sample, config: AugmentConfig, rng: np.random.Generator, around: NDArray[np.floating] | None = None
) -> Sample:
    """Draw a random crop of ``config.crop`` pixels; ``mpp`` of the result is that of the zoomed pixels.

    Args:
        sample: the source, at the resolution the model wants.
        config: strengths and probabilities.
        rng: the only source of randomness.
        around: (x, y) of a cell that has to be in the crop; None: the crop lies anywhere.
    """
    low, high = config.scale
    zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    place, side = rng.uniform(size=2), config.crop / zoom
    corner = corner_at(sample.image.shape, side, place)
    if around is not None:
        corner = around - (0.05 + 0.9 * place) * side  # off the edge: whole pixels may move it by a half
    return finish(crop(sample, config.crop, zoom, corner), config, rng)


def finish(part: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Turn and restyle a crop."""
    if config.orientations:
        part = orient(part, int(rng.integers(8 if config.turns else 4)))
    return replace(part, image=restyle(part.image, config, rng))


def restyle(image: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Augmentations that move no box: stain, colour and blur of an (H, W, 3) uint8 image."""
    image = recolour(image, config, rng)
    if rng.uniform() < config.blur_p and config.blur > 0:
        blur = ImageFilter.GaussianBlur(rng.uniform(config.blur_least, config.blur))
        image = np.asarray(Image.fromarray(image).filter(blur))
    return np.ascontiguousarray(image)


def corner_at(shape: tuple[int, ...], side: float, place: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y) in an image of ``shape`` where a crop of ``side`` px begins; negative where the image is smaller.

    ``place`` (2,) in [0, 1] is where along x and y the crop lies.
    """
    room = np.array([shape[1], shape[0]]) - side
    inside = np.clip(-BORDER * side + place * (room + 2 * BORDER * side), 0, np.maximum(room, 0))
    return np.where(room >= 0, inside, place * room)


def background_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour of the glass: the median of the brightest twentieth of every sixteenth pixel. (3,) uint8."""
    pixels = image[::4, ::4].reshape(-1, 3)
    grey = pixels @ LUMA
    bright = pixels[grey >= np.quantile(grey, 0.95)]
    return np.median(bright, axis=0).astype(np.uint8)


def _window(length: int, size: int, zoom: float, start: float) -> tuple[float, float, int, int]:
    """One axis of ``crop``: start and stop in the source, first pixel and number of pixels in the crop."""
    side = size / zoom
    if side <= length:
        start = min(max(start, 0.0), length - side)
        if zoom == 1:
            start = float(round(start))  # whole pixels need no interpolation
        return start, min(start + side, length), 0, size
    count = min(size, max(1, round(length * zoom)))
    return 0.0, float(length), min(max(round(-start * zoom), 0), size - count), count


def crop(sample: Sample, size: int, zoom: float, corner: NDArray[np.floating]) -> Sample:
    """Cut a square out of a sample and zoom it.

    Args:
        sample: the source.
        size: side of the result, px.
        zoom: px of the result per px of the source.
        corner: (x, y) in the source; the crop is moved into it, or around it where it is smaller.

    Returns:
        The crop with the cells whose point is in it, their boxes clipped to it.
    """
    height, width = sample.image.shape[:2]
    x0, x1, left, columns = _window(width, size, zoom, float(corner[0]))
    y0, y1, top, rows = _window(height, size, zoom, float(corner[1]))
    if (x1 - x0, y1 - y0) == (columns, rows):
        part = sample.image[int(y0) : int(y1), int(x0) : int(x1)]
    else:
        # Bicubic with a box that need not be whole pixels; Pillow widens the filter when shrinking. It is handed no
        # more than the filter reaches: it copies what it is handed, which may be a hundred crops.
        reach = math.ceil(2 * max(1.0, 1 / zoom)) + 1
        across, down = max(0, math.floor(x0) - reach), max(0, math.floor(y0) - reach)
        near = sample.image[down : math.ceil(y1) + reach, across : math.ceil(x1) + reach]
        box = (x0 - across, y0 - down, x1 - across, y1 - down)
        part = np.asarray(Image.fromarray(near).resize((columns, rows), Image.Resampling.BICUBIC, box=box))
    if (columns, rows) != (size, size):
        canvas = np.empty((size, size, 3), dtype=np.uint8)
        canvas[:] = background_colour(sample.image)
        canvas[top : top + rows, left : left + columns] = part
        part = canvas
    scale = np.array([columns / (x1 - x0), rows / (y1 - y0)])
    shift = np.array([left, top]) - scale * [x0, y0]
    return replace(sample.moved(part, scale, shift), mpp=sample.mpp / zoom)


def orient(sample: Sample, which: int) -> Sample:
    """One of the eight orientations: bit 0 mirrors x, bit 1 mirrors y, bit 2 then swaps x and y. Masks are left out."""
    image, boxes, points, outlines = sample.image, sample.boxes, sample.points, sample.outlines
    height, width = image.shape[:2]
    if outlines is not None:
        x, y = outlines[..., 0], outlines[..., 1]
        x, y = width - x if which & 1 else x, height - y if which & 2 else y
        outlines = np.stack([y, x] if which & 4 else [x, y], axis=-1)
    if which & 1:
        image = image[:, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        points = np.stack([width - points[:, 0], points[:, 1]], axis=1)
    if which & 2:
        image = image[::-1]
        boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1)
        points = np.stack([points[:, 0], height - points[:, 1]], axis=1)
    if which & 4:
        image = image.transpose(1, 0, 2)
        boxes, points = boxes[:, [1, 0, 3, 2]], points[:, ::-1]
    points = np.ascontiguousarray(points)
    image = np.ascontiguousarray(image)
    return replace(sample, image=image, boxes=boxes, points=points, outlines=outlines, masks=None)


def _stain_jitter(strength: float, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrix and offset on optical density that scale and shift each stain (Tellez et al., MedIA 2019)."""
    amount = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    offset = rng.uniform(-strength, strength, 3).astype(np.float32) / 4
    matrix = ((UNMIX * amount) @ STAINS).astype(np.float32)
    return matrix, (offset @ STAINS).astype(np.float32)


def _colour_jitter(
    config: AugmentConfig, grey: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrix and offset on pixel values: hue, saturation, contrast (about the mean ``grey``) and brightness."""
    contrast_range = config.colour if config.contrast is None else config.contrast
    hue = config.colour / 10 if config.hue is None else config.hue
    ranges = np.array([config.colour, contrast_range, config.colour])
    brightness, contrast, saturation = rng.uniform(1 - ranges, 1 + ranges)
    angle = 2 * np.pi * rng.uniform(-hue, hue)
    # Hue turns the colours around the grey axis (1, 1, 1) (Rodrigues' formula).
    axis = 1 / np.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    saturate = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA)
    matrix = brightness * contrast * (saturate @ turn).T
    offset = np.full(3, brightness * (1 - contrast) * grey)
    return matrix.astype(np.float32), offset.astype(np.float32)


def recolour(image: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stain and colour jitter of an (H, W, 3) uint8 image, each a matrix on its colours; same shape and type."""
    stained, coloured = rng.uniform(size=2) < (config.stain_p, config.colour_p)
    stained, coloured = stained and config.stain > 0, coloured and any((config.colour, config.contrast, config.hue))
    if not (stained or coloured):
        return image
    pixels = np.ascontiguousarray(image.reshape(-1, 3).T)
    values: NDArray[np.float32]
    if stained:
        matrix, offset = _stain_jitter(config.stain, rng)
        values = from_optical_density(_mix(optical_density(pixels), matrix, offset))
    else:
        values = pixels.astype(np.float32)
    if coloured:
        grey = float(LUMA @ values.mean(axis=1))
        values = _mix(values, *_colour_jitter(config, grey, rng))
    values += np.float32(0.5)
    np.clip(values, 0, 255, out=values)
    return np.ascontiguousarray(values.astype(np.uint8).T).reshape(image.shape)


def _mix(colours: NDArray[np.float32], matrix: NDArray[np.float32], offset: NDArray[np.float32]) -> NDArray[np.float32]:
    """``matrix.T @ colours + offset`` of (3, N) colours: ten times as fast as a product of matrices this thin."""
    mixed = np.empty_like(colours)
    for channel, out in enumerate(mixed):
        np.multiply(colours[0], matrix[0, channel], out=out)
        out += colours[1] * matrix[1, channel]
        out += colours[2] * matrix[2, channel]
        out += offset[channel]
    return mixed
