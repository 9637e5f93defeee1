"""Write docs/models/NAME.md of each model in the package, from its card and its metrics. Run by ``make docs-cards``.

Numbers come from ``card.json`` and from the files that ``celldetr evaluate`` left in ``benchmarks/results/NAME``. What
is known to fail is written by hand, below ``BY_HAND``, and stays when a page is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celldetr.data.card import CARDS, load_card
from celldetr.io.safe_io import yaml_names
from celldetr.model.checkpoint import Card, read_card
from celldetr.model.hub import DEFAULT_MODEL, PACKAGED

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "models"
BY_HAND = "<!-- Below this line the page is written by hand, above it by make docs-cards. -->"
MASKS = {"bpq": "PQ of nuclei", "dq": "DQ", "sq": "SQ", "aji": "AJI", "dice": "Dice"}
INTENDED = """## Intended use

Research on H&E slides: finding, counting, typing and comparing nuclei, with results that somebody looks at. Each run
says where its slide is unlike what the model has learned (`familiarity`, and the warnings of `summary.html`). Where
stain, scanner, organ or types differ from those below, measure it on [labels of your own](../how-to/finetune.md) first.

**Not a medical device.** It was neither made nor tested for diagnosis, nor for decisions about a patient. It is not for
other stains than H&E, for cytology, or for fluorescence."""


def pages() -> dict[Path, str]:
    """The page of each model in the package, with what is written by hand in it."""
    return {FOLDER / f"{folder.name}.md": page(folder) for folder in sorted(PACKAGED.iterdir()) if folder.is_dir()}


def page(folder: Path) -> str:
    """The page of one model."""
    card, path = read_card(folder), FOLDER / f"{folder.name}.md"
    kept = path.read_text(encoding="utf-8").partition(BY_HAND)[2] if path.is_file() else ""
    sections = [
        "\n".join(facts(card)),
        INTENDED,
        "## Metrics\n\n" + "\n".join(metrics(card)),
        "## Training data\n\n" + "\n".join(training_data(card)),
    ]
    return "\n\n".join(sections) + f"\n\n{BY_HAND}{kept or chr(10)}"


def facts(card: Card) -> Iterator[str]:
    """What the model is."""
    config = card.config
    default = ", the default" if card.name == DEFAULT_MODEL else ""
    yield f"# Model: {card.name}\n"
    yield f"Weights in the package{default}: `celldetr predict SLIDE --model {card.name}`,"
    yield f'`celldetr.load_model("{card.name}")`.\n'
    yield from ("| | |", "|---|---|")
    yield f"| types | {', '.join(config.types)} |"
    yield f"| works at | {config.mpp:g} µm per pixel; other slides are resampled to it |"
    yield f"| embedding | {config.embedding_dim} numbers a cell |"
    yield f"| draws | {'outlines' if config.outlines else 'boxes'} |"
    yield f"| threshold | {card.threshold:.3f} ([how it was chosen](#threshold)) |"
    yield f"| network | {config.backbone}, d {config.d_model}; [method](../concepts/method.md) |"
    yield f"| licence | {card.licence} |"
    yield f"| made | {card.created[:10]} with celldetr {card.package_version} |"
    yield f"| SHA-256 of the weights | `{card.sha256}` |"


def metrics(card: Card) -> Iterator[str]:
    """Rows of every evaluation that was kept, and of validation."""
    reports = sorted((ROOT / "benchmarks" / "results" / card.name).glob("*.json"))
    found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in reports]
    found = [(path, report) for path, report in found if "intervals_95" in report]
    if found:
        yield "With 95 % intervals over images or patients ([what is counted](../concepts/evaluation.md)):\n"
    for path, report in found:
        yield from evaluated(path, report)
    validation = card.metrics.get("validation", {})
    if validation:
        numbers = {key: value for key, value in validation.items() if isinstance(value, float) and key.startswith("f1")}
        yield "On the validation images, on which the weights were chosen, so that these are too good:\n"
        yield from ("| metric | |", "|---|---|")
        yield from (f"| `{name}` | {value:.3f} |" for name, value in numbers.items())


def evaluated(path: Path, report: dict[str, Any]) -> Iterator[str]:
    """The table of one metrics.json."""
    context, log = report["context"], path.with_suffix(".txt")
    link = f"../../{(log if log.is_file() else path).relative_to(ROOT).as_posix()}"
    yield f"**{title(context['dataset'])}, {context['split']}**: {report['n_images']} images,"
    yield f"{report['n_cells']:,} cells, pairs within {report['radius_um']:g} µm ([log]({link})).\n"
    yield from ("| | precision | recall | F1 | F1 class by class |", "|---|---|---|---|---|")
    intervals = report["intervals_95"]["metrics"]
    yield row("detection", report["detection"], "detection", intervals)
    for name, values in report["types"].items():
        if values["recall"] is not None:  # of types that the labels have
            yield row(name, values, f"types.{name}", intervals)
    means = {"f1": report["mean_type_f1"], "f1_classwise": report["mean_type_f1_classwise"]}
    of_means = {"mean.f1": intervals.get("mean_type_f1"), "mean.f1_classwise": intervals.get("mean_type_f1_classwise")}
    if report["mean_type_f1"] is not None:
        yield row("mean of types", means, "mean", of_means)
    masks = report.get("masks") or {}
    if masks.get("bpq") is not None:
        yield f"\nOutlines against masks: {', '.join(f'{masks[k]:.3f} {name}' for k, name in MASKS.items())};"
        yield f"median IoU of pairs {report['median_mask_iou']:.3f}."
    yield ""


def row(name: str, values: dict[str, Any], key: str, intervals: dict[str, Any]) -> str:
    """A line of the table; empty where there is no such number."""
    cells = [
        number(values.get(each), intervals.get(f"{key}.{each}"))
        for each in ("precision", "recall", "f1", "f1_classwise")
    ]
    return f"| {name} | {' | '.join(cells)} |"


def number(value: float | None, interval: list[float] | None) -> str:
    """A number with its interval."""
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval and None not in interval else "")


def title(dataset: str) -> str:
    """What a data set is called."""
    return load_card(dataset).title if dataset in yaml_names(CARDS) else dataset


def training_data(card: Card) -> Iterator[str]:
    """The sources, whose licences ask for credit; what several legs of a training have used, once."""
    yield from ("| data | images | patients | licence | credit |", "|---|---|---|---|---|")
    yield from dict.fromkeys(_source(source) for source in card.training_data)


def _source(source: dict[str, Any]) -> str:
    patients = len(source.get("patients", ())) or ""
    named = f"{title(source['name'])} (`{source['name']}`, {source['split']})"
    return f"| {named} | {len(source.get('images', ()))} | {patients} | {source['licence']} | {source['citation']} |"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
