"""Probe of frozen embeddings: cells are read, embedded by each method, measured row by row, and reported.

In OUT: ``probe.json`` (the record of the run), ``embeddings/`` (vectors, safetensors), ``rows/`` (counts),
``finetuned/`` (training runs) and the report. Vectors, rows and fine-tuned networks are steps of the run: those whose
method has not changed are kept by ``resume``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from celldetr.config import DataSource, ProbeOptions
from celldetr.data.autocard import find_card
from celldetr.data.overlap import overlap
from celldetr.data.sources import rescale
from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.model.device import pick_device
from celldetr.probe.finetuning import FILES, Finetuning, check_recipes, with_finetuning
from celldetr.probe.methods import Embed, Method, methods
from celldetr.probe.report import REPORT_FILES, Context, write_report
from celldetr.probe.row import Row, measure, read_row, write_row
from celldetr.probe.summary import RowNumbers, summarise
from celldetr.probe.truth import Truth, read_splits
from celldetr.training.loop import Listener

LAYOUT = Layout(
    "probe.json",
    outputs=(*REPORT_FILES, "rows/*.json", "rows/", "embeddings/*.safetensors", "embeddings/", *FILES),
    noun="probe",
)
PARTS = ("train", "test")
RowProgress = Callable[[int, int, str], object]
"""Called with images embedded, all images, and the row."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of the cells of a split, and the seconds that embedding took."""

    features: NDArray[np.float32]
    seconds: float


def probe(
    model: str,
    dataset: str,
    out: Path,
    options: ProbeOptions | None = None,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    progress: RowProgress | None = None,
    listen: Callable[[str], Listener] | None = None,
) -> tuple[list[RowNumbers], Context]:
    """Measure a model's embeddings at true boxes, beside others.

    Args:
        model: name or folder of a checkpoint; ``$seed`` in it stands for 0 to ``seeds`` - 1.
        dataset: name or path of a card, or a folder of labels.
        out: folder for everything.
        options: splits, rows to compare with (``methods``) and the like.
        device: where networks run.
        resume: keep rows and vectors that are in ``out``, if they were measured on the same cells.
        overwrite: begin anew in a folder that is not empty.
        progress: called with the images embedded, of all, and the row.
        listen: name of a fine-tuning -> listener to its training.

    Returns:
        the numbers of the rows, the model's first, and what they were measured on.

    Raises:
        InputError: wrong data, models or settings, or ``out`` holds something else.
    """
    options = options or ProbeOptions()
    train_split, test_split, seeds = options.train_split, options.test_split, options.seeds
    chosen = methods(model, options.against, device, seeds)
    card = find_card(dataset, options.mpp)
    train, test = read_splits(card, train_split, test_split, options.train_images, types=options.types)
    context = Context(
        dataset=card.name,
        train_split=train_split,
        test_split=test_split,
        type_names=train.samples[0].type_names,
        train=train,
        test=test,
        seeds=seeds,
        device=str(pick_device(device)),
        derived_boxes=any(sample.derived_boxes for sample in test.samples),
        learned={m.name: str(overlap(m.training_data, card.name, test_split, test.samples)) for m in chosen},
    )
    kept = {name: name if name in context.type_names else "" for name in card.type_names}
    source = DataSource(card=dataset, split=train_split, mpp=options.mpp, types=kept)
    tuning = None
    if options.finetune:
        tuning = Finetuning(options.finetune, source, context.type_names, seeds, device, listen)
        check_recipes(tuning, chosen)
    images = len(train.samples) + len(test.samples)
    total = images * sum(seeds if method.seeded else 1 for method in chosen)
    folder = RunFolder(out, LAYOUT, context.settings())
    with folder.open(resume=resume, overwrite=overwrite):
        folder.begin()
        done, rows = 0, []
        for method in chosen:

            def report(step: int, name: str = method.name) -> None:
                if progress:
                    progress(min(done + step, total), total, name)  # noqa: B023 - called before done changes

            row = _row(method, context, folder, report)
            rows.append(with_finetuning(row, method, tuning, context.test, folder) if tuning else row)
            done += images * (seeds if method.seeded else 1)
        numbers = summarise(rows)
        write_report(out, numbers, context, vectors=lambda name: _first_vectors(out, chosen, name))
        folder.finish()
    return numbers, context


