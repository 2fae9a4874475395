from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from st_concepts.concepts._gene_concepts import latent_correlation, layer_loading, make_gene_concept


@given(st.integers(3, 25), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_latent_correlation_is_scipys(n_latent, seed) -> None:
    rng = np.random.default_rng(seed)
    z, t = rng.normal(size=(6, n_latent)), rng.normal(size=n_latent)
    r, p = latent_correlation(z, t)
    for i in range(6):
        expected = pearsonr(z[i], t)
        assert r[i] == pytest.approx(expected.statistic, abs=1e-12)
        assert p[i] == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-14)


def test_layer_loading_is_scipys_over_known_pixels() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((8, 40)) * (rng.random((8, 40)) < 0.4)
    values[3] = 0
    x = sp.csr_matrix(values)
    inside, known = rng.random(40) > 0.6, rng.random(40) > 0.2
    r, p = layer_loading(x, inside, known)
    dense = x.toarray()
    for i in range(8):
        if i == 3:
            assert np.isnan(r[i])
            continue
        expected = pearsonr(dense[i, known], inside[known].astype(float))
        assert r[i] == pytest.approx(expected.statistic)
        assert p[i] == pytest.approx(expected.pvalue)


def test_a_concept_is_the_mean_of_the_best_usable_genes() -> None:
    z = np.arange(12.0).reshape(6, 2)
    r = np.array([0.1, 0.9, np.nan, 0.8, 0.7, 0.2])
    usable = np.array([True, True, True, False, True, False])
    made = make_gene_concept("c", z, r, r, usable=usable, n_top=3, always=[5])
    assert made.order.tolist() == [1, 4, 5, 0]
    np.testing.assert_allclose(made.vector, z[[1, 4, 5]].mean(0))
    assert np.isnan(made.r[[2, 3]]).all()
    with pytest.raises(ValueError, match="only 4 genes"):
        make_gene_concept("c", z, r, r, usable=usable, n_top=5, always=[5])
