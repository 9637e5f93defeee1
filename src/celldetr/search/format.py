"""Neighbours and clusters as lines of text."""

from __future__ import annotations

from celldetr.search.clustering import Clustered
from celldetr.search.similar import Neighbours

PRINTED = 50  # rows


def neighbour_lines(neighbours: Neighbours) -> list[str]:
    """The neighbours as a table."""
    if not (neighbours.table["rank"] > 0).any():
        return ["no neighbours: nothing is left to look at"]
    width = max(len("slide"), *(len(name) for name in neighbours.table["slide"]))
    kinds = max(len("type"), *(len(str(name)) for name in neighbours.table["type"]))
    lines: list[str] = []
    previous = None
    for row in neighbours.table.head(PRINTED).to_dict("records"):
        if row["query"] != previous:
            previous = row["query"]
            lines.append(f"{previous}")
            lines.append(
                f"  rank  similarity  {'slide':<{width}}  {'cell_id':>9}  {'type':<{kinds}}  p     x_um       y_um"
            )
        rank = row["rank"] or "-"
        lines.append(
            f"  {rank:>4}  {row['similarity']:>10.4f}  {row['slide']:<{width}}  {row['cell_id']:>9}  "
            f"{row['type']!s:<{kinds}}  "
            f"{row['type_score']:.2f}  {row['x_um']:<9.1f}  {row['y_um']:.1f}"
        )
    if len(neighbours.table) > PRINTED:
        lines.append(f"  ... and {len(neighbours.table) - PRINTED:,} more, see the tables")
    return lines


def cluster_lines(done: Clustered) -> list[str]:
    """Clusters, and how they were made."""
    slides = len(done.collection.slides)
    head = f"{done.cells:,} cells of {slides} slide{'s' * (slides != 1)} in {len(done.counts)} clusters; "
    if done.sampled == done.cells:
        head += "all were clustered"
    else:
        head += (
            f"{done.sampled:,} ({100 * done.sampled / done.cells:.1f} %) were clustered, the others joined the "
            "cluster of "
            f"their nearest sampled cells, {100 * done.agreement:.0f} % of which agree"
        )
    lines = [head]
    for number, (total, line) in enumerate(zip(done.counts.tolist(), done.by_type.tolist(), strict=True)):
        mix = ", ".join(f"{count:,} {name}" for name, count in zip(done.types, line, strict=True) if count)
        lines.append(f"  {number:>3}  {total:>10,}  {mix}")
    return lines
