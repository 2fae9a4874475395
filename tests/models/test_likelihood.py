from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from st_concepts.models._likelihood import CountHistogram, nb_log_prob, nb_rest


def _problem(seed: int, n: int = 7, g: int = 5, high: float = 4.0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.6, high, (n, g)))
    counts[0] = 0  # an empty spot
    counts[:, 0] = 0  # and an empty gene
    return counts, torch.from_numpy(rng.normal(size=(n, g))), torch.from_numpy(rng.normal(1.0, 1.0, g))


def _textbook(logits: torch.Tensor, log_theta: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    mean = counts.sum(1, keepdim=True) * torch.softmax(logits, 1)
    full = nb_log_prob(counts, mean, log_theta.exp())
    return full[counts.sum(1) > 0].sum()  # a mean of exactly zero has no gradient to compare


def test_log_probability_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    counts, mean = rng.poisson(3.0, (20, 4)), rng.gamma(1.0, 3.0, (20, 4))
    theta = np.array([0.05, 1.0, 20.0, 3000.0])
    want = stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
    got = nb_log_prob(torch.from_numpy(counts).double(), torch.from_numpy(mean), torch.from_numpy(theta))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-8, atol=1e-9)


def test_log_probability_of_nothing_from_nothing_is_zero() -> None:
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert float(nb_log_prob(zero, zero, torch.ones(1, dtype=torch.float64))) == 0.0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), high=st.sampled_from([0.3, 4.0, 300.0]))
def test_the_two_parts_add_up_to_the_textbook_sum(seed, high) -> None:
    counts, logits, log_theta = _problem(seed, high=high)
    c = torch.from_numpy(counts).double()
    histogram = CountHistogram.of(sp.csr_matrix(counts.astype(np.float32)))
    got = nb_rest(logits, log_theta, c, c.sum(1)) + histogram.log_likelihood(log_theta)
    assert float(got) == pytest.approx(float(_textbook(logits, log_theta, c)), rel=1e-6, abs=1e-6)


def test_fused_gradients_pass_gradcheck() -> None:
    counts, logits, log_theta = _problem(3)
    c = torch.from_numpy(counts).double()
    assert torch.autograd.gradcheck(
        lambda a, b: nb_rest(a, b, c, c.sum(1)), (logits.requires_grad_(), log_theta.requires_grad_())
    )


def test_gradients_equal_those_of_the_textbook_form() -> None:
    counts, logits, log_theta = _problem(4)
    c = torch.from_numpy(counts).double()
    histogram = CountHistogram.of(sp.csr_matrix(counts.astype(np.float32)))
    inputs = (logits.requires_grad_(), log_theta.requires_grad_())
    got = torch.autograd.grad(2.5 * (nb_rest(*inputs, c, c.sum(1)) + histogram.log_likelihood(log_theta)), inputs)
    want = torch.autograd.grad(2.5 * _textbook(*inputs, c), inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_theta_derivatives_are_those_of_autograd() -> None:
    counts, _, log_theta = _problem(5)
    histogram = CountHistogram.of(sp.csr_matrix(counts.astype(np.float32)))
    theta = log_theta.exp().requires_grad_()
    (first,) = torch.autograd.grad(histogram.log_likelihood(theta.log()), theta, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), theta)
    got = histogram.theta_derivatives(theta.detach())
    torch.testing.assert_close(got[0], first.detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got[1], second, rtol=1e-8, atol=1e-10)


def test_histogram_counts_pairs() -> None:
    histogram = CountHistogram.of(sp.csr_matrix(np.array([[2, 0, 1], [2, 0, 3], [0, 0, 1]], dtype=np.float32)))
    pairs = dict(
        zip(zip(histogram.gene.tolist(), histogram.count.tolist(), strict=True), histogram.times.tolist(), strict=True)
    )
    assert pairs == {(0, 2.0): 2.0, (2, 1.0): 2.0, (2, 3.0): 1.0}
    assert histogram.n_obs == 3


def test_histogram_of_an_empty_matrix() -> None:
    histogram = CountHistogram.of(sp.csr_matrix((3, 2), dtype=np.float32))
    assert float(histogram.log_likelihood(torch.zeros(2))) == 0.0
