"""Does a model know foreign tissue, and are slides warned of that should be, and no others?

CELLDETR_DATA=... python benchmarks/familiarity.py | tee benchmarks/results/familiarity.txt
CELLDETR_DATA=... python benchmarks/familiarity.py runs/mine --foreign consep-train:fit nuinsseg:val

Each image is taken for a slide of its own. AUROC is that of telling cells of foreign sets, which must not be in the
model's training, from those of ``FAMILIAR`` by their familiarity. "centres" compares statistics: Mahalanobis distance
to the nearest of so many k-means centres of training cells, with the covariance within clusters.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from celldetr.api import Model, load_model
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples
from celldetr.demo_slide import sample_slide
from celldetr.slide.doubts import FOREIGN, UNFAMILIAR
from celldetr.slide.reader import from_array, open_slide
from celldetr.slide.scale_trial import FACTORS, likelier, try_scales, windows

FAMILIAR, TRAINING, TEST = "brca-m2c:val", "brca-m2c:train", "brca-m2c:test"
UNSEEN = ("consep-train:fit", "monuseg-train:unseen", "nuinsseg:val", "nuinsseg:test")
CENTRES = (1, 8, 32, 128)
MOST = {"brca-m2c:val": 10, "brca-m2c:test": 30}  # images of a set, evenly chosen; of others:
IMAGES, SCALED = 6, 4
WSI = "wsi/TCGA-CR-7395-01A-01-TS1.svs"  # without mpp; its lymphocytes have 7 px, so it is near 1 um per pixel
PART = (1100, 900, 2200, 1800)  # of that


def images(name: str, most: int | None = None) -> list[Sample]:
    card, split = name.split(":")
    samples = load_samples(load_card(card), split)
    places = np.unique(np.linspace(0, len(samples) - 1, most or MOST.get(name, IMAGES)).round().astype(int))
    return [samples[int(place)] for place in places]


def tables(model: Model, name: str) -> list[Any]:
    return [model.predict(sample.image, sample.mpp) for sample in images(name)]


def auroc(familiar: NDArray[np.floating], foreign: NDArray[np.floating]) -> float:
    truth = np.repeat([0, 1], [len(familiar), len(foreign)])
    return float(roc_auc_score(truth, -np.concatenate([familiar, foreign])))


def said(table: Any) -> list[str]:
    return [text.split(":")[0] for text in table.attrs["celldetr"]["warnings"]]


def to_centres(training: NDArray[np.floating], count: int) -> Any:
    means = KMeans(count, n_init=1, random_state=0).fit(training)
    variances, turn = np.linalg.eigh(np.cov((training - means.cluster_centers_[means.labels_]).T))
    white = turn / np.sqrt(variances + 1e-3 * variances.mean())
    centres = means.cluster_centers_ @ white
    return lambda x: -np.min([np.linalg.norm(x @ white - centre, axis=1) for centre in centres], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="small-20x")
    parser.add_argument("--foreign", nargs="*", default=UNSEEN, metavar="CARD:SPLIT")
    options = parser.parse_args()
    model = load_model(options.model)
    names = [FAMILIAR, TEST, TRAINING, *options.foreign]
    print(f"{options.model}; unfamiliar: below {UNFAMILIAR:g}; warned of as foreign from a share of {FOREIGN:g} on")
    print("set                    images  cells  AUROC  unfamiliar  images warned of  of these foreign  all warnings")
    found: dict[str, list[Any]] = {}
    for name in names:
        found[name] = tables(model, name)
        values = [table["familiarity"].to_numpy() for table in found[name]]
        every, warned = np.concatenate(values), [said(table) for table in found[name]]
        familiar = np.concatenate([table["familiarity"].to_numpy() for table in found[FAMILIAR]])
        foreign = sum("foreign tissue" in texts for texts in warned)
        share, kinds = (every < UNFAMILIAR).mean(), dict(Counter(text for texts in warned for text in texts))
        print(
            f"{name:22s} {len(values):6d} {len(every):6d}  {auroc(familiar, every):5.3f}  {share:10.3f}"
            f"  {sum(map(bool, warned)):16d}  {foreign:16d}  {kinds}",
            flush=True,
        )
    embeddings = {
        name: np.concatenate([np.stack(table["embedding"]).astype(np.float32) for table in each if len(table)])
        for name, each in found.items()
    }
    print(f"\ncentres of {TRAINING}: AUROC against {FAMILIAR} of", *options.foreign)
    for count in CENTRES:
        far = to_centres(embeddings[TRAINING], count)
        near = far(embeddings[FAMILIAR])
        print(f"{count:7d}", *(f"{auroc(near, far(embeddings[name])):.3f}" for name in options.foreign), flush=True)

    print(
        "\nstated over true resolution: images of which another is called likelier, and how far that is from the truth"
    )
    for name in (TRAINING, *options.foreign[:1]):
        for stated in (0.5, 1.0, 2.0):
            calls = []
            for sample in images(name, SCALED):
                reader = from_array(sample.image, sample.mpp * stated)
                middle = np.array([[reader.width / 2, reader.height / 2]])
                best = likelier(try_scales(reader, model, windows(reader, middle)))
                if best is not None:
                    calls.append(best.mpp / sample.mpp)
            shown = " ".join(f"{count} x {ratio:.2g}" for ratio, count in sorted(Counter(calls).items()))
            print(f"{name:22s} {stated:4g}  {len(calls)} of {SCALED}: {shown}", flush=True)
    print(
        f"\nslides, tried at {', '.join(f'{factor:g}' for factor in FACTORS)} of the stated resolution where doubtful"
    )
    slides = [("the sample slide", sample_slide(), None, None)]
    wsi = load_card("brca-m2c").directory().parent / WSI
    slides += [(f"TCGA svs at {mpp:g}", wsi, mpp, PART) for mpp in (0.25, 0.5, 1.0) if wsi.is_file()]
    for name, path, mpp, part in slides:
        with open_slide(Path(path), mpp=mpp) as slide:
            table = model.predict(slide.read_level(0, *(part or (0, 0, slide.width, slide.height))), slide.mpp)
        print(f"{name}: {len(table):,} cells, {(table['familiarity'] < UNFAMILIAR).mean():.2f} unfamiliar")
        for text in table.attrs["celldetr"]["warnings"]:
            print(f"    {text}", flush=True)


if __name__ == "__main__":
    main()
