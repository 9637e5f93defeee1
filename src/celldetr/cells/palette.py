"""One colour per cell type, the same in every picture, page and export.

The eight base colours keep a CIEDE2000 distance of at least 10 from each other and 8 from H&E's own colours, in normal
vision and in simulated deuteranopia, protanopia and tritanopia (Machado et al., IEEE TVCG 2009); the tests recompute
it. Clusters have colours of their own, at least 9 from one another and from those of types: a colour never means both.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Collection, Iterator, Sequence

RGB = tuple[int, int, int]

AZURE: RGB = (0x4D, 0xA6, 0xFF)
AMBER: RGB = (0xFF, 0xA8, 0x00)
GREEN: RGB = (0x00, 0xA5, 0x50)
RED: RGB = (0xE1, 0x2F, 0x0B)
BLACK: RGB = (0x0A, 0x0A, 0x0A)
YELLOW: RGB = (0xF4, 0xF7, 0x50)
MINT: RGB = (0x4F, 0xE0, 0xB5)
BLUE: RGB = (0x1D, 0x3F, 0xE8)

# Order in which types without a colour of their own receive one: best seen on H&E first, black last.
CYCLE: tuple[RGB, ...] = (MINT, AZURE, AMBER, GREEN, YELLOW, RED, BLUE, BLACK)

# Of clusters, the largest first; dark and strong ones come first, because they are seen best on H&E.
CLUSTER_CYCLE: tuple[RGB, ...] = (
    (0x60, 0x00, 0xA0), (0xC0, 0xFF, 0xA0), (0xA0, 0x00, 0x30), (0x30, 0x80, 0x00),
    (0xA0, 0x60, 0xE0), (0xC0, 0xC0, 0x80), (0x00, 0x00, 0x60), (0x60, 0x60, 0x60),
    (0x00, 0x30, 0x00), (0xE0, 0xE0, 0xFF), (0x60, 0x30, 0x60), (0xA0, 0x80, 0x80),
)  # fmt: skip
_CLUSTER = re.compile(r"Cluster (\d{1,5})")  # celldetr.cells.clusters.cluster_name

# A type is known by the first of these stems that begins one of its words, so the more specific come first: "stromal
# TIL" is a lymphocyte, "cancer-associated fibroblast" a fibroblast, "non-neoplastic epithelial" epithelial.
_KNOWN: tuple[tuple[RGB, tuple[str, ...]], ...] = (
    (YELLOW, ("plasma",)),
    (MINT, ("macrophage", "histiocyt")),
    (BLUE, ("neutrophil", "endotheli", "vascular")),
    (AZURE, ("lymph", "til", "stil", "inflam", "immune", "leuko")),
    (BLACK, ("dead", "apopto", "necro")),
    (GREEN, ("fibroblast", "myofibroblast")),
    (AMBER, ("non-neoplastic", "benign", "healthy")),
    (RED, ("neoplas", "tumour", "tumor", "cancer", "malignant", "dysplas", "carcinoma")),
    (AMBER, ("epitheli",)),
    (GREEN, ("strom", "connective", "spindle", "muscle")),
)


def _known(name: str) -> RGB | None:
    """The colour that ``name`` has by convention, if it has one."""
    if cluster := _CLUSTER.fullmatch(name):
        return _cluster_colour(int(cluster[1]))
    words = "-" + name.lower().replace("_", "-").replace(" ", "-")
    return next((colour for colour, stems in _KNOWN for stem in stems if "-" + stem in words), None)


def _cluster_colour(number: int) -> RGB | None:
    """Of the first cycle as it is, of the second lighter, of the third darker; then none of its own."""
    turn, place = divmod(number, len(CLUSTER_CYCLE))
    colour = CLUSTER_CYCLE[place]
    shades = (colour, _mix(colour, (255, 255, 255), 0.35), _mix(colour, (0, 0, 0), 0.35))
    return shades[turn] if turn < len(shades) else None


def _mix(colour: RGB, other: RGB, share: float) -> RGB:
    r, g, b = (round((1 - share) * a + share * c) for a, c in zip(colour, other, strict=True))
    return r, g, b


def _all_colours() -> Iterator[RGB]:
    """The base colours, then their light and dark shades, then hues by the golden ratio for ever."""
    yield from CYCLE
    yield from (_mix(colour, (255, 255, 255), 0.5) for colour in CYCLE)
    yield from (_mix(colour, (0, 0, 0), 0.45) for colour in CYCLE)
    hue = 0.0
    while True:
        hue = (hue + 0.618034) % 1
        r, g, b = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.8, 0.85))
        yield r, g, b


def type_colours(types: Sequence[str]) -> dict[str, RGB]:
    """Name -> (r, g, b), 0 to 255, all different, of distinct names in the order of the model.

    Familiar names (lymphocyte, epithelial, stromal, neoplastic, dead ...) always look the same; the others, and a
    second type that would claim a colour already given, take the next free one by position.
    """
    chosen: dict[str, RGB] = {}
    for name in types:
        colour = _known(name)
        if colour is not None and colour not in chosen.values():
            chosen[name] = colour
    free = _all_colours()
    for name in types:
        if name not in chosen:
            chosen[name] = next(colour for colour in free if colour not in chosen.values())
    return {name: chosen[name] for name in types}


def new_colour(name: str, taken: Collection[RGB]) -> RGB:
    """Colour of a type beside others that have theirs: its own by convention, or the next free one."""
    known = _known(name)
    return known if known and known not in taken else next(one for one in _all_colours() if one not in taken)


def hex_colour(colour: RGB) -> str:
    """(r, g, b) -> ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def parse_colour(text: str) -> RGB:
    """``#rrggbb`` -> (r, g, b)."""
    r, g, b = bytes.fromhex(text.removeprefix("#"))
    return r, g, b
