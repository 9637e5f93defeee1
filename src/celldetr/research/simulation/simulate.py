"""A section with known truth: a Xenium bundle, its H&E image and alignment, made from labelled images and a reference.

Nuclei and their types are real; each becomes a cell whose expression is drawn from the reference
(``expression``), at a place that a known affine and a jitter say. Some nuclei have no cell, some cells no
nucleus.

    OUT/bundle/                  the bundle, as the instrument writes it (``bundle``)
    OUT/he_image.ome.tif         the samples side by side, with their micrometres per pixel
    OUT/he_imagealignment.csv    3 x 3: pixels of the image -> pixels of 0.2125 um of the instrument (Xenium Explorer)
    OUT/truth.parquet, truth_cells.parquet, truth.json   see ``SimulatedTruth``
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Probability
from celldetr.data.sample import Sample
from celldetr.errors import InputError, near
from celldetr.io.files import output_errors, replacing, write_json
from celldetr.research.simulation.bundle import PIXEL_UM, BundleCells, cell_ids, write_bundle
from celldetr.research.simulation.expression import ExpressionOptions, choose_panel, draw_counts
from celldetr.spatial.affine import apply, inverse_of
from celldetr.spatial.registration import turned

if TYPE_CHECKING:
    import anndata
    import pandas as pd

VERTICES = 13  # of an outline, the last being the first: what Xenium Onboard Analysis writes
BUNDLE, IMAGE, ALIGNMENT = "bundle", "he_image.ome.tif", "he_imagealignment.csv"
GAP_PX = 64  # white between samples
SAME_MPP = 0.01  # relative difference that lets samples lie in one image


class SimulateOptions(Config):
    """What is simulated. Defaults are those of a decent Xenium run."""

    types: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # type of the nuclei -> of the reference (one of);
    # one without an entry must have its own name in the reference; (): nuclei of this type have no cell
    expression: ExpressionOptions = ExpressionOptions()

    degrees: float = Field(3.0, ge=-180, le=180)  # rotation of the image against the instrument
    scale: float = Field(1.01, gt=0.1, lt=10)  # of the image against its nominal micrometres per pixel
    shear: float = Field(0.005, ge=-0.5, le=0.5)
    shift_um: tuple[float, float] = (250.0, 400.0)  # of the image's corner in the frame of the instrument
    jitter_um: float = Field(0.5, ge=0)  # standard deviation of a cell's place along x and y
    expand_um: float = Field(3.0, ge=0)  # from a nucleus' outline to that of its cell

    nuclei_without_cell: Probability = 0.10  # share of the nuclei
    cells_without_nucleus: Probability = 0.10  # cells more, as a share of the nuclei

    alignment_error_um: float = Field(0.0, ge=0)  # shift of the alignment that is written, in a random direction
    alignment_error_degrees: float = 0.0  # its rotation about the middle of the section


@dataclass(frozen=True)
class SimulatedTruth:
    """What is true of a simulated section."""

    nuclei: (
        pd.DataFrame
    )  # of the image: xmin, ymin, xmax, ymax (level-0 px), type ("": unknown), sample, cell_id or None
    cells: pd.DataFrame  # of the bundle: cell_id, type, reference_type, nucleus (row, or -1), x_um, y_um, sample
    to_image: NDArray[np.float64]  # (3, 3) true affine, micrometres of the instrument -> level-0 pixels of the image
    written_to_image: NDArray[np.float64]  # what the alignment csv says instead
    facts: dict[str, Any] = field(default_factory=dict)  # mpp, size, options, seed, genes of the panel; JSON-able

    def write(self, out: Path) -> None:
        """Write truth.parquet, truth_cells.parquet and truth.json into a folder."""
        for name, table in (("truth.parquet", self.nuclei), ("truth_cells.parquet", self.cells)):
            with replacing(out / name) as temporary:
                table.to_parquet(temporary, index=False)
        affines = {"to_image": self.to_image.tolist(), "written_to_image": self.written_to_image.tolist()}
        write_json(out / "truth.json", affines | self.facts)


def simulate(
    samples: Sequence[Sample],
    reference: anndata.AnnData,
    column: str,
    out: Path,
    options: SimulateOptions | None = None,
    seed: int = 0,
) -> SimulatedTruth:
    """Make a section with known truth.

    Args:
        samples: labelled images of one mpp (within 1 %) and the same types; nuclei of unknown type have no cell.
        reference: whole counts in ``X``, types in ``obs[column]`` (``read_reference``).
        column: of its types.
        out: folder; made, and what is in it of an earlier run replaced.
        options: the defaults where None.
        seed: of everything drawn; the same seed gives the same section.

    Raises:
        InputError: no samples, samples of different mpp, a type that the reference does not have, a panel larger than
            the reference, or a place that cannot be written to.
    """
    options = options or SimulateOptions()
    rng = np.random.default_rng(seed)
    mpp = _common_mpp(samples)
    mapping = _mapping(samples, reference, column, options.types)
    image, origins = _lay_out(samples)
    truth_affine = _affine(mpp, options)
    nuclei = _nuclei(samples, origins)
    cells, boxes = _cells(nuclei, samples, origins, mapping, options, rng)
    if not len(cells):
        raise InputError(
            "no nucleus has a cell: the samples have no typed nuclei, or types maps all of them to nothing"
        )

    jitter = rng.normal(0, options.jitter_um, (len(cells), 1, 2))
    inverse = inverse_of(truth_affine)
    inner = apply(inverse, _ellipses(boxes, 0.0)) + jitter
    outer = apply(inverse, _ellipses(boxes, options.expand_um / mpp)) + jitter
    points = inner[:, :-1].mean(axis=1)
    cells["x_um"], cells["y_um"] = points[:, 0], points[:, 1]
    panel = choose_panel(reference, column, options.expression.genes, rng)
    kinds = [str(name) for name in cells["reference_type"]]
    counts = draw_counts(kinds, points, reference, column, panel, options.expression, rng)

    prefixes = rng.choice(2**32, len(cells), replace=False).astype(np.uint32)
    prefixes.sort()
    cells.insert(0, "cell_id", cell_ids(prefixes).astype(object))
    of_nucleus = cells[cells["nucleus"] >= 0]
    nuclei["cell_id"] = None
    nuclei.loc[of_nucleus["nucleus"].to_numpy(), "cell_id"] = of_nucleus["cell_id"].to_numpy()

    written = truth_affine @ _error(points.mean(axis=0), options, rng)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    ids = _gene_ids(reference, panel)
    write_bundle(out / BUNDLE, out.name, BundleCells(prefixes, inner, outer, counts, panel, ids), rng)
    _write_image(out / IMAGE, image, mpp)
    with replacing(out / ALIGNMENT) as temporary:
        # Xenium Explorer: from pixels of the image to pixels of the instrument.
        np.savetxt(temporary, np.diag([1 / PIXEL_UM, 1 / PIXEL_UM, 1]) @ np.linalg.inv(written), delimiter=",")
    facts = {
        "mpp": mpp, "width": image.shape[1], "height": image.shape[0], "seed": seed,
        "options": options.model_dump(mode="json"), "types": {name: list(kinds) for name, kinds in mapping.items()},
        "genes": panel,
    }  # fmt: skip
    truth = SimulatedTruth(nuclei, cells, truth_affine, written, facts)
    truth.write(out)
    return truth


def _common_mpp(samples: Sequence[Sample]) -> float:
    if not samples:
        raise InputError("no samples to simulate a section from; expected at least one labelled image")
    mpp = samples[0].mpp
    for sample in samples:
        if abs(sample.mpp / mpp - 1) > SAME_MPP:
            raise InputError(
                f"{sample.name}: {sample.mpp:g} um per pixel, but {samples[0].name} has {mpp:g}; rescale the samples"
                " to one resolution"
            )
        if sample.type_names != samples[0].type_names:
            raise InputError(f"{sample.name}: its types differ from those of {samples[0].name}")
    return float(mpp)


def _mapping(
    samples: Sequence[Sample], reference: anndata.AnnData, column: str, given: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Type of the samples -> types of the reference."""
    if column not in reference.obs:
        raise InputError(
            f"the reference has no column {column!r} in obs; {near(column, map(str, reference.obs.columns))}"
        )
    known = {str(name) for name in reference.obs[column].dropna().unique()}
    names = samples[0].type_names
    mapping = {name: given.get(name, (name,)) for name in names}
    present = {names[k] for sample in samples for k in np.unique(sample.types) if k >= 0}
    for name in sorted(present):
        for kind in mapping[name]:
            if kind not in known:
                raise InputError(f"types: the reference has no type {kind!r} (for {name!r}); {near(kind, known)}")
    return mapping


