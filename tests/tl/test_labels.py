"""Labels in `stc.tl`: a layer may be called anything, and what was missing stays missing in everything that follows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc

NAMES = ["rest", "other spots", "Tumor", "tumor", "L2/3"]


@pytest.fixture(scope="module")
def trained() -> tuple[AnnData, stc.SpotVAE]:
    adata = stc.datasets.simulated_bulb(n_obs=160, n_vars=120, n_markers=8, n_smooth=5, seed=1)
    return adata, stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)


def analysed(adata: AnnData, model: stc.SpotVAE, **options) -> AnnData:
    out = adata.copy()
    stc.tl.concepts(out, model, groupby="layer", **options)
    stc.tl.rank_genes_concepts(out, null="none")
    return out


def test_names_do_not_matter(trained):
    adata, model = trained
    plain = analysed(adata, model)
    renamed = adata.copy()
    old = adata.obs["layer"].cat.categories
    renamed.obs["layer"] = renamed.obs["layer"].cat.rename_categories(dict(zip(old, NAMES, strict=True)))
    with pytest.warns(UserWarning, match="'Tumor' and 'tumor'"):
        other = analysed(renamed, model)
    assert list(other.uns["concepts"]["names"]) == NAMES
    np.testing.assert_array_equal(other.obsm["concept_score"].to_numpy(), plain.obsm["concept_score"].to_numpy())
    for before, after in zip(old, NAMES, strict=True):
        pd.testing.assert_frame_equal(stc.get.markers(other, after), stc.get.markers(plain, before))
    assert len({c.casefold() for c in other.obsm["concept_score"].columns}) == 5
    stc.pl.markers(other, kind="heatmap", show=False)
    masks = {"rest": (adata.obs["layer"] == "GCL").to_numpy()}
    stc.tl.concepts(other, model, mask=masks)
    stc.tl.rank_genes_concepts(other, null="none")
    assert other.obs["concept_group"].cat.categories.tolist() == ["rest", "rest_1"]


def test_a_layer_called_rest_as_the_reference_is_remembered(trained):
    adata, model = trained
    adata = adata.copy()
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"GCL": "rest"})
    stc.tl.concepts(adata, model, groupby="layer", groups="ONL", reference=["rest"])
    again = stc.tl.score_concepts(adata, model, concepts=adata, copy=True)
    pd.testing.assert_frame_equal(again.obsm["concept_members"], adata.obsm["concept_members"])
    assert set(adata.obs["layer"][adata.obsm["concept_members"]["ONL"] == 0]) == {"rest"}


@pytest.mark.parametrize("options", [{}, {"missing": ["off tissue"]}])
def test_words_that_mean_missing_are_gaps_everywhere(trained, options, tmp_path):
    adata, model = trained
    gaps, words = adata.copy(), adata.copy()
    gaps.obs.loc[gaps.obs_names[::4], "layer"] = np.nan
    gaps.obs["layer"] = pd.Categorical(gaps.obs["layer"].astype(object))
    word = "Off_tissue" if options else "Unassigned"
    words.obs["layer"] = gaps.obs["layer"].astype(object).fillna(word)
    want = analysed(gaps, model)
    if options:
        got = analysed(words, model, **options)
    else:
        with pytest.warns(UserWarning, match="40 spots have a label that means missing"):
            got = analysed(words, model)
    pd.testing.assert_frame_equal(got.obsm["concept_members"], want.obsm["concept_members"])
    pd.testing.assert_frame_equal(stc.get.markers(got), stc.get.markers(want))
    stc.io.write(got, tmp_path / "o.h5ad")
    back = stc.io.read(tmp_path / "o.h5ad")
    again = stc.tl.score_concepts(back, model, concepts=back, copy=True)
    pd.testing.assert_frame_equal(again.obsm["concept_members"], want.obsm["concept_members"], check_names=False)
    axes = stc.pl.annotation(back, show=False)
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert word not in legend
    assert set(gaps.obs["layer"].cat.categories) <= legend


def test_cross_fit_and_one_missing_word(trained):
    adata, _ = trained
    words = adata.copy()
    words.obs["layer"] = words.obs["layer"].astype(object)
    words.obs.loc[words.obs_names[::9], "layer"] = "n/a"
    with pytest.warns(UserWarning, match="'n/a' 18") as caught:
        stc.tl.cross_fit(words, "layer", n_folds=2, model_options={"n_latent": 4}, fit_options={"max_epochs": 0})
    assert len(caught) == 1
    assert "n/a" not in words.obsm["concept_score_crossfit"]
