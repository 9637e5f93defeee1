"""A section on its way from bundle to patch set: six steps, held in memory, each with a checkpoint on disk.

    with open_set(out, resume=True) as pipeline:
        pipeline.read(bundle)                          # 1. Section
        pipeline.qc()                                  # 2. cells that pass
        pipeline.annotate(reference, "cell_type")      # 3. their types
        pipeline.find_nuclei(image)                    # 4. nuclei of the H&E image
        pipeline.align(alignment)                      # 5. affine, and pairs of cells and nuclei
        pipeline.write()                               # 6. patch set
        write_report(pipeline)

A step hands its result on in memory; what an earlier process has left is read from ``SET/steps`` when it is first asked
for. A step that is finished, with the same settings and inputs and on the same steps before it, does not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from celldetr.data.patch_set import SET_FILE
from celldetr.errors import InputError
from celldetr.io.files import write_json
from celldetr.io.run_folder import RunFolder
from celldetr.spatial import affine as affines
from celldetr.spatial import files
from celldetr.spatial.align import AlignOptions, align_and_pair
from celldetr.spatial.annotate.cells import TypeOptions, annotate_cells, check_method
from celldetr.spatial.annotate.hierarchy import load_hierarchy
from celldetr.spatial.files import read_table, stamp, write_table
from celldetr.spatial.nuclei import find_nuclei
from celldetr.spatial.pair import PairOptions
from celldetr.spatial.patch_layout import WriteOptions
from celldetr.spatial.qc import QualityOptions, filter_cells, qc_cells, qc_summary
from celldetr.spatial.readers import Kind, read_section
from celldetr.spatial.readers.common import ReadOptions
from celldetr.spatial.results import LAYOUT, STEPS, StepResults
from celldetr.spatial.section import section_summary
from celldetr.spatial.write import write_set

if TYPE_CHECKING:
    from celldetr.api import Model

Progress = Callable[[float], None]


@contextmanager
def open_set(folder: Path, *, resume: bool = False, overwrite: bool = False) -> Iterator[Pipeline]:
    """The pipeline of a set, whose folder no other process works on meanwhile.

    Args:
        folder: of the set; made if needed.
        resume: keep the steps that are finished and unchanged.
        overwrite: do every step again; what is there is removed.

    Raises:
        InputError: there is a set and neither was asked for, both were, or the folder holds other things; another
            process works on it.
    """
    run = RunFolder(folder, LAYOUT)
    with run.open(resume=resume, overwrite=overwrite):
        if any("after" not in step for step in run.steps.values()):
            raise InputError(f"{folder}: holds a set of CellDETR 0.1, which cannot be continued; set `overwrite=True`")
        yield Pipeline(run)
        if all(name in run.steps and not run.is_stale(name) for name in STEPS):
            run.finish()


class Pipeline(StepResults):
    """The steps of one set; see the module.

    Each step is a method that takes its settings and inputs, and returns whether it ran.
    """

    def read(
        self,
        bundle: Path,
        *,
        kind: str = "auto",
        name: str = "",
        options: ReadOptions | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Step 1: read a section, see ``read_section``."""
        options = options or ReadOptions()
        settings = {"bundle": stamp(bundle), "kind": kind, "name": name, "options": options.model_dump(mode="json")}

        def work() -> dict[str, Any]:
            section = read_section(bundle, kind=cast(Kind, kind), name=name, options=options, progress=progress)
            files.write_section(section, self.files)
            self._results = {"section": section}
            return section_summary(section)

        return self._step("read", settings, (files.SECTION,), work)

    def qc(self, options: QualityOptions | None = None) -> bool:
        """Step 2: the cells that pass the quality control, see ``qc_cells``."""
        options = options or QualityOptions()

        def work() -> dict[str, Any]:
            quality = qc_cells(self.section, options)
            self._results |= {"quality": quality, "passed": filter_cells(self.section, quality)}
            write_table(quality, self.files / files.QUALITY_FILE)
            return qc_summary(quality)

        return self._step("qc", {"options": options.model_dump(mode="json")}, (files.QUALITY_FILE,), work)

    def annotate(
        self,
        reference: Path | None = None,
        type_column: str = "",
        *,
        method: str = "tacco",
        labels: Path | None = None,
        hierarchy: str | Path | None = None,
        level: str | None = None,
        options: TypeOptions | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Step 3: types of the cells that passed, see ``annotate_cells``.

        ``hierarchy`` is a YAML file, or the name of one that comes with the package.
        """
        options = options or TypeOptions()
        method = check_method(method, reference, type_column, labels, level, hierarchy is not None)
        tree = None if hierarchy is None else load_hierarchy(hierarchy)
        settings = {
            "reference": stamp(reference),
            "column": type_column,
            "method": method,
            "labels": stamp(labels),
            "hierarchy": None if tree is None else tree.model_dump(mode="json"),
            "level": level,
            "options": options.model_dump(mode="json"),
        }

        def work() -> dict[str, Any]:
            annotated = annotate_cells(
                self.passed.cells,
                reference,
                type_column,
                method=method,
                labels=labels,
                hierarchy=tree,
                level=level,
                options=options,
                progress=progress,
            )
            self._results |= {"types": annotated.types, "expression": annotated.expression}
            write_table(annotated.fine, self.files / files.FINE_FILE)
            write_table(annotated.types, self.files / files.TYPES_FILE)
            (self.files / files.EXPRESSION_FILE).unlink(missing_ok=True)
            if annotated.expression is not None:
                write_table(annotated.expression, self.files / files.EXPRESSION_FILE)
            return annotated.facts

        return self._step("type", settings, (files.TYPES_FILE,), work)

    def find_nuclei(
        self,
        image: Path,
        *,
        model: Model | str | Path | None = None,
        polygons: Path | None = None,
        cells: Path | None = None,
        mpp: float | None = None,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> bool:
        """Step 4: the nuclei of the H&E image, which later steps read as well; see ``nuclei.find_nuclei``."""
        if polygons is not None and cells is not None:
            raise InputError(f"nuclei from {polygons} and from {cells}: name one of them")
        settings: dict[str, Any] = {"image": stamp(image), "mpp": mpp}
        settings |= {"polygons": stamp(polygons), "cells": stamp(cells)}
        if polygons is None and cells is None:
            settings |= {"model": _model_name(model)}

        def work() -> dict[str, Any]:
            nuclei, facts = find_nuclei(
                image,
                self.files,
                model=model,
                polygons=polygons,
                cells=cells,
                mpp=mpp,
                device=device,
                progress=progress,
            )
            self._results["nuclei"] = nuclei
            files.write_nuclei(nuclei, self.files / files.NUCLEI_FILE)
            return facts

        return self._step("nuclei", settings, (files.NUCLEI_FILE,), work)

    def align(
        self,
        alignment: Path | None = None,
        *,
        direction: str = "image_to_xenium",
        inverse: bool = False,
        options: AlignOptions | None = None,
        pairing: PairOptions | None = None,
    ) -> bool:
        """Step 5: the affine from the section to the image, and pairs of cells and nuclei; see ``align_and_pair``.

        Args:
            alignment: file of the affine (``read_affine``); None: that of the section itself.
            direction, inverse: of the affine in the file (``affine.to_image``).
            options: of the refinement.
            pairing: of the pairs.
        """
        options, pairing = options or AlignOptions(), pairing or PairOptions()
        way = cast(affines.Direction, direction)
        settings = {
            "alignment": stamp(alignment),
            "direction": direction,
            "inverse": inverse,
            "options": options.model_dump(mode="json"),
            "pairing": pairing.model_dump(mode="json"),
        }

        def work() -> dict[str, Any]:
            start = self.section.to_image
            if alignment is not None:
                pixel_um = self.section.source.get("pixel_um") or affines.PIXEL_UM
                start = affines.to_image(affines.read_affine(alignment), way, pixel_um, inverse=inverse)
            if start is None:
                raise InputError(
                    f"{self.folder}: the section does not say where it lies on the image; give the alignment that"
                    " Xenium Explorer exports (`alignment`, a CSV)"
                )
            with self.open_image() as reader:
                size, mpp = (reader.width, reader.height), (reader.mpp_x, reader.mpp_y)
            to_image, pairs, facts = align_and_pair(self.passed, self.nuclei, start, size, mpp, options, pairing)
            self._results |= {"to_image": to_image, "pairs": pairs}
            write_json(self.files / files.ALIGNMENT_FILE, facts)
            write_table(pairs, self.files / files.PAIRS_FILE)
            return facts

        return self._step("align", settings, (files.ALIGNMENT_FILE, files.PAIRS_FILE), work)

    def write(
        self,
        options: WriteOptions | None = None,
        *,
        spots: Path | None = None,
        donor: str = "",
        licence: str = "unknown",
        progress: Progress | None = None,
    ) -> bool:
        """Step 6: the patch set, see ``write_set``; ``spots`` is a table of spots, CSV or Parquet."""
        options = options or WriteOptions()
        settings = {"options": options.model_dump(mode="json"), "spots": stamp(spots), "donor": donor}
        settings |= {"licence": licence}

        def work() -> dict[str, Any]:
            image = self.settings("nuclei")
            info = write_set(
                self.section,
                Path(image["image"][0]),
                self.nuclei,
                self.pairs,
                self.types,
                self.folder,
                options,
                affine=self.to_image,
                mpp=image["mpp"],
                spots=None if spots is None else read_table(spots),
                donor=donor,
                licence=licence,
                progress=progress,
            )
            return {
                "patches": info.patches,
                "nuclei": info.nuclei,
                "types": list(info.types),
                "regions": [slide.model_dump(mode="json") for slide in info.slides],
                "made_with": info.made_with,
            }

        return self._step("write", settings, (f"../{SET_FILE}",), work)


def _model_name(model: Model | str | Path | None) -> Any:
    """What is recorded of a model."""
    from celldetr.api import Model
    from celldetr.model.hub import find_model

    return model.describe() if isinstance(model, Model) else stamp(find_model(model))
