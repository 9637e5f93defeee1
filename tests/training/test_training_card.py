"""Where a checkpoint's data are from: each set once, whatever number of legs a training had."""

from celldetr.training.card import joined


def test_a_set_of_two_legs_is_listed_once_with_the_images_of_both() -> None:
    first = {"name": "breast", "split": "train", "licence": "CC0-1.0", "images": ["b", "c"], "patients": ["p"]}
    again = {"name": "breast", "split": "train", "licence": "CC0-1.0", "images": ["a", "b"], "patients": ["q"]}
    other = {"name": "breast", "split": "spare", "licence": "CC0-1.0"}
    assert joined([first, other, again]) == (first | {"images": ["a", "b", "c"], "patients": ["p", "q"]}, other)
    assert first["images"] == ["b", "c"], "what was given stays as it was"
