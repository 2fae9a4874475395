"""Counts split molecule by molecule, into two parts that are independent given the expression level."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

_TOGETHER = 2**22  # counts that are drawn for at once


def thin(counts: sp.csr_matrix, fraction: float, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split counts molecule by molecule: each goes to the second part with probability ``fraction``.

    The two parts are independent given the expression level when counts are Poisson (Batson, Royce & Webber 2019,
    *Molecular cross-validation for single-cell RNA-seq*), so one can judge a fit to the other with no spot held out.

    Examples
    --------
    >>> a, b = thin(sp.csr_matrix([[3.0, 0.0], [5.0, 2.0]]), 0.5, seed=0)
    >>> (a + b).toarray()
    array([[3., 0.],
           [5., 2.]], dtype=float32)
    """
    second = second_part(counts.data, fraction, np.random.default_rng(seed))
    return with_values(counts, counts.data - second), with_values(counts, second)


def second_part(values: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Molecules of each count that go to the second part, float32."""
    return rng.binomial(values.astype(np.int64), fraction).astype(np.float32)


def overdispersed_part(
    values: np.ndarray, fraction: float, overdispersion: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The same for negative binomial counts: the share of a count that goes is itself drawn.

    With variance ``m + overdispersion * m^2`` of each count and beta-distributed shares of parameters
    ``fraction / overdispersion`` and ``(1 - fraction) / overdispersion`` the parts are independent negative binomials
    (Neufeld, Popp, Gao, Battle & Witten 2023, *Negative binomial count splitting for single-cell RNA sequencing data*).

    Parameters
    ----------
    values
        ``(n,)`` counts.
    overdispersion
        ``(n,)``, of the gene of each count; 0 for Poisson.
    """
    share = np.full(len(values), fraction)
    spread = overdispersion > 0
    # beyond 1e12 a beta's spread is below that of a double
    size = np.minimum(1 / overdispersion[spread], 1e12)
    share[spread] = rng.beta(fraction * size, (1 - fraction) * size)
    return rng.binomial(values.astype(np.int64), share).astype(np.float32)


def split_matrix(
    counts: sp.csr_matrix, fraction: float, overdispersion: np.ndarray, seed: int
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split canonical counts; ``overdispersion`` is ``(n_vars,)``, all zero for molecules that go one by one.

    Examples
    --------
    >>> a, b = split_matrix(sp.csr_matrix([[3.0, 0.0], [5.0, 2.0]]), 0.5, np.array([0.2, 0.0]), seed=0)
    >>> (a + b).toarray()
    array([[3., 0.],
           [5., 2.]], dtype=float32)
    """
    rng = np.random.default_rng(seed)
    second = np.empty(counts.nnz, dtype=np.float32)
    poisson = not overdispersion.any()
    for start in range(0, counts.nnz, _TOGETHER):
        some = slice(start, start + _TOGETHER)
        if poisson:
            second[some] = second_part(counts.data[some], fraction, rng)
        else:
            theirs = overdispersion[counts.indices[some]]
            second[some] = overdispersed_part(counts.data[some], fraction, theirs, rng)
    return with_values(counts, counts.data - second), with_values(counts, second)


def estimate_overdispersion(counts: sp.csr_matrix, *, shared: bool = False) -> np.ndarray:
    """Overdispersion of each gene by moments: ``(n_vars,)``, variance ``m + overdispersion * m^2``, at least 0.

    The mean of a gene in a spot is taken for its share of all molecules times those of the spot. ``shared`` pools the
    moments of all genes into one value, each divided by the gene's mean, so that the strongest genes do not decide.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.negative_binomial(5, 5 / (5 + 20), size=(2000, 50))
    >>> estimate_overdispersion(sp.csr_matrix(x, dtype=np.float32), shared=True)[:2].round(1)
    array([0.2, 0.2])
    """
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    size = totals / totals.mean() if totals.any() else totals
    s1, s2 = size.sum(), (size**2).sum()
    if s1 == 0:
        return np.zeros(counts.shape[1])
    wide = counts.astype(np.float64)
    mean = np.asarray(wide.sum(axis=0)).ravel() / s1
    squares = np.asarray(wide.multiply(wide).sum(axis=0)).ravel()
    residual = squares - 2 * mean * (wide.T @ size) + mean**2 * s2
    # what Poisson counts leave; the mean was estimated from the same counts
    excess = residual - mean * (s1 - s2 / s1)
    seen = mean > 0
    if shared:
        return np.full(len(mean), max((excess[seen] / mean[seen]).sum() / (mean.sum() * s2), 0.0))
    return np.maximum(np.divide(excess, mean**2 * s2, out=np.zeros_like(mean), where=seen), 0.0)


def with_values(pattern: sp.csr_matrix, values: np.ndarray) -> sp.csr_matrix:
    """float32 CSR with the pattern of one matrix and other values, zeros taken out; ``values`` stay as they are."""
    parts = (values.astype(np.float32), pattern.indices.copy(), pattern.indptr.copy())
    out = sp.csr_matrix(parts, shape=pattern.shape)
    out.eliminate_zeros()
    return out
