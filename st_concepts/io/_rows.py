"""Row batches of a count matrix, whatever holds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp


def as_csr(block: Any, dtype: np.typing.DTypeLike = np.float32) -> sp.csr_matrix:
    """One block of rows as a canonical CSR matrix: sorted indices, no duplicates, no stored zeros."""
    if hasattr(block, "compute"):  # dask
        block = block.compute()
    if sp.issparse(block):
        out = sp.csr_matrix(block, dtype=dtype, copy=False)
        if not out.has_canonical_format or (out.nnz and (out.data == 0).any()):
            out = out.copy()
            out.sum_duplicates()
            out.eliminate_zeros()
        return out
    return sp.csr_matrix(np.asarray(block, dtype=dtype))


def iter_rows(X: Any, batch_size: int) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Consecutive row batches of a dense, CSR, CSC, backed or dask matrix as float32 CSR.

    Parameters
    ----------
    X
        ``(n_obs, n_vars)``.
    batch_size
        Rows a batch.

    Yields
    ------
    The slice of rows and its CSR matrix.

    Examples
    --------
    >>> import numpy as np
    >>> [b.shape for _, b in iter_rows(np.eye(5), 2)]
    [(2, 5), (2, 5), (1, 5)]
    """
    if sp.issparse(X) and X.format == "csc":  # slicing rows of CSC walks the whole matrix each time
        X = X.tocsr()
    for start in range(0, X.shape[0], batch_size):
        rows = slice(start, min(start + batch_size, X.shape[0]))
        yield rows, as_csr(X[rows])
