"""A section on disk is read back equal, is replaced whole, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from shapely import from_wkb
from shapely.geometry import Polygon, box

from celldetr.errors import InputError
from celldetr.spatial.files import POLYGONS, SECTION, read_section_files, write_section
from celldetr.spatial.section import Section


def a_section(cells: int = 6, polygons: bool = True) -> Section:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "x_um": rng.uniform(0, 9, cells),
            "y_um": rng.uniform(0, 9, cells),
            "nucleus_area_um2": [np.nan, *rng.uniform(9, 20, cells - 1)],
            "method": ["a", "b"] * (cells // 2),
            "donor": pd.Categorical(["x"] * cells),
        },
        index=[f"aaa-{i}" for i in range(cells)],
    )
    matrix = sparse.csr_matrix(rng.poisson(1, (cells, 4)).astype(np.float32))
    data = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame({"gene_ids": list("wxyz")}, index=list("ABCD")))
    nuclei = np.array([None, *(Polygon([(i, 0), (i + 1 / 3, 0), (i, 0.1)]) for i in range(cells - 1))], dtype=object)
    outlines = np.array([box(i, i, i + 1, i + 1) for i in range(cells)], dtype=object)
    image = np.array([[1 / 3, 0.1, 5], [-0.1, 1 / 3, 7], [0, 0, 1]])
    source = {"format": "xenium", "left_out": {"ö": 3}, "pixel_um": 0.2125}
    return Section("a name", data, *((nuclei, outlines, image) if polygons else ()), source=source)


def test_read_back_equal(tmp_path: Path) -> None:
    section = a_section()
    write_section(section, tmp_path / "new" / "steps")
    back = read_section_files(tmp_path / "new" / "steps")
    assert (back.name, back.source) == (section.name, section.source)
    assert back.to_image is not None
    assert np.array_equal(back.to_image, section.to_image)
    pd.testing.assert_frame_equal(back.cells.obs, section.cells.obs)
    pd.testing.assert_frame_equal(back.cells.var, section.cells.var)
    assert isinstance(back.cells.X, sparse.csr_matrix)
    assert back.cells.X.dtype == np.float32
    assert (back.cells.X != section.cells.X).nnz == 0
    assert back.nuclei is not None
    assert back.nuclei[0] is None
    for ours, theirs in ((back.nuclei, section.nuclei), (back.outlines, section.outlines)):
        assert [None if a is None else a.wkb for a in ours] == [None if a is None else a.wkb for a in theirs]
    assert list(back.cells.uns) == list(section.cells.uns) == []
    assert sorted(path.name for path in (tmp_path / "new" / "steps").iterdir()) == sorted([SECTION, *POLYGONS.values()])


def test_polygons_are_geoparquet(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    section = a_section()
    write_section(section, tmp_path)
    frame = geopandas.read_parquet(tmp_path / POLYGONS["nuclei"])
    assert frame["cell_id"].tolist() == section.cells.obs_names.tolist()
    assert frame.geometry.isna().tolist() == [True] + [False] * 5
    assert frame.geometry[2].equals(section.nuclei[2])
    raw = pd.read_parquet(tmp_path / POLYGONS["nuclei"])
    assert from_wkb(raw["geometry"][1]).equals(section.nuclei[1])


def test_another_section_replaces_all_of_it(tmp_path: Path) -> None:
    write_section(a_section(), tmp_path)
    write_section(a_section(4, polygons=False), tmp_path)
    back = read_section_files(tmp_path)
    assert back.nuclei is None
    assert back.to_image is None
    assert back.cells.n_obs == 4
    assert [path.name for path in tmp_path.iterdir()] == [SECTION]


def test_a_view_is_written_and_left_alone(tmp_path: Path) -> None:
    section = a_section()
    part = Section("part", section.cells[1:3], nuclei=section.nuclei[1:3])
    write_section(part, tmp_path)
    assert read_section_files(tmp_path).cells.obs_names.tolist() == ["aaa-1", "aaa-2"]
    assert part.cells.is_view


def test_failure_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no")

    section = a_section()
    monkeypatch.setattr(anndata.AnnData, "write_h5ad", fail)
    with pytest.raises(RuntimeError, match="no"):
        write_section(section, tmp_path)
    assert not (tmp_path / SECTION).exists()
    assert not list(tmp_path.glob("*.tmp"))
    assert list(section.cells.uns) == []


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_section_files(tmp_path)
    write_section(a_section(), tmp_path)
    (tmp_path / POLYGONS["nuclei"]).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"nuclei_um.*cannot be read"):
        read_section_files(tmp_path)
    (tmp_path / POLYGONS["nuclei"]).unlink()
    with pytest.raises(InputError, match=r"nuclei_um.*no such file"):
        read_section_files(tmp_path)
    content = (tmp_path / SECTION).read_bytes()
    (tmp_path / SECTION).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"section\.h5ad: cannot be read"):
        read_section_files(tmp_path)
    anndata.AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / SECTION)
    with pytest.raises(InputError, match=r"section\.h5ad: cannot be read \('celldetr_section'\)"):
        read_section_files(tmp_path)
