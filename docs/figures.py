"""Draw the figures of the pages on concepts, into docs/images. Run by ``make docs-figures``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import shapely
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray
from PIL import Image

import celldetr
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.model.attention_trace import trace_attention
from celldetr.model.hub import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
MPP = 0.499
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
REGION = (950, 900, 420)  # x, y and side of the part of the sample slide, level-0 pixels


def part() -> NDArray[np.uint8]:
    """A part of the sample slide, (H, W, 3) uint8."""
    import openslide

    x, y, side = REGION
    with openslide.OpenSlide(str(celldetr.sample_slide())) as slide:
        return np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))


def overview(image: NDArray[np.uint8], cells: Any) -> Figure:
    """From an image to a row of the table."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axis = figure.add_subplot()
    axis.set(xlim=(0, 110), ylim=(0, 42), aspect="equal")
    axis.set_axis_off()
    crop = image[60:220, 150:310]
    axis.imshow(crop, extent=(1, 19, 12, 30), zorder=2)
    axis.text(10, 32, "image", ha="center", weight="bold")
    axis.text(10, 9, "any size, resampled\nto the model's µm per pixel", ha="center", va="center", fontsize=8)
    blocks = [
        (24, 23, "backbone", "features at strides\n4, 8, 16, 32 px", "#dddddd"),
        (43, 23, "encoder", "deformable attention\nacross strides 8, 16, 32", "#dddddd"),
        (62, 23, "detection decoder", "where: box and score\nof each nucleus", "#f7d9c4"),
        (62, 3, "representation decoder", "what: looks at the box\nagain, and only inside it", "#c8e0f0"),
    ]
    for x, y, name, text, colour in blocks:
        axis.add_patch(FancyBboxPatch((x, y), 15.5, 13, boxstyle="round,pad=0.3", fc=colour, ec="#444444"))
        axis.text(x + 7.75, y + 9.5, name, ha="center", va="center", weight="bold", fontsize=7.8)
        axis.text(x + 7.75, y + 4.2, text, ha="center", va="center", fontsize=7.5)
    arrow = {"arrowstyle": "-|>", "color": "#444444", "lw": 1.3}
    for start, end in (((19.5, 26), (23.5, 28)), ((40, 29.5), (42.5, 29.5)), ((59, 29.5), (61.5, 29.5))):
        axis.annotate("", end, start, arrowprops=arrow)
    axis.annotate("", (69.75, 16.7), (69.75, 22.5), arrowprops=arrow)
    axis.text(70.6, 19.5, "boxes", fontsize=8, va="center")
    axis.plot([31.75, 31.75, 59], [22.5, 9, 9], color="#444444", lw=1.3, solid_capstyle="butt")
    axis.annotate("", (61.5, 9), (58, 9), arrowprops=arrow)
    axis.text(46, 10.4, "features of the backbone", fontsize=8, ha="center")
    scale = 18 / 160
    axis.imshow(crop, extent=(85, 103, 20.5, 38.5), zorder=2)
    for kind, outline in zip(cells["type"].cat.codes, shapely.from_wkb(cells["geometry"].to_numpy()), strict=True):
        x, y = shapely.get_coordinates(outline).T
        (line,) = axis.plot(85 + (x - 150) * scale, 38.5 - (y - 60) * scale, color=PALETTE[kind], lw=1.2, zorder=3)
        line.set_clip_path(Rectangle((85, 20.5), 18, 18, transform=axis.transData))
    axis.text(
        94,
        18.2,
        "drawn by a small head of their own,\nfrom the image around each box",
        ha="center",
        va="center",
        fontsize=8,
    )
    axis.annotate("", (84.3, 29.5), (78, 29.5), arrowprops=arrow)
    axis.annotate("", (84.3, 9), (78, 9), arrowprops=arrow)
    axis.text(94, 40, "outlines, coloured by type", ha="center", weight="bold", fontsize=9)
    vector = np.asarray(cells.iloc[0]["embedding"], dtype=np.float32)[None, :64]
    axis.imshow(vector, extent=(85, 109, 9.5, 12.5), cmap="RdBu_r", aspect="auto", zorder=2)
    axis.text(97, 14, "embedding, d numbers", ha="center", weight="bold", fontsize=9)
    axis.text(97, 6, "type: " + ", ".join(cells["type"].cat.categories), ha="center", fontsize=8)
    axis.set(xlim=(0, 110), ylim=(0, 42), aspect="equal")
    return figure


