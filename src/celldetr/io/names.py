"""Names of files as other systems write them: composed or decomposed letters, upper case, Windows' separators.

macOS decomposes "ä" into two characters, Windows writes ``images\\a.png``, and tools write the folder of the machine
that they ran on. A file is found by its name as written, else by as much of the end of its path as there is below the
folder, letters compared without their case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from celldetr.errors import InputError
from celldetr.io.safe_io import is_file

# Words after the name of an image that say what its labels are.
_ABOUT = re.compile(
    r"(?<=.)[\s._-]+(gt|labels?|points?|annotations?|annotated|cells?|nuclei|nucleus|objects?|detections?|measurements?|"
    r"coords?|coordinates|centroids?|results?|polygons?|inst|instances)$"
)


def folded(name: str) -> str:
    """A name for comparisons: composed, in lower case, with ``/`` between folders."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()


def find_below(folder: Path, name: str, files: Iterable[Path]) -> Path | None:
    """The file of a folder that a path from another system means.

    Args:
        folder: where it is.
        name: as written: with any separators, absolute or not, perhaps with %20 for a blank.
        files: those of the folder that it may be.

    Returns:
        The file of that name, else the one that shares most of the end of the path; None: there is none.

    Raises:
        InputError: it may be any of several.
    """
    plain = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]
    if plain and is_file(exact := folder.joinpath(*plain)):
        return exact
    for text in dict.fromkeys((name, unquote(name))):
        wanted = [part for part in folded(text).split("/") if part not in ("", ".", "..")]
        if not wanted:
            continue
        shared = {}
        for path in files:
            have = folded(path.relative_to(folder).as_posix()).split("/")
            count = _shared_end(wanted, have)
            if count:
                shared[path] = (count, -len(have))
        best = [path for path, count in shared.items() if count == max(shared.values())]
        if len(best) > 1:
            raise InputError(f"{folder}: {name!r} may be {best[0]} or {best[1]}; rename one of them")
        if best:
            return best[0]
    return None


def _shared_end(one: list[str], other: list[str]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def image_of(stem: str, images: Iterable[Path]) -> Path | None:
    """The image that a file of labels called ``stem`` (its name without suffix) belongs to.

    It is called the same, has the image's whole name (``a.png.csv``), or a word about labels after it
    (``a_labels.csv``).

    Raises:
        InputError: it may be any of several.
    """
    known = [(path, folded(path.name), folded(path.stem)) for path in images]
    wanted = folded(stem)
    while True:
        whole = [path for path, name, _ in known if name == wanted]
        found = whole or [path for path, name, own in known if wanted in (own, name.removesuffix(".ome.tif"))]
        found = found or [path for path, name, _ in known if name.startswith(f"{wanted}.ome.")]
        if len(found) > 1:
            raise InputError(
                f"{found[0].parent}: there are {len(found)} images called {stem!r}"
                f" ({', '.join(path.name for path in found)}); move all but one elsewhere"
            )
        shorter = _ABOUT.sub("", wanted)
        if found or shorter == wanted:
            return found[0] if found else None
        wanted = shorter
