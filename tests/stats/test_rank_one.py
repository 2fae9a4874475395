"""Rows less a rank-one matrix give what the explicit matrix gives, and nothing dense is made."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from st_concepts.stats import (
    NullModel,
    RowStream,
    association_by_section,
    association_test,
    moran_null,
    permutation_null,
)
from st_concepts.stats import _statistics as statistics

FIELDS = ("covariance", "correlation", "z", "pval", "pval_greater", "qval", "qval_all")
RNG = np.random.default_rng(0)
N, G = 150, 19
XY = RNG.random((N, 2))
CODES = np.array(["b", "a", "c"])[np.minimum((XY[:, 0] * 2.9).astype(int), 2)]
ROWS = sp.csr_matrix(RNG.poisson(0.5, (N, G)) * RNG.uniform(0.5, 2.0, (N, G)))
A, B = np.sqrt(RNG.integers(40, 90, N)), RNG.uniform(0.1, 0.5, G)
A[::11], B[3] = 0.0, 0.0
DENSE = ROWS.toarray() - np.outer(A, B)
Y = np.c_[XY[:, 1] > 0.5, np.sin(5 * XY[:, 0]) + 0.2 * RNG.normal(size=N), XY[:, 0]].astype(float)
Y[:30, 0] = np.nan
Y[100:120, 2] = np.nan
OWN = RNG.normal(size=(G, 3)) * 0.1


class Foreign(NullModel):
    """A null model of a user's own, which gathers the genes themselves."""

    name = "foreign"

    def __init__(self, inner):
        self.inner, self.n_obs, self.sections = inner, inner.n_obs, inner.sections
        self.blocks, self.dims = inner.blocks, inner.dims

    def project(self, values):
        return self.inner.project(values)

    def draw(self, coef, n, rng):
        return self.inner.draw(coef, n, rng)

    def subset(self, keep):
        return Foreign(self.inner.subset(keep))


NULLS = {
    "moran": lambda s: moran_null(XY, s),
    "tiles": lambda s: moran_null(XY, s, exact_below=20, n_tiles=12),
    "permutation": lambda s: permutation_null(N, s),
    "foreign": lambda s: Foreign(moran_null(XY, s)),
}


def stream(step: int = 37) -> RowStream:
    def read():
        for a in range(0, N, step):
            rows = slice(a, min(a + step, N))
            yield rows, ROWS[rows]

    return RowStream(ROWS.shape, read, outer=(A, B))


def compare(got, want) -> None:
    for field in FIELDS:
        np.testing.assert_allclose(getattr(got, field), getattr(want, field), rtol=1e-7, atol=1e-9, err_msg=field)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("sections", [None, CODES], ids=["one", "three"])
@pytest.mark.parametrize("own", [None, OWN], ids=["whole", "less own"])
def test_it_is_the_explicit_matrix(null, sections, own, monkeypatch):
    model = NULLS[null](sections)
    want = association_test(DENSE, Y, model, n_null=40, own_weights=own, seed=3)
    # several ranges of genes, each with its own part of the rank-one matrix
    monkeypatch.setattr(statistics, "GATHERED_BYTES", max(7 * model.bytes_a_gene, 1))
    monkeypatch.setattr(statistics, "BLOCK_ENTRIES", 5 * N)
    got = association_test(stream(), Y, model, n_null=40, own_weights=own, seed=3)
    compare(got, want)
    np.testing.assert_allclose(got.pval_empirical, want.pval_empirical, atol=1e-12)


def test_held_rows_and_plain_sums():
    want = association_test(DENSE, Y, "none", sections=CODES)
    for x in (stream(), stream().held(), stream(N)):
        compare(association_test(x, Y, "none", sections=CODES), want)


@pytest.mark.parametrize("null", ["moran", "permutation"])
def test_sections_apart(null):
    pairs = [association_by_section(x, Y, NULLS[null](CODES)) for x in (stream(), DENSE)]
    for code, result in pairs[0][0].items():
        compare(result, pairs[1][0][code])
    np.testing.assert_allclose(pairs[0][1].z, pairs[1][1].z, rtol=1e-7, atol=1e-9)


def test_what_cancels_to_a_constant_does_not_vary():
    flat = RowStream(
        (N, 2), lambda: [(slice(0, N), sp.csr_matrix(np.ones((N, 2)) / 3))], outer=(np.ones(N), np.ones(2) / 3)
    )
    for null in (moran_null(XY), permutation_null(N)):
        assert (association_test(flat, Y, null, n_null=9).pval == 1).all()


def test_a_part_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="rank-one part"):
        RowStream((N, G), lambda: [], outer=(A[:-1], B))
    with pytest.raises(ValueError, match="rank-one part"):
        RowStream((N, G), lambda: [], outer=(A, B * np.nan))
