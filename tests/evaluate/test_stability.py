from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

import st_concepts as stc
from st_concepts.stats._ranks import spearman, top_overlap


@pytest.fixture(scope="module")
def made():
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=10, n_smooth=10, seed=0)
    models = {
        "a": stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False),
        "b": stc.SpotVAE(adata, n_latent=8).fit(max_epochs=0, progress=False),
        "half": stc.SpotVAE(adata[:, :100].copy(), n_latent=5).fit(max_epochs=0, progress=False),
    }
    stc.tl.concepts(adata, models["a"], groupby="layer", unlabelled="ignore", n_null=0)
    return adata, models


@pytest.mark.parametrize("context", [0, 3])
def test_agreement_is_that_of_saliency_fitted_by_hand(made, context):
    adata, models = made[0].copy(), made[1]
    stc.tl.concepts(adata, models["a"], groupby="layer", unlabelled="ignore", context=context, n_null=0)
    table = stc.evaluate.stability(adata, models, n_top=20)
    assert len(table) == 15
    found = {}
    for name, model in models.items():
        one = adata.copy()
        stc.tl.concepts(one, model, groupby="layer", unlabelled="ignore", context=context, n_null=0)
        stc.tl.saliency(one, model)
        found[name] = one
    for row in table.itertuples():
        x, y = (found[m].varm["concept_saliency"][row.concept].to_numpy() for m in (row.model_a, row.model_b))
        both = np.isfinite(x) & np.isfinite(y)
        assert row.spearman == pytest.approx(spearmanr(x[both], y[both]).statistic, abs=1e-3)
        first, second = (set(np.flatnonzero(both)[np.argsort(-v[both])[:20]]) for v in (x, y))
        assert row.overlap == pytest.approx(len(first & second) / 20, abs=0.051)
        assert row.expected == 20 / both.sum()
        scores = [found[m].obsm["concept_score"][row.concept] for m in (row.model_a, row.model_b)]
        assert row.spearman_score == pytest.approx(spearmanr(*scores).statistic, abs=1e-3)


def test_the_same_model_agrees_with_itself(made):
    adata, models = made
    table = stc.evaluate.stability(adata, [models["a"], models["a"]], concept=["GCL", "ONL"])
    assert table["concept"].tolist() == ["GCL", "ONL"]
    assert table[["spearman", "spearman_score", "overlap"]].to_numpy() == pytest.approx(1)


def test_seeds_are_fitted(made):
    adata, models = made
    asked = []

    def fit(seed):
        asked.append(seed)
        return models["ab"[seed % 2]]

    table = stc.evaluate.stability(adata, seeds=(4, 5, 4), fit=fit, concept="GL")
    assert asked == [4, 5]
    assert table[["model_a", "model_b"]].to_numpy().tolist() == [["seed 4", "seed 5"]]


def test_wrong_use(made):
    adata, models = made
    with pytest.raises(ValueError, match="at least two models"):
        stc.evaluate.stability(adata, [models["a"]])
    with pytest.raises(ValueError, match="two different seeds"):
        stc.evaluate.stability(adata, seeds=(1, 1))
    with pytest.raises(TypeError, match="list of fitted models"):
        stc.evaluate.stability(adata, models["a"])
    with pytest.raises(ValueError, match="n_top=101 must lie between 1 and 100"):
        stc.evaluate.stability(adata, models, n_top=101)
    with pytest.raises(KeyError, match="'X' is unknown"):
        stc.evaluate.stability(adata, models, concept="X")


@given(hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(3, 20)), elements=st.integers(-5, 5).map(float)))
def test_rank_correlation_is_scipys(values):
    a, b = values
    found = spearman(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_overlap_puts_missing_values_last():
    a, b = np.array([np.nan, 3.0, 2.0, 1.0]), np.array([9.0, 3.0, 1.0, 2.0])
    assert top_overlap(a, b, 2) == 0.5
    assert top_overlap(a, b, 3) == pytest.approx(2 / 3)
