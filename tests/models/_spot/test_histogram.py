from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from st_concepts.models._spot.histogram import CountHistogram, HistogramBuilder


def _counts(seed: int, high: float, n: int = 12, g: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, high, (n, g)))
    counts[:, 0] = 0
    return counts


def _csr(counts: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(counts.astype(np.float32))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), high=st.sampled_from([0.5, 5.0, 60.0, 3000.0]))
def test_is_the_sum_of_log_gammas(seed, high) -> None:
    counts = _counts(seed, high)
    log_theta = np.random.default_rng(seed).normal(0.0, 2.0, counts.shape[1])
    theta = np.exp(log_theta)
    want = (gammaln(counts + theta) - gammaln(theta) - gammaln(counts + 1.0)).sum()
    got = CountHistogram.of(_csr(counts)).log_likelihood(torch.from_numpy(log_theta))
    assert float(got) == pytest.approx(want, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("high", [3.0, 200.0])
def test_gradient_is_that_of_differences(high) -> None:
    histogram = CountHistogram.of(_csr(_counts(1, high)))
    log_theta = torch.linspace(-2.0, 3.0, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(histogram.log_likelihood, log_theta)


@pytest.mark.parametrize("high", [3.0, 500.0])
def test_derivatives_in_theta_are_those_of_log_gamma(high) -> None:
    counts = _counts(2, high)
    theta = torch.linspace(0.1, 40.0, 6, dtype=torch.float64).requires_grad_()
    c = torch.from_numpy(counts).double()
    value = (torch.lgamma(c + theta) - torch.lgamma(theta)).sum()
    (first,) = torch.autograd.grad(value, theta, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), theta)
    got = CountHistogram.of(_csr(counts)).theta_derivatives(theta.detach())
    torch.testing.assert_close(got[0], first.detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got[1], second, rtol=1e-7, atol=1e-9)


def test_blocks_add_up() -> None:
    counts = _counts(3, 100.0, n=30)
    whole = CountHistogram.of(_csr(counts))
    builder = HistogramBuilder(6)
    for rows in (slice(0, 7), slice(7, 7), slice(7, 30)):
        builder.add(_csr(counts[rows]))
    parts = builder.finish()
    for name, value in vars(whole).items():
        other = getattr(parts, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == pytest.approx(other)
    assert parts.n_obs == 30


def test_of_an_empty_matrix() -> None:
    histogram = CountHistogram.of(sp.csr_matrix((3, 2), dtype=np.float32))
    assert float(histogram.log_likelihood(torch.zeros(2))) == 0.0
    assert histogram.n_obs == 3
