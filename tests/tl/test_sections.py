"""Several sections, and scores by models that did not see the spot."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

import st_concepts as stc


def _auroc(score: np.ndarray, inside: np.ndarray) -> float:
    ranks, n = rankdata(score), inside.sum()
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * (~inside).sum()))


@pytest.fixture(scope="module")
def three_sections():
    adata = stc.datasets.simulated_bulb(n_obs=750, n_vars=200, n_sections=3, n_markers=10, seed=1)
    model = stc.SpotVAE(adata, n_latent=8, batch_key="section").fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    return adata, model


def test_replicate_agreement_is_stouffer_of_the_sections_tested_apart(three_sections) -> None:
    adata, _ = three_sections
    adata = adata.copy()
    stc.tl.rank_genes_concepts(adata, n_null=0, target="label")
    counts = adata.X.toarray().astype(np.float64)
    mu = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()  # shares of all sections together
    x = np.minimum((counts - mu) / np.sqrt(mu), 5.0)
    labels = np.stack([adata.obs["layer"] == c for c in adata.uns["concepts"]["names"]], axis=1).astype(float)
    z = []
    sizes = adata.obs["section"].value_counts()
    for name in sorted(sizes.index):
        part = (adata.obs["section"] == name).to_numpy()
        null = stc.stats.moran_null(adata.obsm["spatial"][part])
        z.append(stc.stats.association_test(x[part], labels[part], null).z * np.sqrt(sizes[name]))
    alone = adata[adata.obs["section"] == "sim_1"].copy()
    stc.tl.rank_genes_concepts(alone, n_null=0, target="label")
    assert "rank_genes_concepts_z_combined" not in alone.varm
    expected = np.sum(z, axis=0) / np.sqrt(sizes.sum())
    np.testing.assert_allclose(adata.varm["rank_genes_concepts_z_combined"].to_numpy(), expected, rtol=1e-3, atol=1e-4)
    assert (adata.varm["rank_genes_concepts_n_sections"].to_numpy() == 3).all()
    agree = np.mean([np.sign(v) == np.sign(expected) for v in z], axis=0)
    np.testing.assert_allclose(adata.varm["rank_genes_concepts_sign_consistency"].to_numpy(), agree)


def test_planted_markers_agree_between_sections(three_sections) -> None:
    adata, _ = three_sections
    adata = adata.copy()
    stc.tl.rank_genes_concepts(adata, n_null=0)
    for layer in adata.obs["layer"].cat.categories:
        planted = (adata.var["marker_of"].astype(str) == layer).to_numpy()
        frame = stc.get.markers(adata, layer).set_index("names")
        assert (frame.loc[adata.var_names[planted], "sign_consistency"] == 1).mean() >= 0.9


def test_concepts_of_two_sections_score_the_third(three_sections) -> None:
    adata, _ = three_sections
    names = sorted(adata.obs["section"].unique())
    seen = adata[adata.obs["section"] != names[2]].copy()
    new = adata[adata.obs["section"] == names[2]].copy()
    model = stc.SpotVAE(seen, n_latent=8, batch_key="section").fit(max_epochs=0, progress=False)
    stc.tl.concepts(seen, model, groupby="layer")
    labels = new.obs.pop("layer")
    del new.obsm["concept_members"]
    stc.tl.score_concepts(new, model, concepts=seen)
    area = [_auroc(new.obsm["concept_score"][c].to_numpy(), (labels == c).to_numpy()) for c in labels.cat.categories]
    assert min(area) > 0.9


def test_cross_fit_equals_fits_by_hand_and_flatters_less(simulated) -> None:
    options = {"n_latent": 6}
    stc.tl.cross_fit(simulated, "layer", n_folds=3, model_options=options, fit_options={"max_epochs": 0})
    frame = simulated.obsm["concept_score_crossfit"]
    assert list(frame.index) == list(simulated.obs_names)
    assert np.isfinite(frame.to_numpy()).all()
    folds = stc.stats.balanced_tiles(simulated.obsm["spatial"], 3)
    held = folds == folds[0]
    train, test = simulated[~held].copy(), simulated[held].copy()
    model = stc.SpotVAE(train, **options).fit(max_epochs=0, progress=False)
    stc.tl.concepts(train, model, groupby="layer")
    stc.tl.score_concepts(test, model, concepts=train)
    np.testing.assert_array_equal(frame[held].to_numpy(), test.obsm["concept_score"].to_numpy())


def test_markers_from_cross_fitted_scores(three_sections) -> None:
    adata, _ = three_sections
    adata = adata.copy()
    stc.tl.cross_fit(adata, "layer", model_options={"n_latent": 8}, fit_options={"max_epochs": 0})
    stc.tl.rank_genes_concepts(adata, n_null=0, target="score", score_key="concept_score_crossfit")
    best = stc.get.markers(adata, "GCL", n=5)["names"]
    assert (adata.var.loc[best, "marker_of"].astype(str) == "GCL").mean() >= 0.6


def test_errors_of_cross_fit(simulated) -> None:
    with pytest.raises(KeyError, match="not a column"):
        stc.tl.cross_fit(simulated, "layers")
    with pytest.raises(ValueError, match="at least 2"):
        stc.tl.cross_fit(simulated, "layer", n_folds=1)
    with pytest.raises(ValueError, match="one section only"):
        stc.tl.cross_fit(simulated.copy(), "layer", section_key="section")
    one_place = np.asarray(simulated.obsm["spatial"])[:, 0]
    half = pd.Series(np.where(one_place < np.median(one_place), "left", "right"), index=simulated.obs_names)
    simulated.obs["side"] = half
    del simulated.obsm["spatial"]
    with pytest.raises(ValueError, match="position of each spot"):
        stc.tl.cross_fit(simulated, "side")
    assert "concept_score_crossfit" not in simulated.obsm


def test_the_section_key_and_the_graph_are_recorded_and_kept_in_the_file(three_sections, tmp_path) -> None:
    adata, _ = three_sections
    adata = adata.copy()
    stc.tl.rank_genes_concepts(adata, n_null=0)
    params = adata.uns["rank_genes_concepts"]["params"]
    told = {k: params[k] for k in ("section_key", "section_source", "graph", "graph_key")}
    assert told == {"section_key": "section", "section_source": "model", "graph": "coordinates", "graph_key": ""}
    adata.obs["slide"] = adata.obs["section"].astype(str)
    adata.obsp["near"] = stc.stats.spatial_graph(adata.obsm["spatial"], adata.obs["slide"])
    stc.tl.rank_genes_concepts(adata, n_null=0, section_key="slide", graph_key="near")
    adata.write_h5ad(tmp_path / "a.h5ad")
    params = ad.read_h5ad(tmp_path / "a.h5ad").uns["rank_genes_concepts"]["params"]
    told = {k: params[k] for k in ("section_key", "section_source", "graph", "graph_key")}
    assert told == {"section_key": "slide", "section_source": "given", "graph": "obsp", "graph_key": "near"}
    stc.tl.rank_genes_concepts(adata, null="none")
    assert adata.uns["rank_genes_concepts"]["params"]["graph"] == "none"


@pytest.mark.parametrize("null", ["moran", "permutation", "none"])
def test_stacked_sections_are_not_tested_as_one_tissue(three_sections, null) -> None:
    adata, _ = three_sections
    adata = adata[adata.obs["section"] != "sim_3"].copy()
    assert adata.obs["section"].nunique() == 2
    both = (adata.obs["section"] == adata.obs["section"].iloc[0]).to_numpy()
    n = min(both.sum(), (~both).sum())
    adata.obsm["spatial"][np.flatnonzero(~both)[:n]] = adata.obsm["spatial"][np.flatnonzero(both)[:n]]
    adata.obs["slide"] = adata.obs.pop("section")
    with pytest.raises(ValueError, match=r"spots lie exactly on another spot.*section_key="):
        stc.tl.rank_genes_concepts(adata, n_null=0, null=null)
    stc.tl.rank_genes_concepts(adata, n_null=0, null=null, section_key="slide")
    # a graph of the user's says what is next to what
    adata.obsp["near"] = stc.stats.spatial_graph(adata.obsm["spatial"], adata.obs["slide"])
    stc.tl.rank_genes_concepts(adata, n_null=0, null=null, graph_key="near")
    assert adata.uns["rank_genes_concepts"]["params"]["section_key"] == ""
