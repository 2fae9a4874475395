"""Features of the spot view: log1p of size-normalised counts. Attributions are per unit of these."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from st_concepts._counts.kind import is_sparse


def sizes(counts: sp.csr_matrix | np.ndarray) -> np.ndarray:
    """Total counts per spot, float64 ``(n_obs,)``."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


def log_normalize(
    counts: sp.csr_matrix | np.ndarray, target_sum: float, *, size: np.ndarray | None = None
) -> sp.csr_matrix | np.ndarray:
    """``log1p(target_sum * counts / size)``, float32, of the same kind (CSR or dense); empty spots stay zero.

    Examples
    --------
    >>> import numpy as np
    >>> log_normalize(np.array([[1.0, 3.0], [0.0, 0.0]]), 4.0).round(3)
    array([[0.693, 1.386],
           [0.   , 0.   ]], dtype=float32)
    """
    size = sizes(counts) if size is None else size
    scale = np.divide(target_sum, size, out=np.zeros_like(size), where=size > 0)
    if is_sparse(counts):
        values = counts.data * np.repeat(scale, np.diff(counts.indptr))
        return sp.csr_matrix((np.log1p(values).astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    return np.log1p(np.asarray(counts, dtype=np.float64) * scale[:, None]).astype(np.float32)
