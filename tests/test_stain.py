"""Optical density and unmixing against their formulas and scikit-image."""

from __future__ import annotations

import numpy as np
from skimage.color import rgb2hed

from celldetr.stain import STAINS, UNMIX, from_optical_density, haematoxylin, optical_density


def test_density_is_its_own_inverse_for_every_value() -> None:
    values = np.arange(256, dtype=np.uint8)
    density = optical_density(values)
    assert density[255] == 0
    assert (np.diff(density) < 0).all()
    assert np.array_equal(np.rint(from_optical_density(density)), values)


def test_a_pure_stain_unmixes_to_itself() -> None:
    amounts = np.array([[0.4, 0.0, 0.0], [0.0, 0.7, 0.0], [0.2, 0.3, 0.1]], dtype=np.float32)
    assert np.allclose(amounts @ STAINS @ UNMIX, amounts, atol=1e-6)


def test_haematoxylin_goes_with_that_of_scikit_image() -> None:
    image = np.random.default_rng(0).integers(20, 250, (50, 50, 3), dtype=np.uint8)
    theirs = rgb2hed(image)[..., 0]  # clipped at 0, other logarithm and scale
    ours = haematoxylin(image)
    both = theirs > 0
    assert np.corrcoef(theirs[both], ours[both])[0, 1] > 0.99
