"""Several sections, coordinates and images on the command line: told apart, and checked before the fit."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.image
import numpy as np
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main

IMAGE = {
    "images": {"hires": np.full((60, 60, 3), 200, np.uint8)},
    "scalefactors": {"tissue_hires_scalef": 3.0, "spot_diameter_fullres": 0.8},
}


@pytest.fixture(scope="module")
def made() -> AnnData:
    """Two sections that lie on each other, told apart by a column of an unusual name."""
    one = stc.datasets.simulated_bulb(n_obs=100, n_vars=110, n_markers=5, seed=2)
    del one.obs["section"]
    both = ad.concat([one, one], label="slide", keys=["A", "B"], index_unique="-")
    both.obs["layer"] = both.obs["layer"].astype("category")
    both.uns["spatial"] = {"A": IMAGE, "B": IMAGE}
    return both


@pytest.fixture
def two(made) -> AnnData:
    return made.copy()


@pytest.fixture
def run(tmp_path, capsys):
    def call(adata: AnnData, *options: str) -> tuple[int, str, str, Path]:
        adata.write_h5ad(tmp_path / "in.h5ad")
        asked = ["run", str(tmp_path / "in.h5ad"), "--groupby", "layer", "--out", str(tmp_path / "out.h5ad")]
        with pytest.raises(SystemExit) as stop:
            main([*asked, "--max-epochs", "0", "--pictures", str(tmp_path / "p"), *options])
        out, err = capsys.readouterr()
        return stop.value.code, out, err, tmp_path

    return call


@pytest.mark.parametrize(("option", "how"), [("--batch-key", "model"), ("--section-key", "given")])
def test_sections_of_any_column_are_tested_and_drawn_apart(two, run, option, how) -> None:
    code, text, err, folder = run(two, option, "slide", "--maps", "1")
    assert code == 0
    # what was found by the rule rather than said is remarked on
    remark = "st-concepts: note: sections are told apart by obs['slide']; --section-key names another column.\n"
    assert err == (remark if how == "model" else "")
    assert "sections: 2 sections by obs['slide']" in text
    result = ad.read_h5ad(folder / "out.h5ad")
    params = result.uns["rank_genes_concepts"]["params"]
    assert (params["section_key"], params["section_source"], params["graph"]) == ("slide", how, "coordinates")
    assert (result.varm["rank_genes_concepts_n_sections"].to_numpy() == 2).all()
    # sections alone are nothing that the model corrects for
    assert result.uns["concepts"]["params"]["section_key"] == ("slide" if how in ("model", "given") else "")
    height, width = matplotlib.image.imread(folder / "p" / "saliency_maps.png").shape[:2]
    assert width > 1.5 * height  # five concepts side by side, two sections


def test_what_is_wrong_with_sections_or_places_is_said_before_the_fit(two, run, monkeypatch) -> None:
    def fit(*_: object) -> None:
        raise AssertionError("the fit began")

    monkeypatch.setattr("st_concepts.cli._run.analyse", fit)

    def line(adata: AnnData, *options: str) -> str:
        code, _, err, folder = run(adata, *options)
        assert code == 2
        assert not (folder / "out.h5ad").exists()
        (text,) = err.strip().splitlines()
        assert "section_key=" not in text
        return text

    assert "stacked, and no column of adata.obs" in (text := line(two))
    assert "with --section-key;" in text
    assert "--section-key slid: obs has no such column. Did you mean 'slide'?" in line(two, "--section-key", "slid")
    apart = two.copy()
    apart.obsm["spatial"][100:] += 0.3
    assert "no column of adata.obs says which spot is on which: name it with --section-key." in line(apart)
    two.obs["slide"] = two.obs["slide"].astype(object).where(np.arange(200) > 3)
    assert "--section-key slide: adata.obs['slide'] has missing values" in line(two, "--section-key", "slide")
    assert "--batch-key slide: adata.obs['slide'] has missing values" in line(two, "--batch-key", "slide")
    for value, said in ((np.nan, "NaN or infinite for 1 of 200 spots"), (1e300, "no position on a tissue")):
        apart.obsm["spatial"][7] = value
        assert said in line(apart, "--section-key", "slide")


@pytest.mark.parametrize("junk", ["junk", {"A": {"images": {"hires": IMAGE["images"]["hires"]}}}])
def test_unusable_images_are_a_note_and_spots_are_drawn(two, run, junk) -> None:
    two.uns["spatial"] = junk
    code, _, err, folder = run(two, "--section-key", "slide")
    assert code == 0
    assert (folder / "p" / "concept_scores.png").exists()
    (text,) = err.strip().splitlines()
    assert text.startswith("st-concepts: note: adata.uns['spatial']")
