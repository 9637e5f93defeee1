"""The tables that the steps hand on: their columns, and how they are kept (``SET/steps``).

    section.h5ad       step 1  ``Section.cells``; polygons in nuclei_um.parquet and outlines_um.parquet (GeoParquet)
    quality.parquet    step 2  ``QUALITY``, one row a cell of the section
    types.parquet      step 3  ``TYPES``, one row a cell that passed
    nuclei.parquet     step 4  ``NUCLEI``, one row a nucleus of the image
    pairs.parquet      step 5  ``PAIRS``, one row a pair; alignment.json: both affines and the residuals
    set.json, patches-*.arrow  step 6, in ``SET`` itself: a patch set with types

Tables are pandas DataFrames in memory and Parquet on disk; ``cell_id`` is text, ``nucleus`` the row of nuclei.parquet.
"""

from __future__ import annotations

from typing import Final

# column -> what it holds
QUALITY: Final = {
    "cell_id": "of the section",
    "counts": "transcripts",
    "genes": "genes with a transcript",
    "passed": "whether the cell goes on",
    "reason": "why not, in words: all reasons, joined by '; '; empty where it passed",
}
TYPES: Final = {
    "cell_id": "of the section",
    "type": "the most probable, by its name in the reference",
    "probability": "of that type, 0 to 1",
    "margin": "over the second most probable type, 0 to 1",
    "second": "the second most probable type",
}  # and a float32 column "p: NAME" for each type of the reference
PROBABILITY: Final = "p: "
NUCLEI: Final = {"xmin": "level-0 px", "ymin": "", "xmax": "", "ymax": "", "score": "0 to 1", "geometry": "WKB or null"}
PAIRS: Final = {
    "nucleus": "row of nuclei.parquet",
    "cell_id": "of the section",
    "how": "'polygon': the cell's centre is in the nucleus' polygon, or the nucleus' centre in that of the cell;"
    " 'distance': within the radius",
    "distance_um": "between the centres, after alignment",
    "dx_um": "nucleus minus cell along x of the image, after alignment",
    "dy_um": "along y",
}
