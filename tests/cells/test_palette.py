"""The colours are what the palette's docstring says: apart from each other and from H&E, whoever looks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from celldetr.cells.clusters import cluster_name
from celldetr.cells.palette import CLUSTER_CYCLE, CYCLE, RGB, hex_colour, type_colours

# Eosin from pale to strong, haematoxylin, and glass, as scanners show them.
H_AND_E = [(228, 165, 196), (240, 200, 220), (199, 125, 175), (200, 64, 127), (217, 105, 154), (160, 48, 112)]
H_AND_E += [(208, 96, 144), (106, 74, 148), (142, 107, 176), (75, 50, 120), (244, 240, 244)]

# Linear RGB -> what is seen, full dichromacy (Machado, Oliveira and Fernandes, IEEE TVCG 15, 2009, table 1).
VISION = {
    "normal": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def seen(colours: list[RGB] | tuple[RGB, ...], vision: str) -> np.ndarray:
    """(N, 3) CIELAB of colours as someone with that vision sees them."""
    rgb = np.array(colours) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("vision", VISION)
def test_base_colours_are_told_apart(vision: str) -> None:
    lab = seen(CYCLE, vision)
    distance = deltaE_ciede2000(lab[:, None], lab[None])
    assert distance[~np.eye(len(lab), dtype=bool)].min() >= 10


@pytest.mark.parametrize("vision", VISION)
def test_base_colours_stand_out_on_tissue(vision: str) -> None:
    assert deltaE_ciede2000(seen(CYCLE, vision)[:, None], seen(H_AND_E, vision)[None]).min() >= 8


@pytest.mark.parametrize("vision", VISION)
def test_clusters_are_told_from_types_and_from_each_other(vision: str) -> None:
    names = [cluster_name(number) for number in range(len(CLUSTER_CYCLE))]
    clusters = list(type_colours(names).values())
    lab = seen(clusters, vision)
    distance = deltaE_ciede2000(lab[:, None], seen((*clusters, *CYCLE), vision)[None])
    assert distance[~np.eye(*distance.shape, dtype=bool)].min() >= 9


def test_many_clusters_have_colours_of_their_own() -> None:
    colours = type_colours([cluster_name(number) for number in range(100)])
    assert len(set(colours.values())) == 100
    assert not set(list(colours.values())[: 3 * len(CLUSTER_CYCLE)]) & set(CYCLE)


@given(st.lists(st.text(min_size=1), max_size=40, unique=True))
def test_every_type_has_a_colour_of_its_own(types: list[str]) -> None:
    colours = type_colours(types)
    assert list(colours) == types
    assert len(set(colours.values())) == len(types)
    assert colours == type_colours(list(types))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lymphocyte", "stromal TIL"),
        ("Epithelial", "non-neoplastic epithelial"),
        ("tumor_nonMitotic", "Neoplastic"),
        ("connective", "cancer-associated fibroblast"),
        ("dead", "apoptotic body"),
    ],
)
def test_names_of_the_same_thing_look_the_same(one: str, other: str) -> None:
    assert type_colours([one])[one] == type_colours([other])[other]


def test_a_known_colour_does_not_depend_on_company() -> None:
    alone = type_colours(["lymphocyte"])["lymphocyte"]
    assert type_colours(["a", "b", "lymphocyte", "c"])["lymphocyte"] == alone


def test_two_names_of_one_convention_still_differ() -> None:
    colours = type_colours(["inflammatory", "lymphocyte"])
    assert colours["inflammatory"] != colours["lymphocyte"]


def test_hex_form() -> None:
    assert hex_colour((0, 143, 255)) == "#008fff"
