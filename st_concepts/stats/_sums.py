"""Sums over spots that the association test needs, from a stream of row batches: no matrix of spots by genes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from st_concepts._distributed import all_sum
from st_concepts.stats._moran import MoranNull
from st_concepts.stats._null import NullModel

# bytes that values of units (tiles) by genes may take at a time; beyond, the stream is read again for further genes
UNIT_BYTES = 512 * 2**20


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


class Moments:
    """Sums over the spots of one null model, for a range of genes. Arrays are float64.

    Parameters
    ----------
    null
        Null model of the spots in ``keep``.
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
    units
        For a Moran null, mean of each gene over the spots of each unit, ``(n_units, n_genes)``; `None` otherwise.
    """

    def __init__(self, null: NullModel, y: NDArray[np.float64], keep: NDArray[np.intp], n_genes: int) -> None:
        self.null, self.y, self.keep, self.n_genes = null, np.ascontiguousarray(y), keep, n_genes
        present, self.section = np.unique(null.sections, return_inverse=True)
        self.section = self.section.ravel()
        self.section_size = np.bincount(self.section, minlength=len(present)).astype(np.float64)
        n_sections = len(present)
        self.cross = np.zeros((n_sections, n_genes, y.shape[1]))
        self.sums, self.squares = np.zeros((n_sections, n_genes)), np.zeros((n_sections, n_genes))
        self.units: NDArray[np.float64] | None = None
        if isinstance(null, MoranNull):
            self.unit, self.unit_size = unit_of_spots(null)
            self.units = np.zeros((null.n_units, n_genes))

    def add(self, rows: slice, block: sp.csr_matrix) -> None:
        """Add the spots of a batch, ``block`` in float64."""
        first, last = np.searchsorted(self.keep, [rows.start, rows.stop])
        if first == last:
            return
        part = block if last - first == block.shape[0] else block[self.keep[first:last] - rows.start]
        section, y = self.section[first:last], self.y[first:last]
        row = np.repeat(np.arange(last - first), np.diff(part.indptr))
        n_sections = len(self.section_size)
        if n_sections == 1:
            self.cross[0] += part.T @ y
            self.squares[0] += np.bincount(part.indices, part.data**2, self.n_genes)
            if self.units is None:
                self.sums[0] += np.bincount(part.indices, part.data, self.n_genes)
        else:
            for s in np.unique(section):
                mine = section == s
                self.cross[s] += (part if mine.all() else part[mine]).T @ y[mine]
            flat = section[row] * self.n_genes + part.indices
            np.add.at(self.squares.reshape(-1), flat, part.data**2)
            if self.units is None:
                np.add.at(self.sums.reshape(-1), flat, part.data)
        if self.units is not None:
            np.add.at(self.units.reshape(-1), self.unit[first:last][row] * self.n_genes + part.indices, part.data)

    def finish(self, *, shared: bool) -> None:
        """After the last batch: sums over the processes, means of units."""
        parts = [self.cross, self.sums, self.squares, *([] if self.units is None else [self.units])]
        if shared:
            parts = all_sum(*parts)
        self.cross, self.sums, self.squares, *units = parts
        if units:
            (self.units,) = units
            n_sections, first = len(self.section_size), np.zeros(len(self.unit_size), dtype=np.intp)
            first[self.unit] = self.section  # a unit lies within one section
            member = sp.csr_array((np.ones(len(first)), (first, np.arange(len(first)))), shape=(n_sections, len(first)))
            self.sums = np.asarray(member @ self.units)
            self.units /= self.unit_size[:, None]

    @property
    def centred_squares(self) -> NDArray[np.float64]:
        """Sum of squares of each gene about its section's mean, ``(n_sections, n_genes)``."""
        return np.maximum(self.squares - self.sums**2 / self.section_size[:, None], 0.0)


def unit_of_spots(null: MoranNull) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Unit of each spot ``(n_obs,)`` and number of spots of each unit ``(n_units,)``."""
    if null.average is None:
        return np.arange(null.n_obs), np.ones(null.n_obs)
    by_spot = sp.csc_array(null.average)  # one entry a column
    unit = by_spot.indices.astype(np.intp)
    return unit, np.bincount(unit, minlength=null.n_units).astype(np.float64)


def gene_ranges(null: NullModel, n_vars: int, *, limit: int | None = None) -> list[slice]:
    """Ranges of genes whose unit values fit into ``limit`` bytes together; all genes where there are no units."""
    limit = UNIT_BYTES if limit is None else limit
    step = n_vars if not isinstance(null, MoranNull) else max(limit // (8 * max(null.n_units, 1)), 1)
    return [slice(g, min(g + step, n_vars)) for g in range(0, n_vars, max(step, 1))]


def accumulate(stream: RowStream, moments: Iterable[Moments], genes: slice) -> None:
    """One pass over the stream for all ``moments``, of the genes in a range.

    Raises
    ------
    ValueError
        The stream yields NaN or infinite values, or rows twice.
    """
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
        part = (block if whole else block[:, genes]).astype(np.float64)
        for one in moments:
            one.add(rows, part)
    for one in moments:
        one.finish(shared=stream.shared)
