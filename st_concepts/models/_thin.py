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
    second = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), fraction)
    parts = []
    for data in (counts.data - second, second):
        part = sp.csr_matrix((data.astype(np.float32), counts.indices.copy(), counts.indptr.copy()), counts.shape)
        part.eliminate_zeros()
        parts.append(part)
    return parts[0], parts[1]
