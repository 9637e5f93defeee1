"""Step 3: types of cells, by transfer from a reference or from labels that exist."""

from __future__ import annotations

from typing import Final

from celldetr.spatial.annotate.annotation import Annotator
from celldetr.spatial.annotate.classifier import Classifier
from celldetr.spatial.annotate.labels import Labels
from celldetr.spatial.annotate.transport import Transport

ANNOTATORS: Final[dict[str, type[Annotator]]] = {"tacco": Transport, "celltypist": Classifier, "labels": Labels}
