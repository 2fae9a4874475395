"""A matrix of spots by genes that is read in batches of rows, as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray | sp.sparray | sp.spmatrix


@dataclass(frozen=True)
class RowStream:
    """Expression that is read in batches of rows, as often as needed; stands for a matrix in `association_test`.

    Attributes
    ----------
    shape
        ``(n_obs, n_vars)``.
    read
        Starts a pass: yields slices of rows, ascending and without overlap, each with its CSR matrix.
    shared
        Several processes read a part of the rows each; their sums are added up. Otherwise a pass gives every row.
    outer
        ``a`` ``(n_obs,)`` and ``b`` ``(n_vars,)``: the matrix meant is that of the rows less ``a`` times ``b``, which
        is never made. Pearson residuals are such a matrix, with sparse rows.

    Examples
    --------
    >>> x = sp.random(10, 3, 0.5, format="csr", random_state=0)
    >>> RowStream(x.shape, lambda: [(slice(0, 5), x[:5]), (slice(5, 10), x[5:])]).shape
    (10, 3)
    """

    shape: tuple[int, int]
    read: Callable[[], Iterable[tuple[slice, sp.csr_matrix]]]
    shared: bool = False
    outer: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        """Check the rank-one part.

        Raises
        ------
        ValueError
            It does not fit the shape, or is not finite.
        """
        if self.outer is None:
            return
        lengths = tuple(len(v) for v in self.outer)
        if lengths != tuple(self.shape) or not all(np.isfinite(v).all() for v in self.outer):
            raise ValueError(f"The rank-one part must be finite and fit {self.shape}; got lengths {lengths}.")

    @classmethod
    def of(cls, X: Matrix | RowStream) -> RowStream:
        """A matrix as a stream of one block; a stream as it is.

        Raises
        ------
        ValueError
            A matrix that is not two-dimensional, or holds NaN or infinite values.
        """
        if isinstance(X, RowStream):
            return X
        if not sp.issparse(X):
            X = np.asarray(X)
        if X.ndim != 2:
            raise ValueError(f"X must have shape (n_obs, n_vars); got {X.shape}.")
        block = sp.csr_matrix(X)
        return cls(block.shape, lambda: [(slice(0, block.shape[0]), block)])

    def held(self) -> RowStream:
        """The same with its rows in memory, for many passes; rows that are shared stay where they are."""
        if self.shared:
            return self
        blocks = list(self.read())
        return replace(self, read=lambda: blocks)
