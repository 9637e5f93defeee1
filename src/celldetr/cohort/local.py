"""Slides one after the other, in this process."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from functools import partial

from celldetr.cohort.request import Listener, Outcome, Request, one_line
from celldetr.errors import InputError
from celldetr.slide.find import Slide


def predict_local(slides: Sequence[Slide], request: Request, listener: Listener | None = None) -> Iterator[Outcome]:
    """Predict slides; each gives its outcome when it is done.

    A slide that fails does not stop the others, whatever the reason: of one among many a mistake of ours, too, is
    recorded (and its traceback printed).

    Raises:
        InputError: the model cannot be loaded.
    """
    from celldetr.cohort.predict import predict_slide
    from celldetr.model.inference import TilePredictor

    model = TilePredictor.load(request.model)
    for slide in slides:
        progress = None if listener is None else partial(listener, slide)
        try:
            summary = predict_slide(
                slide.path,
                request.out,
                model,
                request.options_of(slide),
                formats=request.formats,
                resume=request.resume,
                overwrite=request.overwrite,
                progress=progress,
            )
        except InputError as error:
            yield Outcome(slide, None, one_line(error))
        except Exception as error:
            if len(slides) == 1:
                raise
            traceback.print_exc()
            yield Outcome(slide, None, one_line(error))
        else:
            yield Outcome(slide, summary)
