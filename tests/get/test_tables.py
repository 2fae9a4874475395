from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import st_concepts as stc


@pytest.fixture(scope="module")
def done() -> AnnData:
    adata = stc.datasets.simulated_bulb(n_obs=250, n_vars=200, n_markers=10, seed=3)
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    model = stc.SpotVAE(adata, n_latent=8).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, null="permutation", n_null=0)
    return adata


@pytest.mark.parametrize("concept", ["GCL", "L2/3"])
def test_markers_agree_with_scanpys_own_reader(done, concept):
    ours = stc.get.markers(done, concept)
    theirs = sc.get.rank_genes_groups_df(done, group=concept, key="rank_genes_concepts")
    assert len(ours) == done.n_vars
    assert ours["names"].is_unique
    pd.testing.assert_frame_equal(ours[["names", "scores", "logfoldchanges", "pvals", "pvals_adj"]], theirs)


def test_shares_are_those_of_the_counts(done):
    table = stc.get.markers(done, "L2/3", n=20).set_index("names")
    inside = (done.obs["layer"] == "L2/3").to_numpy()
    seen = done[:, table.index].X.toarray() > 0
    np.testing.assert_allclose(table["pct_in"], seen[inside].mean(0))
    np.testing.assert_allclose(table["pct_out"], seen[~inside].mean(0))


def test_saliency_is_looked_up_by_gene_not_by_position(done):
    table = stc.get.markers(done, "L2/3").set_index("names")
    stored = done.varm["concept_saliency"]["L2_3"]
    assert table.index.tolist() != stored.index.tolist()
    for gene in ("MCL-marker1", "GCL-marker1"):
        assert table.loc[gene, "saliency"] == stored[gene]


def test_all_concepts_stand_below_each_other_in_their_order(done):
    table = stc.get.markers(done, n=3)
    assert table["concept"].tolist() == [c for c in ["ONL", "GL", "OPL", "L2/3", "GCL"] for _ in range(3)]
    one = stc.get.markers(done, "OPL", n=3)
    pd.testing.assert_frame_equal(table[table["concept"] == "OPL"].drop(columns="concept").reset_index(drop=True), one)


def test_scores_have_true_names(done):
    scores = stc.get.concept_scores(done)
    assert list(scores) == ["ONL", "GL", "OPL", "L2/3", "GCL"]
    assert list(done.obsm["concept_score"]) == ["ONL", "GL", "OPL", "L2_3", "GCL"]
    np.testing.assert_array_equal(scores["L2/3"], done.obsm["concept_score"]["L2_3"])
    assert scores.index.equals(done.obs_names)


def test_nothing_is_written(done):
    before = {name: list(getattr(done, name)) for name in ("obs", "var", "obsm", "varm", "uns", "layers")}
    stc.get.markers(done)["scores"] = 0.0
    stc.get.concept_scores(done)["GCL"] = 0.0
    assert before == {name: list(getattr(done, name)) for name in before}
    assert stc.get.markers(done, "GCL")["scores"].abs().max() > 0
    assert done.obsm["concept_score"]["GCL"].abs().max() > 0


def test_what_is_missing_is_said(done, simulated):
    with pytest.raises(KeyError, match="rank_genes_concepts"):
        stc.get.markers(simulated, "GCL")
    with pytest.raises(KeyError, match=r"stc\.tl\.concepts"):
        stc.get.concept_scores(simulated)
    with pytest.raises(KeyError, match="there are: ONL, GL, OPL, L2/3, GCL"):
        stc.get.markers(done, "XYZ")
    with pytest.raises(ValueError, match="n=0"):
        stc.get.markers(done, "GCL", n=0)
    other = done.copy()
    del other.obsm["concept_score"]
    with pytest.raises(KeyError, match="score_concepts"):
        stc.get.concept_scores(other)


def test_parts_of_saliency(simulated):
    model = stc.SpotVAE(simulated, n_latent=5).fit(max_epochs=0, progress=False)
    with pytest.raises(KeyError, match=r"stc\.tl\.concepts"):
        stc.get.saliency_parts(simulated)
    stc.tl.concepts(simulated, model, groupby="layer", context=3)
    with pytest.raises(KeyError, match=r"stc\.tl\.saliency"):
        stc.get.saliency_parts(simulated)
    stc.tl.saliency(simulated, model)
    stc.tl.rank_genes_concepts(simulated, null="none", n_null=0)
    found = stc.get.saliency_parts(simulated).set_index("concept")
    whole, further = simulated.varm["concept_saliency"], simulated.varm["concept_saliency_context"]
    difference = simulated.uns["concept_saliency"]["score_difference"]
    np.testing.assert_allclose(found["own"] + found["surroundings"], difference, atol=1e-3)
    np.testing.assert_allclose(found["surroundings"], further.sum(), rtol=1e-4)
    own, around = (whole - further)["GCL"].abs().sum(), further["GCL"].abs().sum()
    assert found["share"]["GCL"] == pytest.approx(around / (own + around), rel=1e-4)
    markers = stc.get.markers(simulated, "GCL", n=5).set_index("names")
    np.testing.assert_array_equal(markers["saliency_surroundings"], further["GCL"][markers.index])

    stc.tl.concepts(simulated, model, groupby="layer", context=0)
    stc.tl.saliency(simulated, model)
    found = stc.get.saliency_parts(simulated)
    assert (found[["surroundings", "share"]] == 0).all(axis=None)
    assert "saliency_surroundings" not in stc.get.markers(simulated, "GCL", n=5)
