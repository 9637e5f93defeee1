"""``celldetr threshold``: the score threshold that suits a model on own tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.options import Dataset, Device, ImageMpp, ModelName, Orientations, Overwrite, PrecisionName, Quiet
from celldetr.cli.progress import Progress


def threshold(
    dataset: Dataset,
    model: ModelName = None,
    split: Annotated[str, typer.Option(help="Which of the card's splits; of a folder of labels: all.")] = "val",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="Rules of pairing, see evaluate; of several, the mean of F1 counts.",
            show_default="within-radius and standard",
        ),
    ] = None,
    mpp: ImageMpp = None,
    plot: Annotated[Path | None, typer.Option(help="F1 over the threshold: .png, .svg or .pdf; none without.")] = None,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    orientations: Orientations = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Choose the threshold that suits a model on your tissue, on images in which every nucleus is labelled.

    As training does it: the middle of the broad top of detection F1, the mean under two rules of pairing, or under
    those of --protocol. Types are not looked at. Pass what is printed as --threshold of predict and evaluate; images
    that it was chosen on say nothing about how good the model is.
    """
    from celldetr.api import load_model
    from celldetr.evaluation.evaluate_model import choose_threshold
    from celldetr.evaluation.format import show_threshold
    from celldetr.evaluation.plots import threshold_figure
    from celldetr.evaluation.threshold import THRESHOLD_PROTOCOLS
    from celldetr.io.figures import check_ending, save_figure

    if plot is not None:
        check_ending(plot)
        checks.free(plot, overwrite, "threshold.png")
    views = checks.orientations(orientations)
    loaded = load_model(model, device, precision=checks.precision(precision), orientations=views)
    with Progress(quiet) as progress:
        counter = progress.counter(f"{dataset}, {split}", "images")
        choice, own = choose_threshold(
            loaded, dataset, split, protocols=tuple(protocol or THRESHOLD_PROTOCOLS), mpp=mpp, progress=counter
        )
    if plot is not None:
        save_figure(threshold_figure(choice), plot)
    for line in show_threshold(choice, loaded.threshold, own):
        typer.echo(line)
