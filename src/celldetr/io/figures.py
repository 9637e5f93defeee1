"""Matplotlib figures as files. Figures are made without pyplot, so that nothing is shown, kept or shared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from celldetr.errors import InputError
from celldetr.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png", ".svg")


def check_ending(path: Path) -> None:
    """Raise InputError for a figure's file with another ending, before there is anything to draw."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a figure is written as one of {', '.join(FORMATS)}; give such an ending")


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> None:
    """Write a figure as .png (of ``dpi`` pixels an inch), .svg or .pdf, whole or not at all."""
    path = Path(path)
    check_ending(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=dpi)