def _row(method: Method, context: Context, folder: RunFolder, report: Callable[[int], None]) -> Row:
    path = folder.path / "rows" / f"{method.file_name}.json"
    step = folder.step(f"row {method.file_name}", {"identity": method.identity}, (f"rows/{path.name}",))
    if step.is_done:
        return read_row(path)
    vectors = []
    for seed in range(context.seeds if method.seeded else 1):
        embedder: list[Embed] = []  # built once, and only if something is missing
        pair = []
        for part, truth in zip(PARTS, (context.train, context.test), strict=True):
            before = seed * (len(context.train.samples) + len(context.test.samples)) + (
                len(context.train.samples) if part == "test" else 0
            )
            pair.append(_vectors(folder, part, method, seed, truth, embedder, lambda i, b=before: report(b + i)))  # type: ignore[misc]
        vectors.append((pair[0], pair[1]))
    seconds = sum(part.seconds for pair in vectors for part in pair) / len(vectors)
    cells = len(context.train.types), len(context.test.types)
    with step:
        row = Row(
            name=method.name,
            title=method.title,
            identity=method.identity,
            dim=vectors[0][0].features.shape[1],
            ms_per_cell=1000 * seconds / sum(cells),
            cells=cells,
            **measure(
                [(a.features, b.features) for a, b in vectors],
                context.train,
                context.test,
                len(context.type_names),
                context.seeds,
            ),
        )
        path.parent.mkdir(exist_ok=True)
        write_row(path, row)
    return row


def _place(method: Method, seed: int, part: str) -> str:
    suffix = f"-{seed}" if method.seeded else ""
    return f"embeddings/{method.file_name}{suffix}-{part}.safetensors"


def _first_vectors(out: Path, chosen: list[Method], name: str) -> NDArray[np.float32] | None:
    """Test vectors of a row, of its first seed, if they are still there."""
    method = next(method for method in chosen if method.name == name)
    path = out / _place(method, 0, "test")
    return load_file(path)["features"] if path.is_file() else None


def _vectors(
    folder: RunFolder,
    part: str,
    method: Method,
    seed: int,
    truth: Truth,
    embedder: list[Embed],
    report: Callable[[int], None],
) -> Vectors:
    """Vectors from the file, or computed and put there."""
    place = _place(method, seed, part)
    path = folder.path / place
    step = folder.step(place, {"identity": method.identity}, (place,))
    if step.is_done:
        report(len(truth.samples))
        return Vectors(load_file(path)["features"], step.facts["seconds"])
    with step as facts:
        if not embedder:
            embedder.append(method.build(seed))
            embedder[0](rescale(truth.samples[0], method.mpp))  # kernels are compiled, caches filled: nobody's cost
        vectors = embed_all(embedder[0], method.mpp, truth, report)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            save_file({"features": vectors.features}, temporary)
        facts["seconds"] = vectors.seconds
    return vectors


def embed_all(embed: Embed, mpp: float, truth: Truth, report: Callable[[int], None] | None = None) -> Vectors:
    """Embed all cells of a split, on one thread, with the processor time of embedding alone.

    Time is the process's own on whatever it runs, so that other programs do not count; work on a GPU is not in it.

    Args:
        embed: the method.
        mpp: of the images it sees; resampling to it is not timed.
        truth: the cells.
        report: called with the number of images that are done.
    """
    parts, seconds = [], 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for i, sample in enumerate(truth.samples):
                image = rescale(sample, mpp)
                start = time.process_time()
                parts.append(embed(image))
                seconds += time.process_time() - start
                if report:
                    report(i + 1)
    finally:
        torch.set_num_threads(threads)
    features = np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
    if not np.isfinite(features).all():
        raise InputError("an embedding holds numbers that are not finite; the weights are broken")
    return Vectors(features, seconds)
