"""What genes are tested against and ranked by: the score of the spot, labels, and whether there is a layer at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, pearsonr, ttest_ind

import st_concepts as stc
from st_concepts._counts.expression import Expression

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]
KEY = "rank_genes_concepts"


def _residuals(adata) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    mu = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    with np.errstate(invalid="ignore"):
        return np.where(mu > 0, np.minimum((counts - mu) / np.sqrt(mu), 5.0), 0.0)


def _by_gene(adata, name) -> pd.DataFrame:
    return stc.get.markers(adata, name).set_index("names").loc[adata.var_names]


@pytest.mark.parametrize("context", [0, 10])
def test_a_gene_is_tested_against_the_score_of_the_spot_less_its_own_part(trained, context) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer", context=context, n_null=0)
    stc.tl.rank_genes_concepts(adata, target="score", null="none")
    own_score, own_gradient = (
        ("concept_score_alone", "concept_gradient_alone") if context else ("concept_score", "concept_gradient")
    )
    x = _residuals(adata)
    around, alone = (adata.obsm[k]["MCL"].to_numpy(float) for k in ("concept_score", own_score))
    ranked = [pearsonr(g, around)[0] if g.std() else 0.0 for g in x.T]
    np.testing.assert_allclose(_by_gene(adata, "MCL")["scores"], ranked, atol=1e-4)
    data = Expression.open(adata, None, adata.uns["concepts"]["params"]["target_sum"])
    slope = data.feature_slope(np.ones(adata.n_obs, bool))
    own = adata.varm[own_gradient]["MCL"] * slope
    p = [pearsonr(g, alone - w * g)[1] if g.std() else 1.0 for g, w in zip(x.T, own, strict=True)]
    np.testing.assert_allclose(adata.varm[f"{KEY}_pval_programme"]["MCL"], p, rtol=5e-3, atol=1e-10)
    del adata.varm[own_gradient]
    stc.tl.rank_genes_concepts(adata, target="score", null="none")
    p = [pearsonr(g, alone)[1] if g.std() else 1.0 for g in x.T]
    np.testing.assert_allclose(adata.varm[f"{KEY}_pval_programme"]["MCL"], p, rtol=5e-3, atol=1e-10)


def test_weights_and_score_rank_together(scored) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, null="none")
    x = _residuals(adata)
    for name in LAYERS:
        score, weight = (adata.obsm[k][name].to_numpy(float) for k in ("concept_score", "concept_weight"))
        sides = []
        for w in (weight, 1 - weight):
            mean = w @ x / w.sum()
            sides.append((mean, w @ (x - mean) ** 2 / w.sum() / (w.sum() ** 2 / (w**2).sum() - 1)))
        (high, a), (low, b) = sides
        live = x.std(0) > 0
        follows = [pearsonr(g, score)[0] if g.std() else 0.0 for g in x.T]
        welch = (high - low)[live] / np.sqrt(a + b)[live]
        expected = welch + np.sqrt(adata.n_obs) * np.array(follows)[live]
        np.testing.assert_allclose(_by_gene(adata, name)["scores"][live], expected, rtol=2e-3, atol=5e-3)
    del adata.obsm["concept_weight"]  # then members say who is inside
    stc.tl.rank_genes_concepts(adata, null="none")
    inside = (adata.obs["layer"] == "GCL").to_numpy()
    follows = [pearsonr(g, adata.obsm["concept_score"]["GCL"])[0] for g in x[:, live].T]
    expected = ttest_ind(x[inside], x[~inside], equal_var=False).statistic[live]
    expected += np.sqrt(adata.n_obs) * np.array(follows)
    np.testing.assert_allclose(_by_gene(adata, "GCL")["scores"][live], expected, rtol=2e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("target", "tested", "ranked"),
    [
        ("auto", "score", "Welch's t between spots weighted inside and outside, plus the correlation"),
        ("score", "score", "correlation with the concept score"),
        ("label", "label", "Welch's t between labelled spots inside and outside"),
        ("both", "label", "Welch's t between spots weighted inside and outside, plus the correlation"),
    ],
)
def test_the_record_says_what_was_tested_and_ranked_by(scored, target, tested, ranked) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, target=target, null="none")
    params = adata.uns[KEY]["params"]
    assert params["target"] == tested
    assert params["ranked_by"].startswith(ranked)


def test_without_labels_the_score_alone_ranks(trained) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, vectors=np.eye(6)[:2])
    stc.tl.rank_genes_concepts(adata, null="none")
    params = adata.uns[KEY]["params"]
    assert (params["target"], params["ranked_by"]) == ("score", "correlation with the concept score")
    expected = [pearsonr(g, adata.obsm["concept_score"]["concept_0"])[0] if g.std() else 0 for g in _residuals(adata).T]
    np.testing.assert_allclose(_by_gene(adata, "concept_0")["scores"], expected, atol=1e-4)
    pd.testing.assert_frame_equal(adata.varm[f"{KEY}_pval"], adata.varm[f"{KEY}_pval_programme"])


def test_a_gene_and_its_layer_must_both_be_told(scored) -> None:
    """Intersection-union: the larger p of the two; labels are tested by their own spatial pattern already."""
    adata, _ = scored
    concept_p = np.array([1e-5, 0.01, 0.2, 0.5, 1.0])
    adata.uns["concepts"]["test"]["pval"] = concept_p
    stc.tl.rank_genes_concepts(adata, null="none")
    own = adata.varm[f"{KEY}_pval_programme"].to_numpy()
    assert own.min() < 1e-6
    assert own.max() > 0.9
    p = adata.varm[f"{KEY}_pval"].to_numpy()
    np.testing.assert_array_equal(p, np.maximum(own, concept_p))
    np.testing.assert_allclose(adata.varm[f"{KEY}_qval"], false_discovery_control(p, axis=0), rtol=1e-9)
    np.testing.assert_allclose(adata.varm[f"{KEY}_qval_all"], false_discovery_control(p.ravel()).reshape(p.shape))
    assert (adata.varm[f"{KEY}_pval_greater"].to_numpy() >= concept_p).all()
    np.testing.assert_array_equal(stc.get.markers(adata, "GL")["pvals"].min(), 0.01)
    stc.tl.rank_genes_concepts(adata, null="none", concepts=["MCL", "GL"])  # in the order asked for
    np.testing.assert_array_equal(adata.varm[f"{KEY}_pval"].min(), [0.5, 0.01])
    stc.tl.rank_genes_concepts(adata, null="none", target="label")
    pd.testing.assert_frame_equal(adata.varm[f"{KEY}_pval"], adata.varm[f"{KEY}_pval_programme"])
    adata.uns["concepts"].pop("test")
    stc.tl.rank_genes_concepts(adata, null="none")
    np.testing.assert_array_equal(adata.varm[f"{KEY}_pval"], own)
