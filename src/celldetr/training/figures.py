"""Figures of a pretraining run.

``similarity.png``: cosines of anchors and cells. A clear diagonal: anchors are most like their own cell.
``embedding.png``: a map of embeddings coloured by type, slide and stain. Types should part, slides and stains mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.io.figures import save_figure
from celldetr.report.embedding_map import SAMPLE, lay_out
from celldetr.training.infonce import Contrast
from celldetr.training.slide_probe import HeldOutCells

SIMILARITY_FILE, EMBEDDING_FILE, EMBEDDING_FACTS = "similarity.png", "embedding.png", "embedding.json"
IMAGES = 3  # whose similarities are drawn beside those of the batch
NEIGHBOURS = 30  # of UMAP
LEGEND = 12  # slides named in the legend at most


def own_similarity(contrast: Contrast, image: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Similarities (n, n) of anchors to the cells they are of, own cells on the diagonal.

    Args:
        contrast: of a batch.
        image: of it; None: of all images, those that see the same instances. Of a cell with several anchors the first.

    Returns:
        the similarities, and (n,) whether each anchor is more like its own cell than like all negatives.
    """
    chosen = contrast.anchor_view == 0
    if image is not None:
        chosen = chosen & (contrast.anchor_image == image)
    rows = chosen.nonzero()[:, 0].cpu().numpy()
    columns, first = np.unique(contrast.positive.cpu().numpy()[rows], return_index=True)
    rows = rows[first]
    return contrast.similarity.float().cpu().numpy()[rows][:, columns], contrast.correct.cpu().numpy()[rows]


def draw_similarity(contrast: Contrast, path: Path) -> None:
    """Draw the similarity matrices of a batch and of its first images that have anchors."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with_anchors = contrast.anchor_image.unique().tolist()[:IMAGES]
    matrices = [("all images of the batch", own_similarity(contrast))]
    matrices += [(f"image {image + 1}", own_similarity(contrast, image)) for image in with_anchors]
    figure = Figure(figsize=(4.2 * len(matrices) + 0.6, 4.4), layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(matrices))))
    picture = None
    for axis, (name, (matrix, correct)) in zip(axes, matrices, strict=True):
        if matrix.size:
            picture = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        share = float(correct.mean()) if len(correct) else 0.0
        axis.set(title=f"{name}\n{len(matrix)} cells, {share:.0%} found", xlabel="cell", ylabel="anchor")
        for ruler in (axis.xaxis, axis.yaxis):
            ruler.set_major_locator(MaxNLocator(5, integer=True))
    if picture is not None:
        figure.colorbar(picture, ax=list(axes), label="cosine", shrink=0.8)
    save_figure(figure, path, dpi=110)


def map_vectors(vectors: NDArray[np.float32], seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """Places (n, 2) of vectors (n, d), and the method: UMAP where umap-learn is installed, else t-SNE."""
    if find_spec("umap") is None or len(vectors) <= NEIGHBOURS:
        return lay_out(vectors, seed)
    import warnings

    from umap import UMAP  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it use one thread
        points = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=seed).fit_transform(vectors)
    return np.asarray(points, np.float64), f"UMAP ({NEIGHBOURS} neighbours, cosine)"


def draw_embedding(cells: HeldOutCells, type_names: Sequence[str], path: Path, seed: int = 0) -> str:
    """Draw a map of at most ``SAMPLE`` of three or more cells; returns the method of its layout."""
    from matplotlib.figure import Figure

    finite = np.flatnonzero(np.isfinite(cells.vectors).all(1))
    rng = np.random.default_rng(seed)
    cells = cells.take(np.sort(rng.permutation(finite)[:SAMPLE]))
    points, method = map_vectors(cells.vectors, seed)
    figure = Figure(figsize=(16, 5), layout="constrained")
    by_type, by_slide, by_stain = figure.subplots(1, 3)
    _scatter(by_type, points, np.array([*type_names, "unknown"])[cells.types], [*type_names, "unknown"])
    by_type.set(title="by type" if (cells.types >= 0).any() else "by type: none is known")
    names = list(dict.fromkeys(cells.slides.tolist()))
    _scatter(by_slide, points, cells.slides, names)
    by_slide.set(title=f"by slide ({len(names)})")
    dots = by_stain.scatter(*points.T, c=cells.density, s=5, cmap="viridis", linewidths=0)
    figure.colorbar(dots, ax=by_stain, label="mean optical density of the image")
    by_stain.set(title="by stain")
    for axis in (by_type, by_slide, by_stain):
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f"{method} of the embeddings of {len(cells):,} cells that were not trained on", fontsize=9)
    save_figure(figure, path, dpi=110)
    return method


def _scatter(axis: Any, points: NDArray[np.float64], labels: NDArray[np.str_], names: Sequence[str]) -> None:
    from matplotlib import colormaps

    size = 10 if len(names) <= 10 else 20
    for i, name in enumerate(names):
        same = labels == name
        if same.any():
            colour = "#bbbbbb" if name == "unknown" else colormaps[f"tab{size}"](i % size)
            axis.scatter(*points[same].T, s=5, color=colour, label=str(name)[:24], linewidths=0)
    if len(names) <= LEGEND:
        axis.legend(fontsize=6, markerscale=2.5, loc="best")
