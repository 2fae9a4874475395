from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from st_concepts.stats import (
    association_by_section,
    association_test,
    combine_sections,
    fdr_bh,
    moran_null,
    permutation_null,
)

RNG = np.random.default_rng(0)
XY = RNG.uniform(0, 12, (150, 2))
X = RNG.poisson(1.0, (150, 30)).astype(float)
Y = np.c_[XY[:, 0] > 6, X[:, 0] - X[:, 1] + RNG.normal(size=150)].astype(float)
MORAN = moran_null(XY)
FIELDS = ("covariance", "correlation", "z", "pval", "pval_greater", "qval", "pval_empirical")


@pytest.mark.parametrize("null", [MORAN, moran_null(XY, exact_below=50, n_tiles=30), permutation_null(150), "none"])
def test_statistics_equal_numpy(null):
    result = association_test(X, Y, null, n_null=0)
    np.testing.assert_allclose(result.correlation, np.corrcoef(X.T, Y.T)[:30, 30:], atol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(X.T, Y.T, ddof=0)[:30, 30:], atol=1e-12)


def test_parametric_p_equals_scipy():
    result = association_test(X, Y, "none")
    for alternative, pval in (("two-sided", result.pval), ("greater", result.pval_greater)):
        expected = [[stats.pearsonr(x, y, alternative=alternative).pvalue for y in Y.T] for x in X.T]
        np.testing.assert_allclose(pval, expected, rtol=1e-9)
    np.testing.assert_allclose(stats.norm.sf(result.z), result.pval_greater, rtol=1e-9)


def test_parametric_p_survives_perfect_correlation():
    result = association_test(np.c_[Y[:, 1], -Y[:, 1]], Y[:, 1], "none")
    assert (result.pval < 1e-200).all()
    assert np.isfinite(result.z).all()
    assert result.z[0, 0] > 30 > -30 > result.z[1, 0]


def test_empirical_permutation_p_agrees_with_scipy():
    x, y = X[:12, :3], Y[:12, 1]
    result = association_test(x, y, permutation_null(12), n_null=20_000, seed=3)
    for j in range(3):
        exact = stats.permutation_test(
            (x[:, j],), lambda a: np.abs(np.corrcoef(a, y)[0, 1]), permutation_type="pairings", n_resamples=20_000,
            alternative="greater", rng=np.random.default_rng(4),
        ).pvalue  # fmt: skip
        assert abs(result.pval_empirical[j, 0] - exact) < 4 * np.sqrt(exact * (1 - exact) / 10_000) + 1e-3


def test_moran_z_and_empirical_p_follow_the_copies():
    result = association_test(X, Y, MORAN, n_null=4000, seed=5)
    genes, target = MORAN.project(X), MORAN.project(Y[:, :1])[:, 0]
    copies = MORAN.draw(target, 8000, np.random.default_rng(6)) @ genes
    observed = target @ genes
    np.testing.assert_allclose(result.z[:, 0], observed / copies.std(axis=0), atol=0.12)
    p = (np.abs(copies) >= np.abs(observed)).mean(axis=0)
    np.testing.assert_allclose(result.pval_empirical[:, 0], p, atol=4 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(result.pval, 2 * stats.norm.sf(np.abs(result.z)))
    np.testing.assert_allclose(result.pval_greater, stats.norm.sf(result.z))


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.coo_array])
@pytest.mark.parametrize("null", [MORAN, permutation_null(150), moran_null(XY, exact_below=50, n_tiles=30)])
def test_sparse_equals_dense(kind, null):
    dense = association_test(X, Y, null, n_null=50)
    sparse = association_test(kind(X), Y, null, n_null=50)
    for field in FIELDS:
        np.testing.assert_allclose(getattr(sparse, field), getattr(dense, field), atol=1e-10)


def test_gene_blocks_do_not_matter(monkeypatch):
    whole = association_test(X, Y, MORAN, n_null=20)
    monkeypatch.setattr("st_concepts.stats._statistics.BLOCK_ENTRIES", 150 * 7)
    parts = association_test(X, Y, MORAN, n_null=20)
    for field in FIELDS:
        np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.booleans())
