"""The file of types from names.txt, which says what was seen on the pictures of draw.py.

    CELLDETR_DATA=... python benchmarks/nuinsseg_types/assemble.py FOLDER

FOLDER is that of draw.py; its embeddings give the clusters. Lines of names.txt:

    TILE region TYPE all but N N ...        all nuclei of a tile, or with ``in A-B`` of a range of numbers, but some
    TILE single TYPE N N ...                nuclei named one by one
    cluster ORGAN K TYPE A-B                a cluster of an organ, in the tiles A to B
    TILE out N N ...                        nuclei that are named no longer, whatever else is said

A name of a single nucleus wins over others. Nuclei with two names, and what the border of a tile has left less of than
half the tile's median area, are left out.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from nuclei import Tile, by_organ, clusters, tiles

from celldetr.data.card import CARDS
from celldetr.io.files import replacing

NAMES = Path(__file__).parent / "names.txt"
TARGET = CARDS / "nuinsseg-types.csv"
HEADER = """\
# Types of nuclei of NuInsSeg (Mahbod et al., Scientific Data 11:295, 2024; zenodo.org/records/10518968). CC BY 4.0.
# Named from pictures, not by a pathologist: docs/reference/nuinsseg-types.md. x, y: centre of the nucleus's box, px.
image,nucleus,x,y,type,named
"""
HOW = ("single", "region", "cluster")  # the first wins

Said = dict[str, dict[int, set[str]]]  # how -> nucleus -> types


def _numbers(words: list[str]) -> set[int]:
    """{1, 2, 3, 7} from 1-3 7."""
    found: set[int] = set()
    for word in words:
        first, _, last = word.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def read_names(
    tile_numbers: dict[str, set[int]], cluster_of: dict[tuple[str, int], dict[str, set[int]]]
) -> dict[str, Said]:
    """Tile -> what is said of its nuclei.

    Args:
        tile_numbers: tile (three digits) -> its nuclei.
        cluster_of: organ and cluster -> tile -> nuclei.
    """
    said: dict[str, Said] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    out: dict[str, set[int]] = defaultdict(set)
    for line in NAMES.read_text().splitlines():
        first, *words = line.partition("#")[0].split() or [""]
        if first == "cluster":
            organ, cluster, kind, where = words
            for tile, numbers in cluster_of[organ, int(cluster)].items():
                if int(tile) in _numbers([where]):
                    for number in numbers:
                        said[tile]["cluster"][number].add(kind)
        elif first and words[0] == "out":
            out[first] |= _numbers(words[1:])
        elif first:
            how, kind, *rest = words
            numbers = set(tile_numbers[first])
            if how == "region":
                at = rest.index("but") if "but" in rest else len(rest)
                if rest[0] == "in":
                    numbers &= _numbers(rest[1:at])
                numbers -= _numbers(rest[at + 1 :])
            else:
                numbers = _numbers(rest)
            if strangers := numbers - tile_numbers[first]:
                raise SystemExit(f"{line[:60]}: no nuclei {sorted(strangers)}")
            for number in numbers:
                said[first][how][number].add(kind)
    for tile, numbers in out.items():
        for by_how in said[tile].values():
            for number in numbers:
                by_how.pop(number, None)
    return said


def rows(tile: Tile, said: Said) -> Iterable[tuple[int, float, float, str, str]]:
    """Number, x, y, type and how it was named, of the nuclei of a tile that have one name."""
    height, width = tile.image.shape[:2]
    median = sorted(tile.areas.tolist())[len(tile.areas) // 2] if len(tile.areas) else 0
    for number, (x0, y0, x1, y1), area in zip(tile.numbers.tolist(), tile.boxes.tolist(), tile.areas, strict=True):
        is_cut = x0 == 0 or y0 == 0 or x1 == width or y1 == height
        named = [(how, said[how][number]) for how in HOW if number in said[how]]
        if not named or (is_cut and area < median / 2):
            continue
        kinds = named[0][1] if named[0][0] == "single" else set().union(*(kinds for _, kinds in named))
        if len(kinds) == 1:
            yield number, (x0 + x1) / 2, (y0 + y1) / 2, *kinds, named[0][0]


def main(folder: Path) -> None:
    organs = by_organ(tiles(folder / "embeddings"))
    wanted = {line.split()[1] for line in NAMES.read_text().splitlines() if line.startswith("cluster ")}
    cluster_of: dict[tuple[str, int], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for organ in wanted:
        for tile, of in zip(organs[organ], clusters(organs[organ]), strict=True):
            for number, cluster in zip(tile.numbers.tolist(), of.tolist(), strict=True):
                cluster_of[organ, cluster][tile.name[:3]].add(number)
    every = [tile for found in organs.values() for tile in found]
    said = read_names({tile.name[:3]: set(tile.numbers.tolist()) for tile in every}, cluster_of)
    lines, counts = [], Counter[tuple[str, str]]()
    ways = Counter[str]()
    for tile in sorted(every, key=lambda tile: tile.name):
        for number, x, y, kind, how in rows(tile, said[tile.name[:3]]):
            lines.append(f"{tile.name},{number},{x:g},{y:g},{kind},{how}\n")
            counts[tile.organ, kind] += 1
            ways[how] += 1
    with replacing(TARGET) as temporary:
        temporary.write_text(HEADER + "".join(lines))
    kinds = sorted({kind for _, kind in counts})
    print(f"{len(lines)} nuclei; named by {dict(ways)}")
    print(f"{'organ':22s}" + "".join(f"{kind:>12s}" for kind in kinds))
    for organ in sorted({organ for organ, _ in counts}):
        print(f"{organ:22s}" + "".join(f"{counts[organ, kind]:12d}" for kind in kinds))
    print(f"{'all':22s}" + "".join(f"{sum(counts[o, kind] for o in organs):12d}" for kind in kinds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
