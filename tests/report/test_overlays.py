"""Spots, sections and images: each in its place, each number as it was."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import st_concepts as stc
from st_concepts import report
from st_concepts.report import _pack
from tests.report.pages import analysed, page_of, unpack

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")


@given(
    hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6) | st.just(np.nan)),
    st.sampled_from([8, 16]),
)
def test_numbers_come_back(values: np.ndarray, bits: int) -> None:
    packed = _pack.numbers(values, bits)
    back = unpack(packed)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    step = (packed["high"] - packed["low"]) / (2**bits - 2)
    np.testing.assert_allclose(back, values, atol=0.5001 * step + 1e-9)


def test_many_spots_and_sections(tmp_path: Path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=400, n_vars=150, n_markers=5, n_sections=2, seed=0)
    analysed(adata, n_null=0)
    for name in adata.obs["section"].cat.categories:
        adata.uns.setdefault("spatial", {})[name] = {
            "images": {"hires": np.full((30, 60, 3), 200, dtype=np.uint8)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 0.6},
        }
    page = page_of(adata, tmp_path / "a.html", max_spots=150)
    data = page.data
    assert [s["name"] for s in data["sections"]] == adata.obs["section"].cat.categories.tolist()
    at = np.concatenate([s["spots"] for s in data["sections"]])
    assert sorted(at) == list(range(150))
    for section in data["sections"]:
        names = [data["spots"][i] for i in section["spots"]]
        assert (adata.obs.loc[names, "section"] == section["name"]).all()
        truth = adata[names].obsm["spatial"]
        np.testing.assert_allclose(np.column_stack([unpack(section["x"]), unpack(section["y"])]), truth, atol=1e-3)
    assert "150 of 400" in page.text
    assert report.write(adata, tmp_path / "b.html", max_spots=150) is None
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_an_image_lies_under_its_own_spots_only(tmp_path: Path, caplog: Any) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=300, n_vars=120, n_markers=5, n_sections=2, seed=0)
    adata.obs["slide"] = adata.obs.pop("section").cat.rename_categories(["A", "B"])
    factor = 190 / float(adata.obsm["spatial"].max())
    small = {"lowres": np.full((200, 200, 3), 200, dtype=np.uint8)}
    adata.uns["spatial"] = {"A": {"images": small, "scalefactors": {"tissue_lowres_scalef": factor}}, "junk": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysed(adata, n_null=0)
    page = page_of(adata, tmp_path / "a.html", section_key="slide")
    first, second = page.data["sections"]
    assert (first["name"], second["name"]) == ("A", "B")
    assert first["image"].startswith("data:image/jpeg")
    assert second["image"] is None
    assert len(first["spots"]) == (adata.obs["slide"] == "A").sum()
    assert "Do the sections agree?" in page.text
    assert "2 sections by obs['slide']" in page.text
    assert "'junk'" in caplog.text
    with pytest.raises(KeyError, match="section_key='slid' is not a column"):
        page_of(adata, tmp_path / "b.html", section_key="slid")
    # sections on top of each other that nothing tells apart
    stacked = adata.copy()
    del stacked.uns["spatial"]
    for name in ("A", "B"):
        rows = np.flatnonzero(stacked.obs["slide"] == name)[:140]
        stacked.obsm["spatial"][rows] = np.column_stack([np.arange(140.0), np.arange(140.0) % 7])
    with pytest.raises(ValueError, match="section_key="):
        page_of(stacked, tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()
