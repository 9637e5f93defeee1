"""Named ways to score, as data: which pairs count, and what an image without cells is worth.

The formulas are the same for all (``metrics``); what differs between published numbers is here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from celldetr.assignment import Index
from celldetr.errors import InputError, near
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.pairing import Pairing, pair_cells

BACKGROUND = -2  # type of the point a protocol puts into an empty image when it belongs to none of the K types

EmptyImages = Literal["nothing", "background_point", "first_type_point"]


@dataclass(frozen=True)
class Protocol:
    """One way to score.

    Attributes:
        name: as the command line and reports give it.
        pairing: rule of ``pairing.pair_cells``.
        empty: what an image without true cells, and one without predictions, gets in their place. ``nothing``, or one
            point at (0, 0) whose type is no type (``background_point``) or the first one (``first_type_point``). Two
            such points pair: an image without cells, on which nothing was found, then counts as one cell found.
        radius_um: largest distance of a pair, micrometres.
        type_gate: least probability of a prediction's best type; predictions below it do not count.
        whole_pixels: whether true centres are truncated to whole pixels.
        published_threshold: the fixed objectness threshold of the code that defines the protocol, for information:
            thresholds are chosen on validation images.
        meaning: one line for reports.
    """

    name: str
    pairing: Pairing
    empty: EmptyImages
    radius_um: float = 3.0
    type_gate: float = 0.0
    whole_pixels: bool = False
    published_threshold: float | None = None
    meaning: str = ""

    def radius_px(self, mpp: float) -> float:
        """The radius in pixels of an image of ``mpp`` micrometres per pixel."""
        return self.radius_um / mpp

    def prepare(self, cells: ImageCells) -> ImageCells:
        """The predictions that count, and the true centres as the protocol takes them."""
        if self.type_gate:
            cells = cells.keep(cells.pred_type_scores >= self.type_gate)
        return replace(cells, true_xy=np.trunc(cells.true_xy)) if self.whole_pixels else cells


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "standard",
            pairing="assign_then_drop",
            empty="nothing",
            meaning="Hungarian on all centre distances, pairs beyond 3 um dropped; empty images add nothing",
        ),
        Protocol(
            "within-radius",
            pairing="within_radius",
            empty="nothing",
            meaning="Hungarian among pairs within 3 um only: the most pairs there can be; empty images add none",
        ),
        Protocol(
            "cellvit-compat",
            pairing="assign_then_drop",
            empty="background_point",
            meaning="as standard, but an empty side of an image becomes one background point at (0, 0)",
        ),
        Protocol(
            "celldetr-compat",
            pairing="assign_then_drop",
            empty="first_type_point",
            type_gate=0.4,
            whole_pixels=True,
            published_threshold=0.4,
            meaning="as standard, but an empty side of an image becomes one cell of the first type at (0, 0), "
            "predictions whose best type is below .4 do not count, and true centres are truncated to whole pixels",
        ),
        Protocol(
            "points-compat",
            pairing="greedy",
            empty="nothing",
            meaning="by falling score, each prediction takes the nearest free cell within 3 um; empty images add none",
        ),
    )
}


def find_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; a ``Protocol`` is returned as it is.

    Raises:
        InputError: no such name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown evaluation protocol {protocol!r}; {near(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]


@dataclass(frozen=True)
class PairedTypes:
    """Types of all points of one image, and which of them are pairs; real cells first, a protocol's own point last.

    Attributes:
        pred_types: (M') int64, a type or ``BACKGROUND``.
        true_types: (N') int64, a type, ``UNKNOWN`` or ``BACKGROUND``.
        pred_idx, true_idx: (P,) positions of the pairs.
        added: how many of the predicted and of the true points the protocol put there.
    """

    pred_types: NDArray[np.int64]
    true_types: NDArray[np.int64]
    pred_idx: Index
    true_idx: Index
    added: tuple[int, int] = (0, 0)


def pair_image(cells: ImageCells, protocol: Protocol) -> PairedTypes:
    """Pair the cells of one image, as ``Protocol.prepare`` leaves them."""
    pred_xy, true_xy, scores = cells.pred_xy, cells.true_xy, cells.pred_scores
    pred_types, true_types = cells.pred_types, cells.true_types
    added = (0, 0)
    if protocol.empty != "nothing":
        stand_in = np.array([BACKGROUND if protocol.empty == "background_point" else 0], np.int64)
        added = (int(not len(pred_xy)), int(not len(true_xy)))
        if added[0]:
            pred_xy, pred_types, scores = np.zeros((1, 2)), stand_in, np.ones(1)
        if added[1]:
            true_xy, true_types = np.zeros((1, 2)), stand_in
    radius = protocol.radius_px(cells.mpp)
    pred_idx, true_idx = pair_cells(pred_xy, true_xy, radius, rule=protocol.pairing, scores=scores)
    return PairedTypes(pred_types, true_types, pred_idx, true_idx, added)
