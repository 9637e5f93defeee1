"""How sharp patches are as they are and when blurred, and how much pen is seen on them: what thresholds stand on.

python benchmarks/patch_quality.py MPP SLIDE_OR_IMAGE ... > benchmarks/results/patch_quality.txt

The tissue is taken to have MPP micrometres per pixel where a file does not say it. Blur is Gaussian, its sigma in um.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from celldetr.errors import InputError
from celldetr.sampling.places import find_places
from celldetr.sampling.quality import glass_density, pen_share
from celldetr.slide.focus import sharpness
from celldetr.slide.reader import open_slide

PX, MOST = 240, 20
SIGMAS = (0.5, 0.75, 1.0, 1.5)
PATCH_MPP = (0.4, 0.5)


def main() -> None:
    fallback, paths = float(sys.argv[1]), [Path(text) for text in sys.argv[2:]]
    for mpp in PATCH_MPP:
        print(f"patches of {PX} px at {mpp} um: sharpness, least / median / most; blurred: most; variance of Laplacian")
        for path in paths:
            try:
                reader = open_slide(path)
            except InputError:
                reader = open_slide(path, fallback)
            with reader:
                places = find_places(reader, PX, mpp, 0.3, seed=0)
                glass = glass_density(reader)
                rows, pens = [], []
                for x, y in places.corners[:MOST]:
                    image = reader.read_region(x, y, PX * places.step[0], PX * places.step[1], PX, PX)
                    pens.append(pen_share(image, mpp, glass))
                    if pens[-1] > 0.01:
                        continue
                    views = [image, *(ndimage.gaussian_filter(image, (s / mpp, s / mpp, 0)) for s in SIGMAS)]
                    grey = [view.astype(np.float32).mean(-1) for view in (views[0], views[SIGMAS.index(1.0) + 1])]
                    laplacian = [float(ndimage.laplace(each).var()) for each in grey]
                    rows.append([sharpness(view, mpp) for view in views] + laplacian)
            pen = f"{sum(share > 0.01 for share in pens)} of {len(pens)} with pen"
            if not rows:
                print(f"{path.name:50} {pen}")
                continue
            table = np.array(rows)
            own = " / ".join(f"{value:.3f}" for value in np.quantile(table[:, 0], (0, 0.5, 1)))
            blurred = "  ".join(f"{s}: {most:.3f}" for s, most in zip(SIGMAS, table[:, 1:5].max(0), strict=True))
            least, most = table[:, 5].min(), table[:, 6].max()
            print(
                f"{path.name:50} {own}; blurred {blurred}; Laplacian sharp >= {least:.0f}, blurred <= {most:.0f}; {pen}"
            )


if __name__ == "__main__":
    main()
