"""What the commands check of their arguments before anything is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from celldetr.errors import InputError, UntypedWarning, near, untyped

if TYPE_CHECKING:
    from celldetr.cohort.schedulers import ClusterSettings
    from celldetr.config import Precision


def precision(name: str) -> Precision:
    """The arithmetic that --precision names."""
    known: dict[str, Precision] = {"auto": "auto", "32": "32", "bf16": "bf16"}
    if name not in known:
        raise InputError(f"precision {name!r} is unknown; {near(name, known)}")
    return known[name]


def orientations(count: int) -> int:
    """The number that --orientations gives."""
    if count == 1:
        return count  # the network need not be imported
    from celldetr.model.orientations import orientations as chosen

    return len(chosen(count))


def roi_of(path: Path | None, name: str | None, slides: Sequence[object]) -> Any:
    """The region to look at, read before anything slow is begun; None for all of the slide."""
    if path is None:
        if name is not None:
            raise InputError(f"--roi-name {name!r}: says which annotations of --roi FILE, which is missing")
        return None
    if len(slides) > 1:
        raise InputError(f"--roi {path}: is drawn on one slide, but {len(slides)} are given; run them one by one")
    from celldetr.slide.roi import read_roi

    return read_roi(path, name)


def cluster(text: str | None) -> str | ClusterSettings | None:
    """What --cluster means; None: this process."""
    if text is None:
        return None
    from celldetr.cohort.schedulers import read_cluster

    return read_cluster(text)


def tell_untyped(model: str | None) -> None:
    """Say of a model that was pretrained without types, and of no other, that it types no cell."""
    from celldetr.model.checkpoint import read_card
    from celldetr.model.hub import find_model

    card = read_card(find_model(model))
    if not card.types_trained:
        warnings.simplefilter("ignore", UntypedWarning)  # said here, in one line
        typer.echo(f"note: {untyped(card.name)}", err=True)


@contextmanager
def told(ours: type[Warning]) -> Iterator[None]:
    """Say warnings of ours in one line; Python's own way adds a line of source code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ours)
        show = warnings.showwarning

        def tell(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, ours):
                typer.echo(f"note: {message}", err=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = tell
        yield


def folder(out: Path) -> None:
    """Say before the work that its results need a folder."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; -o must be a folder, in which each slide gets one of its own")


def free(out: Path, overwrite: bool, example: str = "metrics.json") -> None:
    """Say before the work, not after it, that its result has no place."""
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: expected the name of a file in a folder that exists, e.g. {example}")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; choose another name or add --overwrite")


def pairs(types: list[str] | None) -> dict[str, str] | None:
    """--map THEIRS=OURS as a dictionary."""
    if not types:
        return None
    for pair in types:
        if "=" not in pair:
            raise InputError(f"--map {pair!r}: expected theirs=ours, e.g. --map neoplastic=epithelial")
    return dict(pair.split("=", 1) for pair in types)


def seeds(text: str | None) -> tuple[int, ...]:
    """--seeds 0,1 as numbers; none given: none."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text!r}: expected whole numbers with commas between, e.g. --seeds 0,1") from None


def own_data(path: Path | None, mpp: float | None, types: list[str] | None) -> dict[str, Any] | None:
    """What --data, --mpp and --map of ``train`` mean for a recipe; None: it has its own data."""
    if path is None:
        if mpp is not None or types:
            raise InputError("--mpp and --map say something of --data FOLDER_OR_FILE, which is missing")
        return None
    from celldetr.recipes.own_data import own_sources

    return own_sources(path, mpp, pairs(types))
