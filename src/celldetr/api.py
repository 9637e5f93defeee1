"""The Python API of models: load one, predict the cells of an array or of a slide.

A few lines over the parts, which nothing inside the package goes through: the command line calls the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from celldetr.cohort import predict
from celldetr.config import InferenceOptions, Precision, parse
from celldetr.errors import InputError
from celldetr.model.checkpoint import Card
from celldetr.model.inference import TilePredictor
from celldetr.slide.array import predict_image
from celldetr.slide.engine import RunSummary, SlideProgress
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import Picture, as_slide

if TYPE_CHECKING:
    import pandas as pd

    from celldetr.report.cell_frame import CellFrame


class Model(TilePredictor):
    """A trained CellDETR, ready to use. Made by ``load_model``.

    Attributes:
        types (tuple[str, ...]): names of the K types, in the order of its probabilities.
        threshold (float): least score of a cell that is reported.
        card (dict[str, Any]): what ``info`` is made from, as JSON values.

    Examples:
        >>> import celldetr
        >>> model = celldetr.load_model("small-20x")
        >>> model.types, model.info.config.mpp, model.info.licence
        (('lymphocyte', 'epithelial', 'stromal'), 0.4, 'Apache-2.0')
    """

    @cached_property
    def info(self) -> Card:
        """The checkpoint's card: types, mpp, training data, licence, metrics."""
        return Card.model_validate(self.card)

    @overload
    def predict(
        self,
        image: Picture,
        mpp: float | None = None,
        options: PredictOptions | None = None,
        *,
        threshold: float | None = None,
    ) -> CellFrame: ...

    @overload
    def predict(
        self,
        image: list[Picture] | tuple[Picture, ...],
        mpp: float | None = None,
        options: PredictOptions | None = None,
        *,
        threshold: float | None = None,
    ) -> list[CellFrame]: ...

    def predict(
        self,
        image: Picture | list[Picture] | tuple[Picture, ...],
        mpp: float | None = None,
        options: PredictOptions | None = None,
        *,
        threshold: float | None = None,
    ) -> CellFrame | list[CellFrame]:
        """Find the cells of an image, or of several.

        Args:
            image: (H, W, 3) RGB of any size, uint8 or floats in [0, 1]; a Pillow image; the path of an image; or
                several: a list of these, or an array (N, H, W, 3).
            mpp: micrometres per pixel of the image, which is resampled to the model's own. Only files that state it can
                do without.
            options: tile, overlap and the like.
            threshold: least score of a cell that is reported; None: the model's own. Lower than that costs time.

        Returns:
            A DataFrame, one row a cell, with the columns of ``cells.parquet`` (docs/reference/outputs.md); ``x_px`` ...
            are pixels of the image and ``embedding`` holds float16 vectors. A notebook shows the image with its cells,
            ``to_geodataframe`` makes polygons of ``geometry``. Of several images a list of these.

        Raises:
            InputError: not such an image, no mpp or one out of range, or a threshold outside of [0, 1].

        Examples:
            >>> import celldetr, tifffile
            >>> image = tifffile.imread(celldetr.sample_slide())[900:1100, 950:1150]
            >>> cells = celldetr.load_model("small-20x").predict(image, mpp=0.499)
            >>> cells["embedding"][0].shape, bool(cells["x_px"].between(0, 200).all())
            ((128,), True)
        """
        from celldetr.report.cell_frame import CellFrame, Ground

        if isinstance(image, list | tuple) or (isinstance(image, np.ndarray) and image.ndim == 4):
            return [self.predict(one, mpp, options, threshold=threshold) for one in image]
        with self.at_threshold(threshold), as_slide(image, mpp) as reader:
            frame = predict_image(reader, self, options)
            cells = CellFrame(frame)
            cells.attrs, cells.ground = frame.attrs, Ground.of(reader)
        return cells

    @contextmanager
    def at_threshold(self, threshold: float | None) -> Iterator[None]:
        """Predict in here as if loaded with another threshold; None: with its own. Not for two threads at once.

        Raises:
            InputError: not in [0, 1].
        """
        if threshold is None:
            yield
            return
        if not 0 <= threshold <= 1:
            raise InputError(f"{threshold=} must be from 0 to 1")
        own = self.threshold
        self.set_threshold(threshold)
        try:
            yield
        finally:
            self.set_threshold(own)

    def __repr__(self) -> str:
        name = self.card.get("name", "without a name")
        outlines = "outlines" if self.outlines else "boxes"
        precision = "bf16" if self.bf16 else "float32"
        return (
            f"<{type(self).__name__} {name}: types {', '.join(self.types)}; {self.mpp:g} µm per pixel, "
            f"threshold {self.threshold:.3f}, {outlines}, embeddings of {self.embedding_dim}, {precision} on "
            f"{self.device}>"
        )

    def embed(self, image: NDArray[np.uint8], boxes: NDArray[np.floating], mpp: float) -> pd.DataFrame:
        """Type and embed cells that are known: nothing is detected.

        Args:
            image: (H, W, 3) uint8 RGB, of any size.
            boxes: (N, 4) left, top, right, bottom in pixels of the image, or (N, 2) centres, whose boxes are then found
                by ``celldetr.data.pseudo_boxes``.
            mpp: micrometres per pixel of the image; it is resampled to the model's own.

        Returns:
            As of ``predict``, one row a box, in the order of the boxes; ``score`` is 1.

        Raises:
            InputError: not such an image or boxes, a box outside of the image, sizes that nuclei cannot have, or a
                model without a representation decoder.

        Examples:
            >>> import celldetr, numpy as np, tifffile
            >>> image = tifffile.imread(celldetr.sample_slide())[900:1100, 950:1150]
            >>> boxes = np.array([[100.0, 100, 114, 116], [60, 80, 76, 92]])
            >>> celldetr.load_model("small-20x").embed(image, boxes, mpp=0.499)[["x_px", "y_px", "score"]]
                x_px   y_px  score
            0  107.0  108.0    1.0
            1   68.0   86.0    1.0
        """
        from celldetr.given.run import embed_array

        return embed_array(image, boxes, mpp, self)


