"""Counts of a whole data set by gene and value: all that the dispersions need to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch.autograd.function import once_differentiable

_SMALL = 64  # counts up to here are taken apart into logarithms; beyond, few genes and lgamma
_MERGE_ABOVE = 2_000_000


@dataclass(frozen=True)
class CountHistogram:
    r"""How often each count occurs for each gene.

    .. math::
        \sum_i \log\Gamma(c_i + \theta) - \log\Gamma(\theta) = \sum_{j \ge 0} T_j \log(\theta + j)

    with :math:`T_j` the number of spots whose count is above ``j``: logarithms of a few (gene, j) pairs stand for
    ``lgamma`` of every spot and gene.

    Attributes
    ----------
    gene, step, times
        Pairs (g, j) with ``T > 0``, sorted by gene; ``j`` below 64.
    large_gene, large_count, large_times
        Distinct (gene, count) pairs with counts above 64, whose term beyond ``j = 63`` is kept as ``lgamma``.
    constant
        ``sum lgamma(c + 1)`` over all counts.
    n_obs, n_vars
        Number of spots behind the histogram, and of genes.
    """

    gene: torch.Tensor
    step: torch.Tensor
    times: torch.Tensor
    large_gene: torch.Tensor
    large_count: torch.Tensor
    large_times: torch.Tensor
    constant: float
    n_obs: int
    n_vars: int

    @classmethod
    def of(cls, counts: sp.csr_matrix) -> CountHistogram:
        """Histogram of a CSR count matrix ``(n_obs, n_vars)``; zeros need no entry since their term vanishes."""
        builder = HistogramBuilder(counts.shape[1])
        builder.add(counts)
        return builder.finish()

    def to(self, device: torch.device) -> CountHistogram:
        """The same on another device."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()}
        return CountHistogram(**moved)

    def log_likelihood(self, log_theta: torch.Tensor) -> torch.Tensor:
        """``sum lgamma(c + theta) - lgamma(theta) - lgamma(c + 1)`` over all spots and genes, differentiable."""
        return _LogRising.apply(log_theta, self) - self.constant

    def theta_derivatives(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second derivative of `log_likelihood` with respect to each ``theta``, ``(n_vars,)`` each."""
        inverse = 1.0 / (theta[self.gene] + self.step)
        weighted = self.times.to(theta.dtype) * inverse
        first = torch.zeros_like(theta).index_add_(0, self.gene, weighted)
        second = torch.zeros_like(theta).index_add_(0, self.gene, -weighted * inverse)
        if len(self.large_gene):
            at, c, times = theta[self.large_gene], self.large_count.to(theta.dtype), self.large_times.to(theta.dtype)
            first.index_add_(0, self.large_gene, times * (torch.digamma(c + at) - torch.digamma(at + _SMALL)))
            second.index_add_(
                0, self.large_gene, times * (torch.polygamma(1, c + at) - torch.polygamma(1, at + _SMALL))
            )
        return first, second


class _LogRising(torch.autograd.Function):
    """``sum lgamma(c + theta) - lgamma(theta)`` and its gradient, made together."""

    @staticmethod
    def forward(ctx: Any, log_theta: torch.Tensor, histogram: CountHistogram) -> torch.Tensor:
        h, theta = histogram, log_theta.exp()
        at = theta[h.gene] + h.step
        times = h.times.to(theta.dtype)
        value = (times * at.log()).sum()
        grad = torch.zeros_like(theta).index_add_(0, h.gene, times / at)
        if len(h.large_gene):
            at, c, times = theta[h.large_gene], h.large_count.to(theta.dtype), h.large_times.to(theta.dtype)
            value = value + (times * (torch.lgamma(c + at) - torch.lgamma(at + _SMALL))).sum()
            grad.index_add_(0, h.large_gene, times * (torch.digamma(c + at) - torch.digamma(at + _SMALL)))
        ctx.save_for_backward(grad * theta)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None


class HistogramBuilder:
    """Adds up blocks of rows.

    Examples
    --------
    >>> builder = HistogramBuilder(2)
    >>> builder.add(sp.csr_matrix([[2.0, 0.0], [1.0, 70.0]]))
    >>> builder.finish().n_obs
    2
    """

    def __init__(self, n_vars: int) -> None:
        self.n_vars, self.n_obs = n_vars, 0
        self._small = np.zeros(n_vars * (_SMALL + 1), dtype=np.int64)
        self._large: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, counts: sp.csr_matrix) -> None:
        """Count a CSR block ``(n, n_vars)``."""
        self.n_obs += counts.shape[0]
        count = counts.data.astype(np.int64)
        key = counts.indices.astype(np.int64)
        small = count <= _SMALL
        every = bool(small.all())
        at = (key * (_SMALL + 1) + count) if every else (key[small] * (_SMALL + 1) + count[small])
        self._small += np.bincount(at, minlength=len(self._small))
        if not every:
            self._large.append(np.unique((key[~small] << 32) + count[~small], return_counts=True))
            if sum(len(k) for k, _ in self._large) > _MERGE_ABOVE:
                self._large = [self._merged()]

    def _merged(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._large:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        keys, inverse = np.unique(np.concatenate([k for k, _ in self._large]), return_inverse=True)
        times = np.concatenate([t for _, t in self._large])
        return keys, np.bincount(inverse, weights=times, minlength=len(keys)).astype(np.int64)

    def finish(self) -> CountHistogram:
        """The histogram of everything added."""
        table = self._small.reshape(self.n_vars, _SMALL + 1)
        keys, times = self._merged()
        large_gene, large_count = keys >> 32, keys & 0xFFFFFFFF
        # spots above j: those with a small count above it, and all with a large one
        above = table[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
        if len(keys):
            above = above + np.bincount(large_gene, weights=times, minlength=self.n_vars).astype(np.int64)[:, None]
        gene, step = np.nonzero(above)
        every = np.concatenate([np.arange(_SMALL + 1), large_count]).astype(np.float64)
        weight = np.concatenate([table.sum(0), times]).astype(np.float64)
        constant = float(weight @ torch.lgamma(torch.from_numpy(every) + 1.0).numpy())
        return CountHistogram(
            torch.from_numpy(gene),
            torch.from_numpy(step.astype(np.float32)),
            torch.from_numpy(above[gene, step].astype(np.float32)),
            torch.from_numpy(large_gene),
            torch.from_numpy(large_count.astype(np.float32)),
            torch.from_numpy(times.astype(np.float32)),
            constant,
            self.n_obs,
            self.n_vars,
        )
