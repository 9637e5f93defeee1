"""What counts as a resolution, which source wins, and what the user is told."""

from __future__ import annotations

import pytest

from celldetr.errors import InputError
from celldetr.slide.resolution import Resolution, candidates_of, check_mpp, likely, micrometres, resolve


def square(mpp: float, source: str) -> Resolution:
    return Resolution(mpp, mpp, source)


@pytest.mark.parametrize("mpp", [0.05, 0.092, 0.2738, 0.5, 10])
def test_any_microscope_is_accepted(mpp: float) -> None:
    assert check_mpp(mpp, "slide") == mpp


@pytest.mark.parametrize("mpp", [0, 0.049, 10.1, float("nan")])
def test_impossible_mpp_is_refused_by_name_and_value(mpp: float) -> None:
    with pytest.raises(InputError, match=rf"mpp={mpp:g}.*0.05 and 10"):
        check_mpp(mpp, "slide")


def test_a_magnification_is_recognised() -> None:
    with pytest.raises(InputError, match=r"40x.*0\.25"):
        check_mpp(40, "slide")


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.25, "µm", 0.25),
        (0.25, "\\u00B5m", 0.25),
        (250, "nm", 0.25),
        (0.00025, "mm", 0.25),
        (1, "inch", 25400),
    ],
)
def test_units(value: float, unit: str, expected: float) -> None:
    assert micrometres(value, unit) == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["pixel", "reference frame", ""])
def test_what_is_no_length_gives_no_resolution(unit: str) -> None:
    assert micrometres(1, unit) is None


def test_first_plausible_candidate_wins() -> None:
    found = resolve("s", None, [square(352.8, "tags"), square(0.0, "zero"), square(0.25, "aperio.MPP")])
    assert (found.mpp, found.source, found.warnings) == (0.25, "aperio.MPP", ())


@pytest.mark.parametrize(("given", "warned"), [(0.5, False), (0.45, False), (0.25, True)])
def test_given_overrides_and_a_disagreement_is_noted(given: float, warned: bool) -> None:
    found = resolve("s", given, [square(0.499, "openslide.mpp-x/y")])
    assert (found.mpp, found.source) == (given, "given")
    assert bool(found.warnings) is warned
    if warned:
        assert "0.499 (openslide.mpp-x/y)" in found.warnings[0]


def test_objective_power_suggests_but_never_decides() -> None:
    with pytest.raises(InputError, match=r"20x.*`mpp=0.5"):
        resolve("s", None, [], power=20)


def test_impossible_metadata_is_quoted() -> None:
    with pytest.raises(InputError, match=r"352.8 \(tags\)"):
        resolve("s", None, [square(352.8, "tags")])


@pytest.mark.parametrize(("power", "warned"), [(20, False), (40, True), (None, False), (0, False)])
def test_mpp_that_contradicts_the_objective_is_doubted(power: float | None, warned: bool) -> None:
    assert bool(resolve("s", None, [square(0.5, "x")], power).warnings) is warned


def test_pixels_that_are_not_square_keep_both_sides() -> None:
    assert candidates_of(None, 0.5, "x") == [square(0.5, "x")]
    assert candidates_of(None, None, "x") == []
    assert resolve("s", None, candidates_of(0.5, 0.51, "x")).warnings == ()
    used = resolve("s", None, candidates_of(0.5, 0.6, "x"))
    assert (used.mpp_x, used.mpp_y, used.mpp) == (0.5, 0.6, pytest.approx(0.3**0.5))
    assert "0.5 x 0.6 um" in used.warnings[0]
    given = resolve("s", 0.25, candidates_of(0.5, 0.6, "x"))
    assert (given.mpp_x, given.mpp_y, given.mpp) == (0.25, 0.25, 0.25)
    assert "0.5 x 0.6 (x)" in given.warnings[0]


def test_a_resolution_with_one_impossible_side_is_not_believed() -> None:
    with pytest.raises(InputError, match=r"0.5 x 10000 \(x\)"):
        resolve("s", None, candidates_of(0.5, 10000, "x"))


@pytest.mark.parametrize(
    ("stated", "meant"),
    [(0.00499, 0.499), (49.9, 0.499), (0.0002502, 0.2502), (25400 / 72, None), (25400 / 96, None), (0.0, None)],
)
def test_a_mistaken_unit_is_named_with_the_likely_value(stated: float, meant: float | None) -> None:
    assert likely(stated) == (None if meant is None else pytest.approx(meant))
    if meant is not None:
        with pytest.raises(InputError, match=f"pass `mpp={meant:g}`"):
            resolve("x.tif", None, [Resolution(stated, stated, "TIFF resolution tags")])
