from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from st_concepts.models._spot.histogram import CountHistogram
from st_concepts.models._spot.likelihood import nb_log_prob, nb_rest


def _problem(seed: int, n: int = 7, g: int = 5, high: float = 4.0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.6, high, (n, g)))
    counts[0] = 0  # an empty spot
    counts[:, 0] = 0  # and an empty gene
    return counts, torch.from_numpy(rng.normal(size=(n, g))), torch.from_numpy(rng.normal(1.0, 1.0, g))


def _nonzeros(c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    row, gene = c.nonzero().T
    return row, gene, c[row, gene], c.sum(1)


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
    got = nb_rest(logits, log_theta, *_nonzeros(c)) + histogram.log_likelihood(log_theta)
    assert float(got) == pytest.approx(float(_textbook(logits, log_theta, c)), rel=1e-6, abs=1e-6)


def test_fused_gradients_pass_gradcheck() -> None:
    counts, logits, log_theta = _problem(3)
    c = torch.from_numpy(counts).double()
    assert torch.autograd.gradcheck(
        lambda a, b: nb_rest(a, b, *_nonzeros(c)), (logits.requires_grad_(), log_theta.requires_grad_())
    )


def test_gradients_equal_those_of_the_textbook_form() -> None:
    counts, logits, log_theta = _problem(4)
    c = torch.from_numpy(counts).double()
    histogram = CountHistogram.of(sp.csr_matrix(counts.astype(np.float32)))
    inputs = (logits.requires_grad_(), log_theta.requires_grad_())
    got = torch.autograd.grad(2.5 * (nb_rest(*inputs, *_nonzeros(c)) + histogram.log_likelihood(log_theta)), inputs)
    want = torch.autograd.grad(2.5 * _textbook(*inputs, c), inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_rare_counts_of_many_genes_are_not_lost_to_rounding() -> None:
    """theta log theta and theta log(theta + m) are huge where theta is; their difference is not."""
    n, g = 20, 2000
    logits, log_theta = torch.zeros(n, g), torch.full((g,), 11.0)
    c = torch.zeros(n, g)
    c[:, 0] = 1.0
    got = float(nb_rest(logits, log_theta, *_nonzeros(c)))
    mean, theta = 1.0 / g, np.exp(11.0)
    want = n * (np.log(mean) - np.log(theta + mean) - g * theta * np.log1p(mean / theta))
    assert got == pytest.approx(want, rel=1e-5)


def test_value_alone_is_the_same() -> None:
    counts, logits, log_theta = _problem(6)
    c = torch.from_numpy(counts).double()
    with_gradient = nb_rest(logits.clone().requires_grad_(), log_theta, *_nonzeros(c))
    assert float(nb_rest(logits, log_theta, *_nonzeros(c))) == pytest.approx(with_gradient.item(), rel=1e-12)


def test_logits_are_left_alone() -> None:
    counts, logits, log_theta = _problem(7)
    before = logits.clone()
    nb_rest(logits, log_theta, *_nonzeros(torch.from_numpy(counts).double()))
    assert torch.equal(logits, before)
