"""A section of spatial transcriptomics as ``celldetr spatial`` sees it: cells, polygons, images and alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shapely

from celldetr.errors import InputError, doubt
from celldetr.io.safe_io import is_dir
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import open_slide
from celldetr.spatial.affine import PIXEL_UM, check_affine, describe
from celldetr.spatial.qc import qc_cells, qc_summary, qc_warnings
from celldetr.spatial.readers import read_section
from celldetr.spatial.section import Section
from celldetr.survey.finding import Finding

IMAGES = (".tif", ".tiff")
INSTRUMENT = "morphology"  # begins the names of the images that the instrument takes: fluorescence


def look_at_section(path: Path) -> Finding:
    """Read a Xenium bundle, a HEST-1k sample or an AnnData file."""
    finding = Finding(path, "section")
    with finding.noting():
        section = read_section(path)
        quality = qc_summary(qc_cells(section))
        finding.facts = _cells(section, quality)
        for text in qc_warnings(quality):
            doubt(text)
        if is_dir(path):
            finding.facts |= _images(path, section)
    return finding


def _cells(section: Section, quality: dict[str, Any]) -> dict[str, str]:
    facts, source = section.facts(), section.source
    version = f", version {source['version']}" if "version" in source else ""
    out = {
        "format": f"{source['format']}{version}",
        "name": section.name,
        "cells": f"{facts['cells']:,}, {facts['median_counts']:,.0f} transcripts in the median",
        "genes": f"{facts['genes']:,}",
        **{key: f"{_there(shapes)} of {facts['cells']:,} cells have one" for key, shapes in section.polygons.items()},
    }
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in quality["reasons"].items())
    out["quality control"] = f"{quality['passed']:,} pass" + (f" ({reasons})" if reasons else "")
    if source.get("features_left_out"):
        controls = ", ".join(f"{count:,} {kind}" for kind, count in source["features_left_out"].items())
        out["not genes"] = controls
    return out


def _there(polygons: Any) -> str:
    return f"{int((~shapely.is_missing(polygons)).sum()):,}"


def _images(folder: Path, section: Section) -> dict[str, str]:
    """The images of a bundle, and where its cells fall on the one that may be its H&E."""
    names = sorted(each for each in folder.iterdir() if each.suffix.lower() in IMAGES)
    own = [each.name for each in names if each.name.startswith(INSTRUMENT)]
    facts = {"images of the instrument": ", ".join(own)} if own else {}
    to_image = section.to_image
    alignment = str(section.source.get("alignment", "none in the bundle"))
    others = [each for each in names if each.name not in own]
    for path in others:
        try:
            with open_slide(path) as reader:
                size = f"{reader.width:,} x {reader.height:,} px, {reader.mpp:.4g} um per pixel ({reader.mpp_source})"
                facts[path.name] = size
                if to_image is not None and len(others) == 1:
                    alignment += f"; {_on_image(section, reader)}"
        except InputError as error:
            doubt(str(error))
    if to_image is not None:
        alignment += f"; {describe(to_image)}"
    return facts | {"alignment": alignment}


def _on_image(section: Section, reader: SlideReader) -> str:
    assert section.to_image is not None
    pixel_um = section.source.get("pixel_um") or PIXEL_UM
    size = reader.width, reader.height
    inside, odd = check_affine(section.to_image, section.points, size, reader.mpp, pixel_um)
    for text in odd:
        doubt(text)
    return f"{inside:.0%} of the cells fall on {reader.file}"
