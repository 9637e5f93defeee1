"""The traps of published evaluation: empty images above all, each protocol's answer worked by hand."""

from __future__ import annotations

import pytest

from celldetr.errors import InputError
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts, confusion, count_image
from celldetr.evaluation.protocols import PROTOCOLS, Protocol, find_protocol, pair_image
from helpers.scenes import image

NOTHING = image()
ONLY_PREDICTED = image([(100, 100), (200, 100)], [], pred_types=[1, 1])
ONLY_TRUE = image([], [(100, 100), (200, 100)], true_types=[1, 1])


def total(protocol: str) -> Totals:
    one, two, three = (count_image(c, PROTOCOLS[protocol], 2)[0] for c in (NOTHING, ONLY_PREDICTED, ONLY_TRUE))
    return one + two + three


@pytest.mark.parametrize("protocol", ["standard", "within-radius", "points-compat"])
def test_empty_images_add_nothing_by_default(protocol: str) -> None:
    totals = total(protocol)
    assert totals.detection == DetectionCounts(tp=0, fp=2, fn=2)
    assert totals.types == (TypeCounts(), TypeCounts(fp_detection=2, fn_detection=2))


def test_cellvit_counts_an_empty_image_as_a_background_cell() -> None:
    totals = total("cellvit-compat")
    # Nothing on nothing is a hit; each half-empty image adds one error to the two it has.
    assert totals.detection == DetectionCounts(tp=1, fp=3, fn=3)
    assert totals.types == (TypeCounts(), TypeCounts(fp_detection=2, fn_detection=2))


def test_celldetr_counts_an_empty_image_as_a_cell_of_the_first_type() -> None:
    totals = total("celldetr-compat")
    assert totals.detection == DetectionCounts(tp=1, fp=3, fn=3)
    assert totals.types[0] == TypeCounts(tp=1, fp_detection=1, fn_detection=1)
    assert totals.types[1] == TypeCounts(fp_detection=2, fn_detection=2)


def test_a_split_without_any_cell() -> None:
    f1 = {name: count_image(NOTHING, protocol, 2)[0] for name, protocol in PROTOCOLS.items()}
    assert {name: t.detection.f1 for name, t in f1.items()} == {
        "standard": None,
        "within-radius": None,
        "points-compat": None,
        "cellvit-compat": 1.0,
        "celldetr-compat": 1.0,
    }
    assert [t.types[0].f1 for name, t in f1.items() if name != "celldetr-compat"] == [None] * 4
    assert f1["celldetr-compat"].types[0].f1 == 1.0


def test_a_prediction_in_the_corner_of_an_empty_image_pairs_with_the_point_put_there() -> None:
    corner = image([(7, 7)], [], pred_types=[1])
    assert count_image(corner, PROTOCOLS["standard"], 2)[0].detection == DetectionCounts(fp=1)
    for name, first in (("cellvit-compat", TypeCounts()), ("celldetr-compat", TypeCounts(fn=1))):
        totals, _ = count_image(corner, PROTOCOLS[name], 2)
        assert totals.detection == DetectionCounts(tp=1)
        assert totals.types == (first, TypeCounts(fp=1))  # a pair of two types: weight 2


def test_class_by_class_nothing_is_put_into_empty_images() -> None:
    expected = (DetectionCounts(), DetectionCounts(fp=2, fn=2))
    assert {total(name).classwise for name in PROTOCOLS} == {expected}


def test_background_points_stand_outside_the_types_in_the_confusion_matrix() -> None:
    matrices = {name: confusion(pair_image(NOTHING, PROTOCOLS[name]), 2).tolist() for name in PROTOCOLS}
    assert matrices["standard"] == [[0, 0, 0]] * 4
    assert matrices["cellvit-compat"] == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert matrices["celldetr-compat"] == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_images_with_cells_on_both_sides_are_left_alone(name: str) -> None:
    pairs = pair_image(image([(50, 50)], [(51, 50)]), PROTOCOLS[name])
    assert pairs.added == (0, 0)
    assert len(pairs.pred_types) == len(pairs.true_types) == len(pairs.pred_idx) == 1


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize(("mpp", "pixels"), [(0.25, 12.0), (1.0, 3.0)])
def test_the_radius_is_three_micrometres_and_includes_its_end(name: str, mpp: float, pixels: float) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.radius_px(mpp) == pixels
    at = image([(50 + pixels, 50)], [(50, 50)], mpp=mpp)
    beyond = image([(50 + pixels + 1e-6, 50)], [(50, 50)], mpp=mpp)
    assert count_image(at, protocol, 1)[0].detection == DetectionCounts(tp=1)
    assert count_image(beyond, protocol, 1)[0].detection == DetectionCounts(fp=1, fn=1)
    assert count_image(at, protocol, 1)[0].classwise == (DetectionCounts(tp=1),)
    assert count_image(beyond, protocol, 1)[0].classwise == (DetectionCounts(fp=1, fn=1),)


def test_protocols_are_found_by_name_or_made() -> None:
    assert find_protocol("standard").pairing == "assign_then_drop"
    own = Protocol("mine", pairing="within_radius", empty="nothing", radius_um=5.0)
    assert find_protocol(own) is own
    assert own.radius_px(0.5) == 10
    with pytest.raises(InputError, match="unknown evaluation protocol 'standart'; did you mean 'standard'"):
        find_protocol("standart")
