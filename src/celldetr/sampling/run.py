"""Sample a patch set from slides: candidate places in random order, quality filters, nuclei detected, shards written.

The set depends on slides, model, options and seed alone. Batches for the model never span two slides or two shards,
because the output of a network depends, in its last bits, on the batch; so a run resumed after a shard writes the bytes
of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from celldetr.data.patch_set import PatchSetInfo, Position, SlideInfo, read_info
from celldetr.data.patch_writer import LAYOUT, PICTURE, PatchWriter
from celldetr.data.sample import UNKNOWN
from celldetr.data.shards import Patch
from celldetr.errors import InputError
from celldetr.io.run_folder import RunFolder
from celldetr.sampling.nuclei import Cut, NucleusSource, SlideNuclei
from celldetr.sampling.options import SampleOptions
from celldetr.sampling.places import Places, find_places
from celldetr.sampling.quality import glass_density, pen_share
from celldetr.sampling.report import write_picture
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamageError
from celldetr.slide.find import Slide
from celldetr.slide.focus import sharpness
from celldetr.slide.pipeline import ahead, usable_threads
from celldetr.slide.reader import open_slide

BATCH = 8  # patches that a model sees together
EMPTY, DAMAGED, BLURRED, PEN, FEW = "little tissue", "damaged", "blurred", "pen", "few nuclei"


@dataclass(frozen=True)
class SamplingProgress:
    """How far a run is.

    Attributes:
        slide: being sampled.
        done: slides that are finished, and the share of this one.
        slides: in all.
        patches, nuclei: in the set so far.
    """

    slide: str
    done: float
    slides: int
    patches: int
    nuclei: int


def sample_slides(
    slides: Sequence[Slide],
    out: Path,
    nuclei: NucleusSource,
    options: SampleOptions | None = None,
    *,
    mpp: float | None = None,
    patch_mpp: float = 0.5,
    licence: str = "unknown",
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[SamplingProgress], None] | None = None,
) -> PatchSetInfo:
    """Cut patches from slides and write a patch set, with a picture of some of them (``set.png``).

    Args:
        slides: which; a slide's own mpp wins.
        out: folder of the set.
        nuclei: source of the nuclei of patches.
        options: which patches.
        mpp: micrometres per pixel of level 0 of all slides, instead of what the files say.
        patch_mpp: micrometres per pixel of the patches.
        licence: of the slides; recorded in the set.
        resume: continue an interrupted run, or accept a finished one; where there is none, begin.
        overwrite: replace a set.
        progress: called after every batch.

    Returns:
        Content of ``set.json``. A slide that could not be opened is in it with the reason, if there are others.

    Raises:
        InputError: there is a set already, or one of other settings than is to be resumed; the folder is in use; the
            disk is full; the only slide, or all of them, cannot be used; a slide cannot be read any more.
    """
    options = options or SampleOptions()
    if nuclei.mpp is not None and nuclei.mpp != patch_mpp:
        raise InputError(f"patch mpp {patch_mpp:g}: the model finds nuclei at {nuclei.mpp:g} um per pixel only")
    made_with: dict[str, Any] = {
        "version": version("celldetr"),
        "options": options.model_dump(mode="json"),
        "mpp": patch_mpp,
        "nuclei": nuclei.describe(),
        "slides": [[slide.path.name, slide.mpp or mpp] for slide in slides],
        "licence": licence,
    }
    folder = RunFolder(out, LAYOUT, {"made_with": made_with})
    with folder.open(resume=resume, overwrite=overwrite):
        if folder.record:
            info = read_info(out)
        else:
            info = PatchSetInfo.begin(
                mpp=patch_mpp,
                px=options.px,
                encoding=options.encoding,
                validation=options.validation,
                licence=licence,
                made_with=made_with,
            )
        if not folder.is_finished:
            with PatchWriter(out, info, options.shard) as writer:
                info = _Run(slides, nuclei, options, mpp, writer, progress).sample()
        if not (out / PICTURE).is_file():
            write_picture(out)
        return info


class _Run:
    """One session of sampling a set."""

    def __init__(
        self,
        slides: Sequence[Slide],
        nuclei: NucleusSource,
        options: SampleOptions,
        mpp: float | None,
        writer: PatchWriter,
        progress: Callable[[SamplingProgress], None] | None,
    ) -> None:
        self._slides, self._nuclei, self._options, self._mpp = slides, nuclei, options, mpp
        self._writer, self._progress = writer, progress
        self._counts = [slide.model_copy(deep=True) for slide in writer.info.slides]

    def sample(self) -> PatchSetInfo:
        start = self._writer.info.next or Position(slide=0, place=0)
        for index in range(start.slide, len(self._slides)):
            self._sample_slide(index, start.place if index == start.slide else 0)
        failed = [counts for counts in self._counts if counts.failed]
        if len(failed) == len(self._slides):
            raise InputError(f"none of {len(failed)} slides can be used; the first: {failed[0].failed}")
        self._close_shard(None)
        return self._writer.info

    def _close_shard(self, position: Position | None) -> None:
        for counts in self._counts:
            counts.left_out = dict(sorted(counts.left_out.items()))
        self._writer.close_shard(self._counts, position)

    def _sample_slide(self, index: int, first: int) -> None:
        """Sample a slide from its place ``first`` on."""
        slide = self._slides[index]
        if index == len(self._counts):  # else begun by an earlier session
            self._counts.append(SlideInfo(name=slide.name, file=slide.path.name))
        counts = self._counts[index]
        with ExitStack() as stack:
            try:
                reader = stack.enter_context(open_slide(slide.path, slide.mpp or self._mpp))
                nuclei = self._nuclei.of_slide(reader)
                places = self._places(reader, nuclei)
            except InputError as error:
                if len(self._slides) == 1 or counts.patches:
                    raise
                counts.failed = str(error)
                return
            counts.places = len(places.corners) + places.empty
            if places.empty:
                counts.left_out[EMPTY] = places.empty
            patches = _PlaceReader(reader, places, self._nuclei.margin, self._writer.info.mpp, self._options)
            self._take_patches(index, first, counts, patches, nuclei)
        self._report(index, 1.0, counts)

    def _places(self, reader: SlideReader, nuclei: SlideNuclei) -> Places:
        options, mpp = self._options, self._writer.info.mpp
        places = find_places(reader, options.px, mpp, options.min_tissue, options.seed, nuclei.regions)
        if not places.grid:
            size = f"{reader.width} x {reader.height} px"
            side = f"{options.px * places.step[0]:.0f} x {options.px * places.step[1]:.0f} px there"
            raise InputError(f"{reader.file}: {size}, smaller than a patch, which is {side}; choose a smaller `px`")
        return places

    def _take_patches(
        self, index: int, first: int, counts: SlideInfo, patches: _PlaceReader, nuclei: SlideNuclei
    ) -> None:
        """Take patches of one slide from its place ``first`` on, until there are enough or no places are left."""
        end, threads, wanted = len(patches.places.corners), usable_threads(), self._options.per_slide
        if counts.patches >= wanted:
            return
        waiting: list[Cut] = []
        with closing(ahead(patches, range(first, end), 2 * BATCH + threads, threads)) as cuts:
            for place, cut in enumerate(cuts, first):
                counts.looked_at += 1
                if isinstance(cut, str):
                    _leave_out(counts, cut)
                else:
                    waiting.append(cut)
                batch = min(BATCH, wanted - counts.patches, self._writer.room)
                if len(waiting) < batch and place + 1 < end:
                    continue
                self._write(counts, waiting, nuclei)
                waiting = []
                if not self._writer.room:
                    self._close_shard(Position(slide=index, place=place + 1))
                self._report(index, max((place + 1) / end, counts.patches / wanted), counts)
                if counts.patches == wanted:
                    return

    def _write(self, counts: SlideInfo, cuts: Sequence[Cut], nuclei: SlideNuclei) -> None:
        """Find the nuclei of patches and write those with enough of them."""
        for cut, (boxes, scores) in zip(cuts, nuclei.find(cuts) if cuts else (), strict=True):
            if len(boxes) < self._options.min_nuclei:
                _leave_out(counts, FEW)
                continue
            unknown = np.full(len(boxes), UNKNOWN, dtype=np.int16)
            self._writer.add(Patch(counts.name, cut.x, cut.y, cut.mpp, cut.image, boxes, scores, unknown))
            counts.patches += 1
            counts.nuclei += len(boxes)

    def _report(self, index: int, share: float, counts: SlideInfo) -> None:
        if self._progress is not None:
            patches = sum(each.patches for each in self._counts)
            nuclei = sum(each.nuclei for each in self._counts)
            self._progress(SamplingProgress(counts.name, index + share, len(self._slides), patches, nuclei))


def _leave_out(counts: SlideInfo, reason: str) -> None:
    counts.left_out[reason] = counts.left_out.get(reason, 0) + 1


class _PlaceReader:
    """Reads the patch at a place of a slide, with its margin, or says why it is left out. Thread-safe."""

    def __init__(self, reader: SlideReader, places: Places, margin: int, mpp: float, options: SampleOptions) -> None:
        self.places = places
        self._reader, self._margin, self._mpp, self._options = reader, margin, mpp, options
        self._glass = glass_density(reader)

    def __call__(self, place: int) -> Cut | str:
        (x, y), step = self.places.corners[place].tolist(), self.places.step
        side = self._options.px + 2 * self._margin
        corner = (x - self._margin * step[0], y - self._margin * step[1])
        try:
            pixels = self._reader.read_region(*corner, side * step[0], side * step[1], side, side)
        except DamageError:
            return DAMAGED
        cut = Cut(x, y, step, self._mpp, pixels, self._margin)
        if pen_share(cut.image, self._mpp, self._glass) > self._options.max_pen:
            return PEN  # before blur: a pen lies above the tissue, and is blurred
        if sharpness(cut.image, self._mpp) < self._options.min_sharpness:
            return BLURRED
        return cut
