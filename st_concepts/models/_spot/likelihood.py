"""Negative binomial likelihood of counts given proportions, without ``lgamma`` on the spots x genes grid.

For counts ``c``, means ``m = s * softmax(logits)`` and inverse dispersions ``theta`` the log likelihood is

    sum lgamma(c + theta) - lgamma(theta) - lgamma(c + 1)                       (depends on theta and the counts alone)
    + theta log theta - (theta + c) log(theta + m) + c log m                    (the rest)

The first line depends on ``theta_g`` and the histogram of the counts of gene g only: see `_histogram.CountHistogram`.
`nb_rest` does the second line with a fused backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

_TINY = 1e-30


class _NBRest(torch.autograd.Function):
    """Sum of ``theta log theta - (theta + c) log(theta + m) + c log m``; gradients made in the forward.

    Nothing but the exponential, the logarithm and one quotient is taken on the grid: counts enter at their nonzeros.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        log_theta: torch.Tensor,
        row: torch.Tensor,
        gene: torch.Tensor,
        values: torch.Tensor,
        size: torch.Tensor,
    ) -> torch.Tensor:
        n, n_vars = logits.shape
        logits = logits if logits.dtype == torch.float64 else logits.float()
        theta, flat = log_theta.exp(), row * n_vars + gene
        shifted = logits - logits.amax(dim=1, keepdim=True) if n else logits.clone()
        logit_nz = shifted.view(-1)[flat]
        p = shifted.exp_()
        normaliser = p.sum(dim=1)
        log_m_nz = logit_nz + (size.clamp_min(_TINY).log() - normaliser.log())[row]
        m = p.mul_((size / normaliser)[:, None])
        ratio = m / theta  # small where counts are rare: log1p keeps what a difference of logarithms would lose
        theta_nz = theta[gene]
        ratio_nz = log_m_nz.exp() / theta_nz
        share = None
        if any(ctx.needs_input_grad):
            share = (ratio + 1.0).reciprocal_()  # theta / (theta + m)
        column = ratio.log1p_().sum(0)
        value = (values * (log_m_nz - theta_nz.log() - ratio_nz.log1p())).sum() - (column * theta).sum()
        if share is None:
            return value
        # d/dlogm = theta (c - m) / (theta + m) = u; softmax turns that into u - p sum(u), kept with the other sign
        u_nz = values / (1.0 + ratio_nz)
        grad_theta = n - column - share.sum(0)
        grad_theta.index_add_(0, gene, -u_nz / theta_nz)
        u_sum = -(share * m).sum(1)
        u_sum.index_add_(0, row, u_nz)
        opposite = share.add_((u_sum / size.clamp_min(_TINY))[:, None]).mul_(m)
        opposite.view(-1).index_add_(0, flat, -u_nz)
        ctx.save_for_backward(opposite, grad_theta * theta)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        opposite, grad_log_theta = ctx.saved_tensors
        return -grad * opposite, grad * grad_log_theta, None, None, None, None


def nb_rest(
    logits: torch.Tensor,
    log_theta: torch.Tensor,
    row: torch.Tensor,
    gene: torch.Tensor,
    values: torch.Tensor,
    size: torch.Tensor,
) -> torch.Tensor:
    """The part of the log likelihood that needs the grid, summed; differentiable in ``logits`` and ``log_theta``.

    Means are ``size[:, None] * softmax(logits)``. ``row``, ``gene`` and ``values`` are the nonzero counts, each pair
    once; ``size`` ``(n,)`` is the total of the counts to explain, of which zero contributes nothing.

    Examples
    --------
    >>> import torch
    >>> none = torch.zeros(0)
    >>> float(nb_rest(torch.zeros(1, 2), torch.zeros(2), none.long(), none.long(), none, torch.zeros(1)))
    0.0
    """
    return _NBRest.apply(logits, log_theta, row, gene, values, size)


def nb_log_prob(counts: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Textbook negative binomial log probability, elementwise (for evaluation and tests, not for training).

    A mean of zero with a count of zero has log probability 0; the variance is ``mean + mean**2 / theta``.
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