def test_units_of_the_target_do_not_matter(scale, shift, integer):
    y = Y[:, 0] if integer else Y[:, 1]
    a = association_test(X, y, MORAN, n_null=0)
    b = association_test(X, y * scale + shift, MORAN, n_null=0)
    np.testing.assert_allclose(b.z, a.z, atol=1e-6)
    np.testing.assert_allclose(b.covariance, a.covariance * scale, atol=1e-6 * scale)


@pytest.mark.parametrize("null", [MORAN, permutation_null(150), "none"])
def test_constant_genes_and_targets_are_never_significant(null):
    x = np.c_[X, np.full(150, 0.1), np.zeros(150)]
    y = np.c_[Y, np.full(150, 0.3)]
    result = association_test(x, y, null, n_null=20)
    assert (result.pval[-2:] == 1).all()
    assert (result.pval_greater[-2:] == 1).all()
    assert (result.covariance[-2:] == 0).all()
    assert (result.z[:, 2] == 0).all()
    assert np.isfinite(result.qval).all()


@pytest.mark.parametrize("kind", ["moran", "permutation", "none"])
def test_spots_without_target_are_left_out(kind):
    y = Y.copy()
    y[::3, 1] = np.nan
    keep = ~np.isnan(y[:, 1])
    make = {"moran": moran_null, "permutation": lambda xy: permutation_null(len(xy)), "none": lambda xy: "none"}[kind]
    result = association_test(X, y, make(XY), n_null=0)
    only = association_test(X[keep], y[keep, 1], make(XY[keep]), n_null=0)
    np.testing.assert_allclose(result.z[:, 1], only.z[:, 0], atol=1e-10)
    np.testing.assert_allclose(result.covariance[:, 1], only.covariance[:, 0], atol=1e-12)
    np.testing.assert_allclose(result.z[:, 0], association_test(X, y[:, 0], make(XY), n_null=0).z[:, 0], atol=1e-12)
    assert result.n_obs.tolist() == [150, 100]


def test_section_shifts_play_no_part():
    section = np.repeat([0, 1, 2], 50)
    shifted = X + 10 * section[:, None]
    for null in (moran_null(XY, section), permutation_null(150, section)):
        a = association_test(X, Y, null, n_null=0)
        b = association_test(shifted, Y + section[:, None], null, n_null=0)
        np.testing.assert_allclose(a.z, b.z, atol=1e-9)
        np.testing.assert_allclose(a.correlation, b.correlation, atol=1e-9)
    a = association_test(shifted, Y, "none", sections=section)
    np.testing.assert_allclose(a.correlation, b.correlation, atol=1e-9)


def test_own_term_is_removed_as_if_subtracted_by_hand():
    weights = RNG.normal(size=30)
    score = X @ weights
    for null in (MORAN, permutation_null(150), "none"):
        result = association_test(X, score, null, n_null=0, own_weights=weights)
        for j in (0, 7):
            by_hand = association_test(X[:, [j]], score - weights[j] * X[:, j], null, n_null=0)
            np.testing.assert_allclose(result.z[j], by_hand.z[0], atol=1e-8)
            np.testing.assert_allclose(result.correlation[j], by_hand.correlation[0], atol=1e-10)
            np.testing.assert_allclose(result.covariance[j], by_hand.covariance[0], atol=1e-10)


def test_smooth_unrelated_genes_need_the_spatial_null():
    """Gaussian random fields against a smooth target: the shuffle rejects far too often, Moran's null does not."""
    side = np.arange(15.0)
    xy = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    root = np.linalg.cholesky(np.exp(-0.5 * (cdist(xy, xy) / 2.5) ** 2) + 1e-6 * np.eye(225))
    rng = np.random.default_rng(1)
    genes = root @ rng.normal(size=(225, 400)) + rng.normal(0, 0.5, (225, 400))
    targets = root @ rng.normal(size=(225, 10))
    iid = rng.normal(size=(225, 400))
    shuffled = association_test(genes, targets, permutation_null(225), n_null=0)
    moran = association_test(genes, targets, moran_null(xy), n_null=200)
    assert (shuffled.pval < 0.05).mean() > 0.2
    assert 0.03 < (moran.pval < 0.05).mean() < 0.065
    assert 0.03 < (moran.pval_empirical < 0.05).mean() < 0.075
    assert 0.03 < (association_test(iid, targets, moran_null(xy), n_null=0).pval < 0.05).mean() < 0.065