def _lay_out(samples: Sequence[Sample]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One image of all samples in a grid, and the (x, y) of each one's corner in it."""
    columns = math.ceil(math.sqrt(len(samples)))
    index = np.arange(len(samples))
    step = np.array([sample.image.shape[1::-1] for sample in samples]).max(axis=0) + GAP_PX
    origins = np.column_stack([index % columns, index // columns]) * step
    width, height = origins.max(axis=0) + step - GAP_PX
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    for sample, (x, y) in zip(samples, origins, strict=True):
        image[y : y + sample.image.shape[0], x : x + sample.image.shape[1]] = sample.image
    return image, origins


def _nuclei(samples: Sequence[Sample], origins: NDArray[np.int64]) -> pd.DataFrame:
    import pandas as pd

    boxes = np.concatenate([s.boxes + np.tile(origin, 2) for s, origin in zip(samples, origins, strict=True)])
    names = np.array([*samples[0].type_names, ""], dtype=object)  # UNKNOWN is -1: the last
    table = pd.DataFrame(boxes.astype(np.float32), columns=["xmin", "ymin", "xmax", "ymax"])
    table["type"] = np.concatenate([names[sample.types] for sample in samples])
    table["sample"] = np.repeat([sample.name for sample in samples], [len(sample) for sample in samples])
    return table


def _cells(
    nuclei: pd.DataFrame,
    samples: Sequence[Sample],
    origins: NDArray[np.int64],
    mapping: Mapping[str, tuple[str, ...]],
    options: SimulateOptions,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Cells (type, reference_type, nucleus, sample) in random order, and (N, 4) the box of each one's nucleus, px."""
    import pandas as pd

    eligible = nuclei["type"].map(lambda name: bool(mapping.get(name))).to_numpy(dtype=bool)
    boxes = nuclei[["xmin", "ymin", "xmax", "ymax"]].to_numpy(dtype=np.float64)
    kept = np.flatnonzero(eligible & (rng.random(len(nuclei)) >= options.nuclei_without_cell))
    pool = np.flatnonzero(eligible)
    extra = round(options.cells_without_nucleus * len(pool))
    models = rng.choice(pool, extra) if extra else np.empty(0, dtype=np.int64)  # lend their type and size
    sides = boxes[models, 2:] - boxes[models, :2]
    where = rng.integers(len(samples), size=extra)
    sizes = np.array([sample.image.shape[1::-1] for sample in samples], dtype=np.float64)
    centres = origins[where] + rng.random((extra, 2)) * sizes[where]
    placed = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)

    source = np.concatenate([kept, models])
    types = nuclei["type"].to_numpy(dtype=object)[source]
    names = np.array([sample.name for sample in samples], dtype=object)
    table = pd.DataFrame(
        {
            "type": types,
            "reference_type": _draw_kinds(types, mapping, rng),
            "nucleus": np.concatenate([kept, np.full(extra, -1)]),
            "sample": np.concatenate([nuclei["sample"].to_numpy(dtype=object)[kept], names[where]]),
        }
    )
    order = rng.permutation(len(table))  # the order of a bundle says nothing of the image's
    return table.iloc[order].reset_index(drop=True), np.concatenate([boxes[kept], placed])[order]


def _draw_kinds(
    types: NDArray[np.object_], mapping: Mapping[str, tuple[str, ...]], rng: np.random.Generator
) -> NDArray[np.object_]:
    out = np.empty(len(types), dtype=object)
    for name, kinds in mapping.items():
        here = np.flatnonzero(types == name)
        if len(here):
            out[here] = np.array(kinds, dtype=object)[rng.integers(len(kinds), size=len(here))]
    return out


def _affine(mpp: float, options: SimulateOptions) -> NDArray[np.float64]:
    """Micrometres of the instrument -> pixels."""
    shear = np.array([[1.0, options.shear, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    out = turned(math.radians(options.degrees), options.scale / mpp, np.zeros(2)) @ shear
    out[:2, 2] = -out[:2, :2] @ np.array(options.shift_um)
    return out


def _error(centre: NDArray[np.float64], options: SimulateOptions, rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3) displacement in micrometres of the instrument: a turn about the centre and a shift."""
    direction = rng.uniform(0, 2 * math.pi)
    shift = options.alignment_error_um * np.array([math.cos(direction), math.sin(direction)])
    return turned(math.radians(options.alignment_error_degrees), 1.0, centre, shift)


def _ellipses(boxes: NDArray[np.float64], grown: float) -> NDArray[np.float64]:
    """(N, 4) boxes -> (N, VERTICES, 2) the ellipses in them, each axis longer by ``grown`` at either end."""
    angles = np.linspace(0, 2 * math.pi, VERTICES)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    circle[-1] = circle[0]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 + grown
    return (boxes[:, :2] + boxes[:, 2:])[:, None] / 2 + half[:, None] * circle


def _gene_ids(reference: anndata.AnnData, panel: Sequence[str]) -> list[str]:
    if "gene_ids" in reference.var:
        return [str(value) for value in reference.var["gene_ids"].loc[list(panel)]]
    return list(panel)


def _write_image(path: Path, image: NDArray[np.uint8], mpp: float) -> None:
    import tifffile

    metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp}
    metadata["PhysicalSizeYUnit"] = "µm"
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary, image, ome=True, photometric="rgb", tile=(512, 512), compression="deflate", metadata=metadata
        )
