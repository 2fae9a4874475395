"""What kind of matrix something is, said so that type checkers follow it."""

from __future__ import annotations

from typing import TypeGuard

import scipy.sparse as sp


def is_sparse(matrix: object) -> TypeGuard[sp.csr_matrix]:
    """Whether a matrix is one of scipy's sparse ones; behind it, type checkers take it for one.

    Examples
    --------
    >>> is_sparse(sp.csr_matrix((2, 2)))
    True
    """
    return bool(sp.issparse(matrix))