def inside_the_box(image: NDArray[np.uint8], cells: Any) -> Figure:
    """Where the representation decoder samples the box of a nucleus, at first and when trained."""
    network = celldetr.load_model(DEFAULT_MODEL, precision="32").network
    shown = cells[cells["x_px"].between(60, 360) & cells["y_px"].between(60, 360)]
    cell = shown.loc[(shown["w_px"] * shown["h_px"]).sort_values().index[-6]]
    zoom = MPP / network.config.mpp  # as the network sees the image
    image = np.asarray(Image.fromarray(image).resize([round(side * zoom) for side in image.shape[1::-1]]))
    x, y, w, h = (float(cell[name]) * zoom for name in ("x_px", "y_px", "w_px", "h_px"))
    box = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], dtype=np.float32)
    trace = trace_attention(network, image, box)
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    formula, drawn, near = figure.subplots(1, 3)
    offsets = np.linspace(-3, 3, 200)
    formula.plot(offsets, np.tanh(offsets) / 2, color=PALETTE[0])
    formula.axhspan(-0.5, 0.5, color=PALETTE[2], alpha=0.15)
    formula.axhline(0.5, color=PALETTE[2])
    formula.axhline(-0.5, color=PALETTE[2])
    formula.set(
        xlabel="what the network predicts, D", ylabel="place in the box, widths from its centre", ylim=(-0.8, 0.8)
    )
    formula.set_title("tanh(D) / 2: no point leaves the box", fontsize=10)
    reach = 2.2 * max(w, h)
    for axis in (drawn, near):
        axis.imshow(image, interpolation="bicubic")
        axis.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, ec="yellow", lw=2))
        axis.set_axis_off()
    points, weights = trace.locations[-1, 0], trace.weights[-1, 0]
    for level, stride in enumerate(trace.strides):
        spots, sizes_ = points[:, level].reshape(-1, 2), weights[:, level].reshape(-1)
        near.scatter(*spots.T, s=900 * sizes_ + 2, color=PALETTE[level % 4], label=f"stride {stride}", alpha=0.8, lw=0)
    drawn.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
    outline = shapely.get_coordinates(shapely.from_wkb(cell["geometry"])) * zoom
    drawn.plot(*outline.T, color="white", lw=1.5)
    drawn.set_title("a nucleus, its box and its outline", fontsize=10)
    near.set(xlim=(x - w * 0.75, x + w * 0.75), ylim=(y + h * 0.75, y - h * 0.75))
    near.set_title("where the trained decoder looks, by attention", fontsize=10)
    near.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncol=3, fontsize=8, frameon=False, columnspacing=1)
    return figure


def scores() -> Figure:
    """Precision and recall over the threshold, from the kept metrics of the model."""
    report = json.loads((ROOT / f"benchmarks/results/{DEFAULT_MODEL}/brca-m2c-test.json").read_text(encoding="utf-8"))
    curve, threshold = report["curve"], report["threshold"]
    at, precision, recall = (np.array(curve[name]) for name in ("thresholds", "precision", "recall"))
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axis = figure.add_subplot()
    axis.plot(at, precision, color=PALETTE[0], label="precision: of the cells reported, how many are nuclei")
    axis.plot(at, recall, color=PALETTE[1], label="recall: of the nuclei, how many are reported")
    axis.plot(at, 2 * precision * recall / (precision + recall), color="black", label="F1")
    axis.axvline(threshold, color="#888888", ls="--")
    axis.text(threshold + 0.01, 0.05, f"the model's threshold, {threshold:.2f}", color="#555555")
    axis.set(xlabel="least score of a cell that is reported", xlim=(LOWEST_SCORE, 0.9), ylim=(0, 1))
    axis.legend(loc="lower left", bbox_to_anchor=(0.02, 0.12), fontsize=8)
    return figure


def embeddings(image: NDArray[np.uint8], cells: Any) -> Figure:
    """The two widest directions of the embeddings of a region, and cells along the first."""
    vectors = np.stack(cells["embedding"]).astype(np.float32)
    vectors -= vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(vectors, full_matrices=False)
    places = vectors @ axes[:2].T
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axis = left.subplots()
    for name, colour in zip(cells["type"].cat.categories, PALETTE, strict=False):
        if (cells["type"] == name).any():
            axis.plot(*places[cells["type"] == name].T, ".", color=colour, label=name)
    axis.set(xlabel="first principal component of the embeddings", ylabel="second")
    axis.legend()
    right.suptitle("cells along the first component, from left to right", fontsize=10)
    inner = np.flatnonzero(cells["x_px"].between(24, 396) & cells["y_px"].between(24, 396))
    order = inner[np.argsort(places[inner, 0])]
    for picture, i in zip(
        right.subplots(5, 7).flat, order[np.linspace(0, len(order) - 1, 35).astype(int)], strict=True
    ):
        x, y = int(cells["x_px"].iloc[i]), int(cells["y_px"].iloc[i])
        picture.imshow(image[y - 24 : y + 24, x - 24 : x + 24])
        picture.set(xticks=[], yticks=[])
        kind = list(cells["type"].cat.categories).index(cells["type"].iloc[i])
        for side in picture.spines.values():
            side.set(color=PALETTE[kind], linewidth=2.5)
    return figure


def main() -> None:
    """Draw them all."""
    mpl.rcParams["font.size"] = 9
    image = part()
    cells = celldetr.load_model(DEFAULT_MODEL, precision="32").predict(image, MPP)
    figures = {
        "concept-overview": overview(image, cells),
        "concept-box": inside_the_box(image, cells),
        "concept-scores": scores(),
        "concept-embeddings": embeddings(image, cells),
    }
    for name, figure in figures.items():
        figure.savefig(IMAGES / f"{name}.png", dpi=130, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
