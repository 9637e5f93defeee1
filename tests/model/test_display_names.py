"""Titles of models side by side."""

from __future__ import annotations

import pytest

from celldetr.errors import InputError
from celldetr.model.display_names import short_titles


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        ([], []),
        (["small-20x"], ["small-20x"]),
        (["/runs/breast/model"], ["breast"]),
        (["model"], ["model"]),
        (["runs/a", "runs/b/model"], ["a", "b"]),
        (["runs/neither/seed0", "runs/both/seed0"], ["neither", "both"]),
        (["small-20x", "runs/neither/seed0", "runs/both/seed0"], ["small-20x", "neither/seed0", "both/seed0"]),
        (["x/a/1", "y/a/1", "y/b/1"], ["x/a", "y/a", "y/b"]),
        (["a/1", "b/a/1"], ["a", "b/a"]),
    ],
)
def test_titles_are_short_and_apart(names: list[str], titles: list[str]) -> None:
    assert short_titles(names) == titles


def test_the_same_model_twice_is_refused() -> None:
    with pytest.raises(InputError, match="named twice"):
        short_titles(["runs/a", "runs/a/model"])
