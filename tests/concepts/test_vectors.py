from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from st_concepts.concepts import ESTIMATORS, discriminant, get_estimator, logistic, mean_difference, seed_regression
from st_concepts.concepts._vectors import shrinkage, shrunk_covariance


def _two_classes(n: int = 400, dims: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inside = np.arange(n) < n // 3
    mixing = rng.normal(size=(dims, dims))
    return rng.normal(size=(n, dims)) @ mixing + np.outer(inside, rng.normal(size=dims)), inside


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_mean_difference_is_the_difference_of_means() -> None:
    z, inside = _two_classes()
    expected = [np.mean([row[d] for row in z[inside]]) - np.mean([row[d] for row in z[~inside]]) for d in range(4)]
    np.testing.assert_allclose(mean_difference(z, inside, ~inside), expected, rtol=1e-12)


def test_mean_difference_ignores_spots_on_neither_side() -> None:
    z, inside = _two_classes()
    outside = ~inside & (np.arange(len(z)) % 2 == 0)
    changed = np.where((inside | outside)[:, None], z, 1e6)
    np.testing.assert_array_equal(mean_difference(z, inside, outside), mean_difference(changed, inside, outside))


def test_discriminant_by_hand() -> None:
    z, inside = _two_classes()
    n_in, n_out = inside.sum(), (~inside).sum()
    weight = max(5 / (5 + n_in * n_out / (n_in + n_out)), 0.1)
    cov = np.cov(z.T, bias=True)
    regularised = (1 - weight) * cov + weight * np.diag(cov).mean() * np.eye(4)
    expected = np.linalg.inv(regularised) @ (z[inside].mean(0) - z[~inside].mean(0))
    np.testing.assert_allclose(discriminant(z, inside, ~inside), expected, rtol=1e-5)


def test_discriminant_without_shrinkage_has_fishers_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Total and within-class covariance differ by the mean difference only, which keeps the direction."""
    z, inside = _two_classes()
    monkeypatch.setattr("st_concepts.concepts._vectors.shrinkage", lambda n_in, n_out: 0.0)
    fisher = LinearDiscriminantAnalysis(solver="lsqr").fit(z, inside).coef_[0]
    assert _cosine(discriminant(z, inside, ~inside), fisher) > 1 - 1e-9
    assert _cosine(mean_difference(z, inside, ~inside), fisher) < 0.99  # the test could tell them apart


def test_discriminant_uses_the_covariance_of_unlabelled_spots() -> None:
    z, inside = _two_classes()
    few_in, few_out = inside.copy(), ~inside
    few_in[5:] = False
    few_out[: len(z) // 3 + 40] &= np.arange(len(z) // 3 + 40) < len(z) // 3 + 10
    alone = few_in | few_out
    with_all = discriminant(z, few_in, few_out)
    without = discriminant(z[alone], few_in[alone], few_out[alone])
    assert _cosine(with_all, without) < 1 - 1e-6


def test_discriminant_takes_weights() -> None:
    """A weight of two thirds counts like two spots out of three at the same place."""
    z, inside = _two_classes(n=60)
    half = np.where(inside, 0.5, 0.0)
    n_in, n_out = half.sum(), (~inside).sum()
    difference = z[inside].mean(0) - z[~inside].mean(0)
    expected = np.linalg.solve(shrunk_covariance(z, shrinkage(n_in, n_out)), difference)
    np.testing.assert_allclose(discriminant(z, half, ~inside), expected)


@given(n_in=st.floats(0.5, 1e4), n_out=st.floats(0.5, 1e4))
def test_shrinkage_falls_with_more_labels(n_in: float, n_out: float) -> None:
    assert 0.1 <= shrinkage(n_in, n_out) <= 1.0
    assert shrinkage(2 * n_in, 2 * n_out) <= shrinkage(n_in, n_out)
    assert shrinkage(n_in, n_out) == shrinkage(n_out, n_in)


@settings(max_examples=30)
@given(weight=st.floats(0, 1), seed=st.integers(0, 5))
def test_shrunk_covariance_keeps_total_variance_and_can_be_inverted(weight: float, seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(3, 6))  # fewer spots than dimensions
    cov = shrunk_covariance(z, weight)
    assert np.trace(cov) == pytest.approx(z.var(0).sum(), rel=1e-6)
    if weight > 0.01:
        assert np.linalg.eigvalsh(cov).min() > 0


def test_logistic_is_the_penalised_regression_on_standardised_latents() -> None:
    z, inside = _two_classes()
    sd = z.std(0)
    fitted = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=10_000).fit(z / sd, inside)
    np.testing.assert_allclose(logistic(z, inside, ~inside), fitted.coef_[0] / sd, atol=2e-3)


def test_logistic_with_a_constant_dimension() -> None:
    z, inside = _two_classes()
    z[:, 2] = 3.0
    assert np.isfinite(logistic(z, inside, ~inside)).all()


def test_seed_regression_is_ridge() -> None:
    z, _ = _two_classes()
    target = z @ np.array([1.0, -2.0, 0.5, 0.0]) + np.random.default_rng(1).normal(size=len(z))
    np.testing.assert_allclose(
        seed_regression(z, target, whiten=False), np.cov(np.c_[z, target].T, bias=True)[:4, 4], rtol=1e-10
    )
    weight = shrinkage(len(z) / 2, len(z) / 2)
    penalty = weight * z.var(0).sum() / 4 / (1 - weight) * len(z)
    ridge = Ridge(alpha=penalty).fit(z, target).coef_ / (1 - weight)
    np.testing.assert_allclose(seed_regression(z, target, whiten=True), ridge, rtol=1e-5)


def test_unknown_estimator_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="discriminant, mean_difference, logistic"):
        get_estimator("lda")


def test_every_estimator_points_from_outside_to_inside() -> None:
    z, inside = _two_classes()
    for record in ESTIMATORS.values():
        score = z @ record.function(z, inside, ~inside)
        assert score[inside].mean() > score[~inside].mean(), record.name
