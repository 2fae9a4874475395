"""Molecular cross-validation: counts split molecule by molecule."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


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


def with_values(pattern: sp.csr_matrix, values: np.ndarray) -> sp.csr_matrix:
    """float32 CSR with the pattern of one matrix and other values, zeros taken out; ``values`` stay as they are."""
    parts = (values.astype(np.float32), pattern.indices.copy(), pattern.indptr.copy())
    out = sp.csr_matrix(parts, shape=pattern.shape)
    out.eliminate_zeros()
    return out
