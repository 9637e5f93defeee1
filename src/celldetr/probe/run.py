"""Probe of frozen embeddings: cells are read, embedded by each method, measured row by row, and reported.

In OUT: ``probe.json`` (the record of the run), ``embeddings/`` (vectors, safetensors), ``rows/`` (counts),
``finetuned/`` (training runs) and the report. Vectors, rows and fine-tuned networks are steps of the run: those whose
method has not changed are kept by ``resume``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
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
from celldetr.probe.classify import Features
from celldetr.probe.encoder import find_encoder
from celldetr.probe.finetuning import FILES, Finetuning, check_recipes, with_finetuning
from celldetr.probe.methods import Embed, Method, methods
from celldetr.probe.report import REPORT_FILES, Context, write_report
from celldetr.probe.row import MethodRow, measure, read_row, write_row
from celldetr.probe.summary import RowNumbers, summarise
from celldetr.probe.truth import Truth, read_splits
from celldetr.training.loop import Listener

LAYOUT = Layout(
    "probe.json",
    outputs=(*REPORT_FILES, "rows/*.json", "rows/", "embeddings/*.safetensors", "embeddings/", *FILES),
    noun="probe",
)
RowProgress = Callable[[int, int, str], object]
"""Called with images embedded, all images, and the row."""
Advance = Callable[[int], None]
"""Called with the number of further images that are embedded."""


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
    seeds = options.seeds
    encoder = find_encoder(options.encoder, options.weights) if options.encoder else None
    chosen = methods(model, options.against, device, seeds, encoder)
    card = find_card(dataset, options.mpp)
    train, test = read_splits(card, options.train_split, options.test_split, options.train_images, types=options.types)
    context = Context(
        dataset=card.name,
        train_split=options.train_split,
        test_split=options.test_split,
        type_names=train.samples[0].type_names,
        train=train,
        test=test,
        seeds=seeds,
        device=str(pick_device(device)),
        derived_boxes=any(sample.derived_boxes for sample in test.samples),
        learned={m.name: str(overlap(m.training_data, card.name, options.test_split, test.samples)) for m in chosen},
    )
    tuning = None
    if options.finetune:
        kept = {name: name if name in context.type_names else "" for name in card.type_names}
        source = DataSource(card=dataset, split=options.train_split, mpp=options.mpp, types=kept)
        tuning = Finetuning(options.finetune, source, context.type_names, seeds, device, listen)
        check_recipes(tuning, chosen)
    total = (len(train.samples) + len(test.samples)) * sum(seeds if method.seeded else 1 for method in chosen)
    done, rows = 0, list[MethodRow]()

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done, total, chosen[len(rows)].name)

    folder = RunFolder(out, LAYOUT, context.settings())
    with folder.open(resume=resume, overwrite=overwrite):
        folder.begin()
        for method in chosen:
            row = _row(method, context, folder, advance)
            rows.append(with_finetuning(row, method, tuning, test, folder) if tuning else row)
        numbers = summarise(rows)
        vectors = out / _vectors_file(chosen[0], 0, "test")
        write_report(out, numbers, context, load_file(vectors)["features"] if vectors.is_file() else None)
        folder.finish()
    return numbers, context


def _row(method: Method, context: Context, folder: RunFolder, advance: Advance) -> MethodRow:
    """A row on record, or measured now."""
    name = f"rows/{method.file_name}.json"
    path = folder.path / name
    step = folder.step(f"row {method.file_name}", {"identity": method.identity}, (name,))
    train, test = context.train, context.test
    seeds = context.seeds if method.seeded else 1
    if step.is_done:
        advance(seeds * (len(train.samples) + len(test.samples)))
        return read_row(path)
    features, seconds = [], 0.0
    for seed in range(seeds):
        pair, took = _embed_splits(method, seed, context, folder, advance)
        features.append(pair)
        seconds += took / seeds
    cells = len(train.types), len(test.types)
    with step:
        row = MethodRow(
            name=method.name,
            title=method.title,
            identity=method.identity,
            dim=features[0][0].shape[1],
            ms_per_cell=1000 * seconds / sum(cells),
            cells=cells,
            **measure(features, train, test, len(context.type_names), context.seeds),
        )
        path.parent.mkdir(exist_ok=True)
        write_row(path, row)
    return row


def _vectors_file(method: Method, seed: int, split: str) -> str:
    suffix = f"-{seed}" if method.seeded else ""
    return f"embeddings/{method.file_name}{suffix}-{split}.safetensors"


def _embed_splits(
    method: Method, seed: int, context: Context, folder: RunFolder, advance: Advance
) -> tuple[tuple[Features, Features], float]:
    """Vectors of both splits, from their files, or computed and put there; and the seconds that embedding took."""

    @cache
    def embedder() -> Embed:
        embed = method.build(seed)
        embed(rescale(context.train.samples[0], method.mpp))  # not timed: kernels are compiled, caches filled
        return embed

    vectors, total = [], 0.0
    for split, truth in (("train", context.train), ("test", context.test)):
        name = _vectors_file(method, seed, split)
        path = folder.path / name
        step = folder.step(name, {"identity": method.identity}, (name,))
        if step.is_done:
            features = load_file(path)["features"]
            advance(len(truth.samples))
        else:
            with step as facts:
                features, facts["seconds"] = embed_all(embedder(), method.mpp, truth, advance)
                path.parent.mkdir(exist_ok=True)
                with replacing(path) as temporary:
                    save_file({"features": features}, temporary)
        vectors.append(features)
        total += step.facts["seconds"]
    return (vectors[0], vectors[1]), total


def embed_all(embed: Embed, mpp: float, truth: Truth, advance: Advance) -> tuple[Features, float]:
    """Embed all cells of a split on one thread; also the processor time of embedding alone, in seconds.

    Time is the process's own on whatever it runs, so that other programs do not count; work on a GPU is not in it.

    Args:
        embed: the method.
        mpp: of the images it sees; resampling to it is not timed.
        truth: the cells.
        advance: called after each image.
    """
    parts, seconds = [], 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for sample in truth.samples:
                image = rescale(sample, mpp)
                start = time.process_time()
                parts.append(embed(image))
                seconds += time.process_time() - start
                advance(1)
    finally:
        torch.set_num_threads(threads)
    features = np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
    if not np.isfinite(features).all():
        raise InputError("an embedding holds numbers that are not finite; the weights are broken")
    return features, seconds
