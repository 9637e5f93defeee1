"""Results that are kept and forgotten."""

from __future__ import annotations

from celldetr.view.lru import Recent


def test_what_was_unused_longest_is_made_again() -> None:
    made: list[str] = []

    def make(key: str) -> bytes:
        made.append(key)
        return bytes(4)

    recent: Recent[bytes] = Recent(10, len)
    for key in "abacab":  # two fit; c drops b, the last b drops c
        recent.get(key, lambda key=key: make(key))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]


def test_one_that_is_too_large_is_kept_alone() -> None:
    recent: Recent[bytes] = Recent(10, len)
    recent.get("small", lambda: bytes(4))
    assert len(recent.get("large", lambda: bytes(99))) == 99
    assert recent.get("large", lambda: b"") == bytes(99)
