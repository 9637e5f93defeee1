"""The slide in the package, so that a first run needs no data; ``python -m celldetr.demo_slide`` prints its path.

An H&E region at 0.499 micrometres per pixel, dedicated to the public domain (CC0); ``assets/README.md`` has its origin.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def sample_slide() -> Path:
    """Path of the sample slide, an Aperio SVS of 2220 x 2967 pixels.

    Raises:
        FileNotFoundError: the installation lacks it, as when the package is run from a zip file: slide
            libraries read paths only.

    Examples:
        >>> import celldetr
        >>> celldetr.sample_slide().name
        'CMU-1-Small-Region.svs'
    """
    path = Path(str(files("celldetr") / "assets" / "CMU-1-Small-Region.svs"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the sample slide is not installed; reinstall celldetr as unpacked files")
    return path


if __name__ == "__main__":
    print(sample_slide())