def load_model(
    name: str | Path | None = None,
    device: str = "auto",
    *,
    precision: Precision = "auto",
    threshold: float | None = None,
    batch_size: int = 4,
    orientations: int = 1,
    boxes: bool = False,
) -> Model:
    """Load a model.

    Args:
        name: one that ``celldetr models`` lists, a checkpoint's folder or a training run's; None: the default model.
        device: ``auto`` (CUDA, then Apple's MPS, then the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``32``, ``bf16``, or ``auto`` (bf16 on CUDA and CPUs that multiply it natively).
        threshold: least score of a cell that is reported; None: the one chosen on the model's validation data.
        batch_size: tiles that go through the network together.
        orientations: 1, 2, 4 or 8: so many flips and turns of each tile are looked at and averaged, at as many times
            the cost.
        boxes: leave outlines out, as with a model that draws none: the geometry of a cell is its box.

    Raises:
        InputError: no such model or device, a broken checkpoint, a threshold outside [0, 1], no tile in a batch,
            another number of orientations.

    Returns:
        the model, which finds cells in arrays and slides.

    Examples:
        >>> import celldetr
        >>> celldetr.load_model("small-20x", device="cpu", threshold=0.4).threshold
        0.4
    """
    chosen = {
        "model": None if name is None else str(name),
        "device": device,
        "threshold": threshold,
        "precision": precision,
        "batch_size": batch_size,
        "orientations": orientations,
        "boxes": boxes,
    }
    return Model.load(parse(InferenceOptions, chosen, "load_model"))


def predict_slide(
    path: Path | str,
    out: Path | str,
    *,
    model: Model | str | Path | None = None,
    mpp: float | None = None,
    options: PredictOptions | None = None,
    formats: Sequence[str] = (),
    head: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[SlideProgress], None] | None = None,
) -> RunSummary:
    """Find every cell of a slide and write ``out/<slide>/``: the table, its provenance, a picture and a summary.

    Args:
        path: what OpenSlide reads, or a TIFF, PNG or JPEG.
        out: folder in which a folder of the slide's name is made.
        model: a loaded model, or what ``load_model`` takes.
        mpp: micrometres per pixel of the slide's level 0, instead of what the file says.
        options: tile, overlap, region, roi and the like; ``mpp`` wins over ``options.mpp``.
        formats: also write these: ``geojson``, ``anndata``, ``csv``.
        head: folder of a head that was taught (docs/how-to/teach.md) and types the cells, too, in columns of its own.
        resume: continue an interrupted run, or accept a finished one.
        overwrite: replace an earlier result.
        progress: told how far the run is.

    Returns:
        counts, area and where everything is.

    Raises:
        InputError: anything wrong with the slide, the options or the output; one line says what to do.

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 200, 200))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", options=options, formats=["csv"])
        >>> sorted(path.name for path in run.directory.iterdir())
        ['cells.csv', 'cells.parquet', 'overview.png', 'run.json', 'summary.html']
    """
    settings = options or PredictOptions()
    if mpp is not None:
        settings = settings.model_copy(update={"mpp": mpp})
    loaded = load_model(model) if model is None or isinstance(model, str | Path) else model
    return predict.predict_slide(
        path, out, loaded, settings, formats=formats, head=head, resume=resume, overwrite=overwrite, progress=progress
    )
