"""Skewed tails: against scipy, against permutations, and on sparse genes in a small layer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from st_concepts.stats import RowStream, association_test, moran_null, permutation_null
from st_concepts.stats._tails import Moments, pearson_sf, two_sided

RNG = np.random.default_rng(0)
N = 144
XY = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
CODES = (XY[:, 0] > 7).astype(int)
SPARSE = RNG.poisson(RNG.uniform(0.02, 0.5, 40) * np.ones((N, 1))).astype(float)
SMALL = (np.linalg.norm(XY - [3, 3], axis=1) < 2).astype(float)


def test_the_tail_is_scipys():
    z, g = np.meshgrid(np.linspace(-6, 12, 37), [-3.0, -0.5, -1e-3, 0.0, 1e-6, 0.01, 0.7, 4.0])
    np.testing.assert_allclose(pearson_sf(z, g), stats.pearson3.sf(z, g), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(two_sided(z, g * 0), 2 * stats.norm.sf(np.abs(z)), rtol=1e-12)


@pytest.mark.parametrize("section", [np.zeros(N, int), CODES])
def test_moments_are_those_of_all_permutations(section):
    rng = np.random.default_rng(1)
    x, y = SPARSE[:, -3:], SMALL[:, None]
    null = permutation_null(N, section)
    copies = null.draw(null.project(y)[:, 0], 100_000, rng) @ null.project(x)
    found = Moments.of(y, section).against(Moments.of(x, section))
    np.testing.assert_allclose(found.skewness[0], stats.skew(copies), atol=0.06)
    z = copies / copies.std(axis=0)
    for j, skewness in enumerate(found.skewness[0]):
        at = np.quantile(z[:, j], 0.998)
        middle = (z[:, j] > at + 1e-9).mean() + (np.abs(z[:, j] - at) < 1e-9).mean() / 2
        assert abs(np.log(pearson_sf(at, skewness) / middle)) < np.log(2)
        assert stats.norm.sf(at) < middle / 2


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("null", ["moran", "tiles", "permutation"])
def test_a_stream_gives_what_the_matrix_gives(null, outer):
    model = {
        "moran": moran_null(XY, CODES),
        "tiles": moran_null(XY, CODES, exact_below=20, n_tiles=30),
        "permutation": permutation_null(N, CODES),
    }[null]
    a, b = RNG.uniform(1, 2, N), RNG.uniform(0, 0.3, 40)
    x = sp.csr_matrix(SPARSE)
    blocks = [(slice(0, 50), x[:50]), (slice(50, N), x[50:])]
    y = np.c_[SMALL, XY[:, 1]]
    y[:9, 1] = np.nan
    stream = RowStream(x.shape, lambda: blocks, outer=(a, b) if outer else None)
    want = association_test(SPARSE - outer * np.outer(a, b), y, model, tail="skewed", n_null=0)
    got = association_test(stream, y, model, tail="skewed", n_null=0)
    assert got.tail == "skewed"
    for field in ("z", "pval", "pval_greater"):
        np.testing.assert_allclose(getattr(got, field), getattr(want, field), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spatial", [False, True])
def test_sparse_genes_in_a_small_layer_are_no_discovery(spatial):
    rng = np.random.default_rng(3)
    null = moran_null(XY) if spatial else permutation_null(N)
    listed = {"normal": 0.0, "skewed": 0.0}
    below = {"normal": 0.0, "skewed": 0.0}
    for _ in range(30):
        genes = rng.poisson(np.exp(rng.uniform(np.log(0.01), 0, 1000)) * np.ones((N, 1))).astype(float)
        genes = genes[:, (genes > 0).sum(0) >= 5]
        for tail in listed:
            result = association_test(sp.csr_matrix(genes), SMALL, null, n_null=0, tail=tail)
            listed[tail] += (result.qval < 0.05).any() / 30
            below[tail] += (result.pval < 1e-3).mean() / 30
    assert listed["normal"] > 0.1
    assert listed["skewed"] < 0.1
    assert below["normal"] > 1.5e-3
    assert below["skewed"] < 1.5e-3


def test_a_marker_of_a_large_layer_keeps_its_p():
    rng = np.random.default_rng(4)
    y = (XY[:, 0] > 5).astype(float)
    x = rng.poisson(2 + y[:, None] * rng.uniform(0, 3, 20)).astype(float)
    normal, skewed = (association_test(x, y, permutation_null(N), n_null=0, tail=t).pval for t in ("normal", "skewed"))
    strong = normal < 1e-3
    assert strong.sum() > 5
    assert np.abs(np.log10(skewed[strong] / normal[strong])).max() < 1.0


def test_an_unknown_tail_is_refused():
    with pytest.raises(ValueError, match="'normal', 'skewed'"):
        association_test(SPARSE, SMALL, "none", tail="heavy")
