"""A stream of rows gives what the matrix gives."""

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
from st_concepts.stats import _permutation as null_module
from st_concepts.stats import _statistics as statistics
from st_concepts.stats._permutation import PermutationNull

FIELDS = ("covariance", "correlation", "z", "pval", "pval_greater", "qval", "qval_all")
RNG = np.random.default_rng(0)
N, G = 180, 23
XY = RNG.random((N, 2))
CODES = np.array(["b", "a", "c"])[np.minimum((XY[:, 0] * 2.9).astype(int), 2)]
DENSE = np.log1p(RNG.poisson(0.8 + np.outer(XY[:, 1], RNG.random(G)))) * (np.arange(G) != 4)
DENSE[:, 5] = 0.7  # no variance
X = sp.csr_matrix(DENSE.astype(np.float32))
Y = np.c_[XY[:, 1] > 0.5, np.sin(5 * XY[:, 0]) + 0.2 * RNG.normal(size=N), XY[:, 0]].astype(float)
OWN = RNG.normal(size=(G, 3)) * 0.1
NULLS = {
    "moran": lambda s: moran_null(XY, s),
    "tiles": lambda s: moran_null(XY, s, exact_below=20, n_tiles=12),
    "permutation": lambda s: permutation_null(N, s),
}


def stream(x: sp.csr_matrix = X, step: int = 37) -> RowStream:
    def read():
        for a in range(0, x.shape[0], step):
            rows = slice(a, min(a + step, x.shape[0]))
            yield rows, x[rows]

    return RowStream(x.shape, read)


def compare(a, b, fields=FIELDS) -> None:
    for field in fields:
        want = getattr(a, field)
        np.testing.assert_allclose(getattr(b, field), want, rtol=1e-7, atol=1e-10, err_msg=field)
    assert np.array_equal(a.n_obs, b.n_obs)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("sections", [None, CODES], ids=["one", "three"])
@pytest.mark.parametrize("own", [None, OWN], ids=["whole", "less own"])
@pytest.mark.parametrize("missing", [False, True])
def test_a_stream_gives_what_the_matrix_gives(null, sections, own, missing):
    model, y = NULLS[null](sections), Y.copy()
    if missing:
        y[:30, 0] = np.nan
        y[100:140, 2] = np.nan
    want = association_test(X, y, model, n_null=50, own_weights=own, seed=3)
    got = association_test(stream(), y, model, n_null=50, own_weights=own, seed=3)
    compare(want, got)
    np.testing.assert_allclose(got.pval_empirical, want.pval_empirical, atol=1e-12)
    assert (got.pval[[4, 5]] == 1).all()


@pytest.mark.parametrize("sections", [None, CODES])
def test_a_stream_without_null_model(sections):
    compare(*(association_test(x, Y, "none", sections=sections) for x in (X, stream())))


def test_little_memory_means_more_passes_and_the_same_result(monkeypatch):
    y = Y.copy()
    y[:30, 0] = np.nan
    want = association_test(X, y, NULLS["tiles"](None), n_null=30)
    monkeypatch.setattr(statistics, "GATHERED_BYTES", 12 * 8 * 5)
    passes = []
    source = stream()
    got = association_test(
        RowStream(X.shape, lambda: passes.append(1) or source.read()), y, NULLS["tiles"](None), n_null=30
    )
    compare(want, got)
    np.testing.assert_allclose(got.pval_empirical, want.pval_empirical)
    assert len(passes) == 2 * -(-G // 5)


class Foreign(NullModel):
    """A null model of a user's own: the abstract methods alone, here those of another."""

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


@pytest.mark.parametrize("null", ["moran", "tiles", "permutation"])
@pytest.mark.parametrize("source", [X, DENSE, stream()], ids=["sparse", "dense", "stream"])
def test_a_null_model_of_ones_own_is_taken_at_its_word(null, source, monkeypatch):
    y = Y.copy()
    y[:30, 0] = np.nan
    model = NULLS[null](CODES)
    want = association_test(X, y, model, n_null=20, own_weights=OWN, seed=1)
    monkeypatch.setattr(statistics, "GATHERED_BYTES", 12 * N * 9)  # three passes
    got = association_test(source, y, Foreign(model), n_null=20, own_weights=OWN, seed=1)
    rtol = 1e-5 if source is DENSE else 1e-7
    for field in ("covariance", "correlation", "z"):
        np.testing.assert_allclose(getattr(got, field), getattr(want, field), rtol=rtol, atol=1e-6, err_msg=field)
    assert got.null == "foreign"
    assert np.abs(got.pval_empirical - want.pval_empirical).max() <= 2 / 21


def test_one_pass_serves_all_targets():
    y = Y.copy()
    y[:30, 0] = np.nan
    passes, source = [], stream()
    association_test(RowStream(X.shape, lambda: passes.append(1) or source.read()), y, NULLS["tiles"](CODES), n_null=5)
    assert passes == [1]


@pytest.mark.parametrize("null", NULLS)
def test_sections_apart(null):
    y = Y.copy()
    y[CODES == "b", 1] = 3.0
    y[:20, 2] = np.nan
    pairs = [association_by_section(x, y, NULLS[null](CODES), own_weights=OWN) for x in (X, stream())]
    (each, combined), (each_stream, combined_stream) = pairs
    assert list(each) == list(each_stream)
    for code, result in each.items():
        compare(result, each_stream[code])
    for field in ("z", "pval", "qval", "sign_consistency"):
        np.testing.assert_allclose(getattr(combined_stream, field), getattr(combined, field), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("few", [1, 7, 40])
@pytest.mark.parametrize("sections", [None, CODES])
def test_copies_drawn_in_parts_are_the_copies(few, sections):
    null = permutation_null(N, sections)
    assert isinstance(null, PermutationNull)
    coef = null.project(Y[:, [1]])[:, 0]
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    whole = null.draw(coef, 40, one)
    assert np.array_equal(np.concatenate(list(null.draw_in_parts(coef, 40, few, other))), whole)
    assert one.random() == other.random()


def test_copies_are_shuffled_few_at_a_time(monkeypatch):
    want = association_test(X, Y, NULLS["permutation"](CODES), n_null=50)
    monkeypatch.setattr(null_module, "_COPY_ENTRIES", N * 8)
    got = association_test(stream(), Y, NULLS["permutation"](CODES), n_null=50)
    np.testing.assert_allclose(got.pval_empirical, want.pval_empirical)


def test_values_that_are_not_finite_and_rows_out_of_order_are_errors():
    bad = X.copy()
    bad.data[5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        association_test(stream(bad), Y, "none")
    twice = RowStream(X.shape, lambda: [(slice(0, N), X), (slice(0, N), X)])
    with pytest.raises(ValueError, match="must ascend"):
        association_test(twice, Y, "none")
