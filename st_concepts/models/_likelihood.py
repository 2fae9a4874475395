"""Negative binomial likelihood of counts given proportions, without ``lgamma`` on the spots x genes grid.

For counts ``c``, means ``m = s * softmax(logits)`` and inverse dispersions ``theta`` the log likelihood is

    sum lgamma(c + theta) - lgamma(theta) - lgamma(c + 1)                       (depends on theta and the counts alone)
    + theta log theta - (theta + c) log(theta + m) + c log m                    (the rest)

The first line depends on ``theta_g`` and the histogram of the counts of gene g only, so `CountHistogram` evaluates it
once per distinct (gene, count) pair of the whole data set; `nb_rest` does the second line with a fused backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

_TINY = 1e-30


class _NBRest(torch.autograd.Function):
    """Sum of ``theta log theta - (theta + c) log(theta + m) + c log m``; gradients made in the forward."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, log_theta: torch.Tensor, counts: torch.Tensor, size: torch.Tensor
    ) -> torch.Tensor:
        theta = log_theta.exp()
        log_p = torch.log_softmax(logits, dim=1)
        p = log_p.exp()
        log_m = log_p + size.clamp_min(_TINY).log()[:, None]
        m = p * size[:, None]
        total = m + theta  # theta + m
        log_total = total.log()
        c_theta = counts + theta
        value = (counts * log_m).sum() - (c_theta * log_total).sum() + size.shape[0] * (theta * log_theta).sum()
        # d/dlogm = theta (c - m) / (theta + m); softmax turns that into u - p sum(u)
        u = (counts - m).mul_(theta).div_(total)
        grad_logits = u.sub_(p.mul_(u.sum(dim=1, keepdim=True)))
        grad_theta = size.shape[0] * (log_theta + 1.0) - log_total.sum(0) - c_theta.div_(total).sum(0)
        ctx.save_for_backward(grad_logits, grad_theta * theta)
        return value

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        grad_logits, grad_log_theta = ctx.saved_tensors
        return grad * grad_logits, grad * grad_log_theta, None, None


def nb_rest(logits: torch.Tensor, log_theta: torch.Tensor, counts: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """The part of the log likelihood that needs the grid, summed; differentiable in ``logits`` and ``log_theta``.

    Parameters
    ----------
    logits
        ``(n, n_vars)``; means are ``size[:, None] * softmax(logits)``.
    log_theta
        ``(n_vars,)``, log inverse dispersion.
    counts
        ``(n, n_vars)`` non-negative counts.
    size
        ``(n,)`` total of the counts to explain; a size of zero contributes nothing.

    Returns
    -------
    Scalar tensor.

    Examples
    --------
    >>> import torch
    >>> float(nb_rest(torch.zeros(1, 2), torch.zeros(2), torch.zeros(1, 2), torch.zeros(1)))
    -0.0
    """
    return _NBRest.apply(logits, log_theta, counts, size)


@dataclass(frozen=True)
class CountHistogram:
    """Distinct (gene, count) pairs of a count matrix with their multiplicities.

    Attributes
    ----------
    gene, count, times
        Tensors of one length: gene index, count (> 0) and number of spots with that count.
    n_obs
        Number of spots behind the histogram.
    """

    gene: torch.Tensor
    count: torch.Tensor
    times: torch.Tensor
    n_obs: int

    @classmethod
    def of(cls, counts: sp.csr_matrix) -> CountHistogram:
        """Histogram of a CSR count matrix ``(n_obs, n_vars)``; zeros need no entry since their term vanishes."""
        top = int(counts.data.max()) + 1 if counts.nnz else 1
        key = counts.indices.astype(np.int64) * top + counts.data.astype(np.int64)
        pairs, times = np.unique(key, return_counts=True)
        keep = pairs % top > 0
        pairs, times = pairs[keep], times[keep]
        return cls(
            torch.from_numpy(pairs // top),
            torch.from_numpy((pairs % top).astype(np.float32)),
            torch.from_numpy(times.astype(np.float32)),
            counts.shape[0],
        )

    def to(self, device: torch.device) -> CountHistogram:
        """The same on another device."""
        return CountHistogram(self.gene.to(device), self.count.to(device), self.times.to(device), self.n_obs)

    def log_likelihood(self, log_theta: torch.Tensor) -> torch.Tensor:
        """``sum lgamma(c + theta) - lgamma(theta) - lgamma(c + 1)`` over all spots and genes, differentiable."""
        theta = log_theta.exp()[self.gene]
        c = self.count.to(theta.dtype)
        return (self.times * (torch.lgamma(c + theta) - torch.lgamma(theta) - torch.lgamma(c + 1.0))).sum()

    def theta_derivatives(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second derivative of `log_likelihood` with respect to each ``theta``, ``(n_vars,)`` each."""
        at = theta[self.gene]
        c = self.count.to(theta.dtype)
        first = torch.zeros_like(theta).index_add_(
            0, self.gene, self.times * (torch.digamma(c + at) - torch.digamma(at))
        )
        second = torch.zeros_like(theta).index_add_(
            0, self.gene, self.times * (torch.polygamma(1, c + at) - torch.polygamma(1, at))
        )
        return first, second


def nb_log_prob(counts: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Textbook negative binomial log probability, elementwise (for evaluation and tests, not for training).

    Parameters
    ----------
    counts, mean
        ``(n, n_vars)``; a mean of zero with a count of zero has log probability 0.
    theta
        ``(n_vars,)`` inverse dispersion; the variance is ``mean + mean**2 / theta``.
    """
    log_total = (theta + mean).log()
    return (
        torch.lgamma(counts + theta)
        - torch.lgamma(theta)
        - torch.lgamma(counts + 1.0)
        + theta * (theta.log() - log_total)
        + torch.xlogy(counts, mean.clamp_min(_TINY))
        - counts * log_total
    )
