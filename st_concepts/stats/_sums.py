"""Sums over spots that the association test needs, from a stream of row batches: no matrix of spots by genes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from st_concepts._distributed import all_reduce

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

    Examples
    --------
    >>> x = sp.random(10, 3, 0.5, format="csr", random_state=0)
    >>> RowStream(x.shape, lambda: [(slice(0, 5), x[:5]), (slice(5, 10), x[5:])]).shape
    (10, 3)
    """

    shape: tuple[int, int]
    read: Callable[[], Iterable[tuple[slice, sp.csr_matrix]]]
    shared: bool = False

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


class Sums:
    """Sums over the spots of one null model, for a range of genes; arrays are float64.

    What every null needs is here. A null whose statistics follow from sums over its sections alone takes it as it is;
    others gather more in `add_entries`, and give `coefficients`.

    Parameters
    ----------
    sections
        Section codes of the spots in ``keep``.
    y
        Targets of these spots, centred within sections, in the order of the spots, ``(n_keep, n_concepts)``.
    keep
        Positions of these spots among all, ascending, ``(n_keep,)``.
    n_genes
        Genes of the range.

    Attributes
    ----------
    cross
        Sum of target times gene by section, ``(n_sections, n_genes, n_concepts)``.
    sums, squares
        Sum and sum of squares of each gene by section, ``(n_sections, n_genes)``.
    """

    def __init__(
        self, sections: NDArray[np.intp], y: NDArray[np.float64], keep: NDArray[np.intp], n_genes: int
    ) -> None:
        self.y, self.keep, self.n_genes = np.ascontiguousarray(y), keep, n_genes
        present, self.section = np.unique(sections, return_inverse=True)
        self.section = self.section.ravel()
        self.section_size = np.bincount(self.section, minlength=len(present)).astype(np.float64)
        n_sections = len(present)
        self.cross = np.zeros((n_sections, n_genes, y.shape[1]))
        self.sums, self.squares = np.zeros((n_sections, n_genes)), np.zeros((n_sections, n_genes))

    def add(self, rows: slice, block: sp.csr_matrix) -> None:
        """Add the spots of a batch, ``block`` in float64."""
        first, last = np.searchsorted(self.keep, [rows.start, rows.stop])
        if first == last:
            return
        part = block if last - first == block.shape[0] else block[self.keep[first:last] - rows.start]
        section, y = self.section[first:last], self.y[first:last]
        if len(self.section_size) == 1:
            self.cross[0] += part.T @ y
            self.squares[0] += np.bincount(part.indices, part.data**2, self.n_genes)
            self.sums[0] += np.bincount(part.indices, part.data, self.n_genes)
        else:
            for s in np.unique(section):
                own = section == s
                self.cross[s] += (part if own.all() else part[own]).T @ y[own]
            flat = np.repeat(section, np.diff(part.indptr)) * self.n_genes + part.indices
            np.add.at(self.squares.reshape(-1), flat, part.data**2)
            np.add.at(self.sums.reshape(-1), flat, part.data)
        self.add_entries(slice(first, last), part)

    def add_entries(self, spots: slice, block: sp.csr_matrix) -> None:
        """Gather what else a null needs of the genes at ``spots``, positions within ``keep``."""

    def arrays(self) -> list[NDArray]:
        """What is added up over processes."""
        return [self.cross, self.sums, self.squares]

    def finish(self, *, shared: bool) -> None:
        """After the last batch: sums over the processes."""
        if shared:
            for held, total in zip(self.arrays(), all_reduce(*self.arrays()), strict=True):
                held[...] = total

    def coefficients(self, genes: slice) -> NDArray[np.float64] | None:
        """Coefficients ``(n_coef, m)`` of some genes of the range; `None` where the sums by section say all."""
        return None

    @property
    def centred_squares(self) -> NDArray[np.float64]:
        """Sum of squares of each gene about its section's mean, ``(n_sections, n_genes)``."""
        return np.maximum(self.squares - self.sums**2 / self.section_size[:, None], 0.0)


class ColumnSums(Sums):
    """Holds the genes of the range, sparse, for a null that is given as a projection only."""

    def __init__(
        self,
        sections: NDArray[np.intp],
        y: NDArray[np.float64],
        keep: NDArray[np.intp],
        n_genes: int,
        project: Callable[[Matrix], NDArray[np.float64]],
    ) -> None:
        super().__init__(sections, y, keep, n_genes)
        self._project = project
        self._parts: list[tuple[slice, sp.csr_matrix]] = []
        self._columns: sp.csc_array  # from `finish` on

    def add_entries(self, spots: slice, block: sp.csr_matrix) -> None:
        """Keep the block."""
        self._parts.append((spots, block))

    def finish(self, *, shared: bool) -> None:
        """Put the blocks together."""
        if shared:
            raise ValueError(
                "This null model needs every spot of a gene at once, so several processes cannot share the rows. "
                "Test in one process, or give the null model sums of its own."
            )
        empty = sp.csr_matrix((0, self.n_genes))
        held = sum(spots.stop - spots.start for spots, _ in self._parts)
        if held != len(self.keep):
            raise ValueError(f"The stream of rows gave {held} of the {len(self.keep)} spots of the null model.")
        self._columns = sp.csc_array(sp.vstack([block for _, block in self._parts] or [empty], format="csr"))
        self._parts = []

    def coefficients(self, genes: slice) -> NDArray[np.float64]:
        """Project the genes."""
        return np.asarray(self._project(self._columns[:, genes]), dtype=np.float64)


def accumulate(stream: RowStream, moments: Iterable[Sums], genes: slice) -> None:
    """One pass over the stream for all ``moments``, of the genes in a range."""
    moments = list(moments)
    whole = genes.start == 0 and genes.stop == stream.shape[1]
    last = 0
    for rows, block in stream.read():
        if rows.start < last or block.shape != (rows.stop - rows.start, stream.shape[1]):
            raise ValueError(
                f"The stream of rows must ascend and fit {stream.shape}; got rows {rows.start} to {rows.stop} after "
                f"{last} with shape {block.shape}."
            )
        last = rows.stop
        # a sum is finite unless something is not (or overflows, which the full check then clears)
        if block.nnz and not np.isfinite(block.data.sum()) and not np.isfinite(block.data).all():
            raise ValueError(
                "X holds NaN or infinite values; pass log-normalised counts (spots without counts as zeros)."
            )
        part = (block if whole else block[:, genes]).astype(np.float64, copy=False)
        for one in moments:
            one.add(rows, part)
    for one in moments:
        one.finish(shared=stream.shared)
