"""What celldetr sees in files before it works on them: labels as training reads them, slides as prediction, sections of
spatial transcriptomics as ``celldetr spatial``. Readers and checks are those of these commands; there are no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from celldetr.io.safe_io import is_dir
from celldetr.model.output import TileModel
from celldetr.slide.find import LISTS, Slide, find_slides, slides_below
from celldetr.slide.ome_zarr import is_store
from celldetr.slide.reader import IMAGES, SLIDES, UNREADABLE
from celldetr.spatial.readers import is_section
from celldetr.survey.finding import Finding
from celldetr.survey.labels import look_at_labels
from celldetr.survey.sections import look_at_section
from celldetr.survey.slides import look_at_slide

EXAMPLES = 5  # of other files
PICTURES = {".tif", ".tiff"}  # slides, or pictures of labels where there are labels


def survey(path: Path, mpp: float | None, model: Callable[[], TileModel], *, pictures: bool = False) -> list[Finding]:
    """Look at a path: a slide, a section, labels, a list of slides, or a folder of any of these.

    Args:
        path: it.
        mpp: micrometres per pixel, instead of what files say.
        model: loads what finds the nuclei of slides; called if there is a slide.
        pictures: whether to make pictures of slides.
    """
    suffix = path.suffix.lower()
    if is_section(path):
        return [look_at_section(path)]
    if is_store(path) or (suffix in SLIDES | IMAGES | UNREADABLE.keys() and not is_dir(path)):
        return [look_at_slide(path, mpp, model, pictures=pictures)]
    labels = look_at_labels(path, mpp)
    if not is_dir(path) and (suffix not in LISTS or not labels.refusal):
        return [labels]
    has_labels = not labels.refusal or (is_dir(path) and "no labels" not in labels.refusal)
    sections = [each for each in sorted(path.iterdir()) if is_section(each)] if is_dir(path) else []
    folder, slides = _slides(path, nothing=has_labels or bool(sections))
    if has_labels:
        slides = [slide for slide in slides if slide.path.suffix.lower() not in PICTURES | IMAGES]
    slides = [slide for slide in slides if not any(section in slide.path.parents for section in sections)]
    findings = [labels] if has_labels else []
    findings += [look_at_section(section) for section in sections]
    findings += [look_at_slide(slide.path, mpp or slide.mpp, model, pictures=pictures) for slide in slides]
    if is_dir(path) and len(findings) == 1 and has_labels and not folder.is_doubtful:
        return findings
    counts = {"labels": int(has_labels), "sections": len(sections), "slides": len(slides)}
    folder.facts = {name: f"{count:,}" for name, count in counts.items() if count} | _others(path)
    return [folder, *findings]


def _slides(path: Path, *, nothing: bool) -> tuple[Finding, list[Slide]]:
    """The slides of a folder or list, and what is said of it; that there is none is no fault where ``nothing`` is."""
    folder, slides = Finding(path, "folder" if is_dir(path) else "list of slides"), []
    with folder.noting():
        if not (nothing and is_dir(path) and not list(slides_below(path))):
            slides = find_slides([path])
    return folder, slides


def _others(folder: Path) -> dict[str, str]:
    """Files of a folder that are neither slide nor picture nor labels, by their endings."""
    if not is_dir(folder):
        return {}
    known = SLIDES | IMAGES | UNREADABLE.keys() | {".geojson", ".json", ".csv", ".tsv", ".h5ad", ".yaml", ".yml"}
    files = [each for each in sorted(folder.iterdir()) if each.is_file() and not each.name.startswith(".")]
    others = [each for each in files if each.suffix.lower() not in known]
    if not others:
        return {}
    kinds = ", ".join(f"{count:,} {kind or 'without ending'}" for kind, count in
                      Counter(each.suffix.lower() for each in others).most_common(EXAMPLES))  # fmt: skip
    return {"other files": f"{len(others):,}, not looked at ({kinds})"}
