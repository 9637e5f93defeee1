"""Many slides, in this process or on a cluster: the same slides, the same results."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from celldetr.cohort.request import Listener, Outcome, Request, one_line
from celldetr.errors import InputError
from celldetr.model.cpu_caches import limit_caches
from celldetr.slide.find import Slide

if TYPE_CHECKING:
    from celldetr.cohort.options import ClusterSettings


def predict_slides(
    slides: Sequence[Slide],
    request: Request,
    cluster: str | ClusterSettings | None = None,
    listener: Listener | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> Iterator[Outcome]:
    """Predict slides; each gives its outcome when it is done. One that fails does not stop the others.

    Args:
        slides: from ``find_slides``.
        request: for each of them.
        cluster: from ``read_cluster``; None: in this process, one after the other, in their order.
        listener: called with how far each slide is.
        note: called with what is waited for.

    Raises:
        InputError: the model cannot be loaded; no scheduler answers, or it is lost.
    """
    limit_caches()  # before PyTorch is loaded, which reads one of the two bounds then
    if cluster is None:
        yield from _predict_here(slides, request, listener)
        return
    from celldetr.cohort.coordinator import Coordinator
    from celldetr.cohort.schedulers import connect
    from celldetr.model.hub import PACKAGED, find_model

    folder = find_model(request.model.model)  # a missing model is one error, not one a slide
    # Workers have other current directories, and other variables; their package has its own models.
    name = request.model.model if folder.parent == PACKAGED else str(folder.resolve())
    everywhere = replace(request, out=request.out.resolve(), model=request.model.model_copy(update={"model": name}))
    originals = {slide.path.absolute(): slide for slide in slides}  # a link keeps its name
    with connect(cluster, request.model.device) as client:
        workers = len(client.nthreads())
        waiting = "" if workers else ", waiting for the first"
        note(f"scheduler {client.scheduler_info(n_workers=0)['address']}, {workers} workers{waiting}")
        absolute = [replace(slide, path=path) for path, slide in originals.items()]
        for outcome in Coordinator(client, everywhere, listener).run(absolute):
            yield replace(outcome, slide=originals[outcome.slide.path])


def _predict_here(slides: Sequence[Slide], request: Request, listener: Listener | None) -> Iterator[Outcome]:
    from celldetr.cohort.predict import predict_requested
    from celldetr.model.inference import TilePredictor

    model = TilePredictor.load(request.model)
    for slide in slides:
        try:
            progress = None if listener is None else partial(listener, slide)
            yield Outcome(slide, predict_requested(slide, request, model, progress))
        except InputError as error:
            yield Outcome(slide, None, one_line(error))
        except Exception as error:  # a mistake of ours on one among many
            if len(slides) == 1:
                raise
            traceback.print_exc()
            yield Outcome(slide, None, one_line(error))
