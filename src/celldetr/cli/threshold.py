"""``celldetr threshold``: the score threshold that suits a model on own tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.options import Dataset, Overwrite, Quiet, check_file
from celldetr.cli.progress import Progress
from celldetr.config import InferenceOptions, ThresholdOptions


@with_settings
def threshold(
    *,
    dataset: Dataset,
    options: Annotated[ThresholdOptions, Fields("split", "protocols=--protocol", "mpp")],
    inference: Annotated[InferenceOptions, Fields("model=--model,-m", "device", "precision", "orientations")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="F1 over the threshold: .png, .svg or .pdf; none without.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Choose the threshold that suits a model on your tissue.

    On images in which every nucleus is labelled, as training does it: the middle of the broad top of detection F1, the
    mean under two rules of pairing, or under those of --protocol. Types are not looked at. Pass what is printed as
    --threshold of predict and evaluate; images that it was chosen on say nothing about how good the model is.
    """
    from celldetr.evaluation.evaluate import choose_threshold
    from celldetr.evaluation.format import show_threshold
    from celldetr.evaluation.plots import threshold_figure
    from celldetr.io.figures import check_ending, save_figure
    from celldetr.model.inference import TilePredictor

    if plot is not None:
        check_ending(plot)
        check_file(plot, overwrite, "threshold.png")
    model = TilePredictor.load(inference)
    with Progress("threshold", quiet) as progress:
        counter = progress.counter(f"{dataset}, {options.split}", "images")
        choice, own = choose_threshold(model, dataset, options, progress=counter)
    if plot is not None:
        save_figure(threshold_figure(choice), plot)
    for line in show_threshold(choice, model.threshold, own):
        typer.echo(line)