def test_seed_decides_and_global_state_does_not():
    a = association_test(X, Y, MORAN, n_null=30, seed=1).pval_empirical
    np.testing.assert_array_equal(a, association_test(X, Y, MORAN, n_null=30, seed=1).pval_empirical)
    assert (a != association_test(X, Y, MORAN, n_null=30, seed=2).pval_empirical).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": Y[:10]}, "150 rows"),
        ({"targets": np.full(150, np.inf)}, "infinite"),
        ({"targets": np.full(150, np.nan)}, "at least 3"),
        ({"null": "moran"}, "null model or 'none'"),
        ({"null": permutation_null(4)}, "built for 4"),
        ({"sections": np.zeros(150)}, "belong to the null"),
        ({"own_weights": np.zeros(3)}, "own_weights"),
        ({"X": X * np.nan}, "NaN"),
        ({"n_null": -1}, "n_null"),
    ],
)
def test_errors_name_the_fault(arguments, message):
    with pytest.raises(ValueError, match=message):
        association_test(**({"X": X, "targets": Y, "null": MORAN} | arguments))


def test_stouffer_equals_scipy_and_tolerates_missing_sections():
    z = RNG.normal(size=(4, 3, 2))
    w = np.array([1.0, 2.0, 3.0, 0.5])
    combined = combine_sections(z, w)
    expected = stats.combine_pvalues(stats.norm.sf(z), method="stouffer", weights=w[:, None, None], axis=0)
    np.testing.assert_allclose(combined.pval_greater, expected.pvalue, rtol=1e-9)
    z[1, 0, 0] = np.nan
    z[:, 2, 1] = np.nan
    combined = combine_sections(z, w)
    np.testing.assert_allclose(combined.z[0, 0], combine_sections(z[[0, 2, 3], :1, :1], w[[0, 2, 3]]).z[0, 0])
    assert combined.n_sections[0, 0] == 3
    assert np.isnan([combined.z[2, 1], combined.qval[2, 1], combined.sign_consistency[2, 1]]).all()
    assert combine_sections(np.array([1.0, 2, -1, 3])[:, None, None]).sign_consistency[0, 0] == 0.75


def test_by_section_tests_each_section_alone():
    section = np.repeat([0, 1, 2], 50)
    y = Y.copy()
    y[section == 2, 1] = np.nan
    null = moran_null(XY, section)
    results, combined = association_by_section(sp.csr_array(X), y, null)
    alone = association_test(X[section == 1], y[section == 1], moran_null(XY[section == 1]), n_null=0)
    np.testing.assert_allclose(results[1].z, alone.z, atol=1e-10)
    assert combined.n_sections[0].tolist() == [3, 2]
    stack = np.stack([results[s].z[:, 1] for s in (0, 1)])[..., None]
    np.testing.assert_allclose(combined.z[:, 1], combine_sections(stack).z[:, 0], atol=1e-10)


def test_fdr_equals_statsmodels_without_the_missing():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = RNG.uniform(size=(40, 3)) ** 2
    np.testing.assert_allclose(fdr_bh(p, axis=0)[:, 1], multitest.multipletests(p[:, 1], method="fdr_bh")[1])
    holes = p[:, 0].copy()
    holes[[3, 8]] = np.nan
    out = fdr_bh(holes)
    assert np.isnan(out[[3, 8]]).all()
    np.testing.assert_allclose(np.delete(out, [3, 8]), fdr_bh(np.delete(holes, [3, 8])))
    assert np.isnan(fdr_bh([np.nan, np.nan])).all()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fdr_bh([1.5])
