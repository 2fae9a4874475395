"""Sums over spots that the association test needs, from a stream of row batches: no matrix of spots by genes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from st_concepts._counts.stream import Matrix, RowStream
from st_concepts._distributed import all_reduce
from st_concepts.stats._tails import Moments, Shuffled


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
    magnitude
        Sum of squares of each gene before anything cancelled, ``(n_genes,)``: rounding is relative to it.

    Notes
    -----
    Where the stream has a rank-one part, `add` and `add_entries` meet the rows without it. All that is summed is linear
    or quadratic in the rows, so it is taken off in `finish`, and from the coefficients in `coefficients_of_genes`.
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
        self.magnitude = np.zeros(n_genes)
        # rank-one part of the stream, at the spots and genes of these sums, and the sum of its product with the rows
        self._outer: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._with_outer = np.zeros((0, n_genes))
        self._projected: NDArray[np.float64] | None = None
        # sums of cubes, and with the rank-one part of V^2 a and V a^2; only where a skewed tail is wanted
        self._cubes: list[NDArray[np.float64]] = []

    def gather_cubes(self) -> None:
        """Before the first batch: `shuffled` will be asked for."""
        self._cubes = [np.zeros_like(self.sums) for _ in range(3)]

    def begin(self, outer: tuple[NDArray[np.float64], NDArray[np.float64]] | None, genes: slice) -> None:
        """Before the first batch: the rank-one part of the stream."""
        if outer is not None:
            self._outer = outer[0][self.keep].astype(np.float64), outer[1][genes].astype(np.float64)
            self._with_outer = np.zeros_like(self.sums)

    def add(self, rows: slice, block: sp.csr_matrix) -> None:
        """Add the spots of a batch, ``block`` in float64."""
        first, last = np.searchsorted(self.keep, [rows.start, rows.stop])
        if first == last:
            return
        part = block if last - first == block.shape[0] else block[self.keep[first:last] - rows.start]
        self._add_by_section(slice(first, last), part)
        self.add_entries(slice(first, last), part)

    def _add_by_section(self, spots: slice, part: sp.csr_matrix) -> None:
        """Sums, squares and products with the targets."""
        section, y = self.section[spots], self.y[spots]
        weights = [(self.squares, part.data**2), (self.sums, part.data)]
        if self._outer is not None:
            a = np.repeat(self._outer[0][spots], np.diff(part.indptr))
            weights.append((self._with_outer, part.data * a))
            weights += list(zip(self._cubes[1:], (part.data**2 * a, part.data * a**2), strict=False))
        if self._cubes:
            weights.append((self._cubes[0], part.data**3))
        if len(self.section_size) == 1:
            self.cross[0] += part.T @ y
            for total, values in weights:
                total[0] += np.bincount(part.indices, values, self.n_genes)
            return
        for s in np.unique(section):
            own = section == s
            self.cross[s] += (part if own.all() else part[own]).T @ y[own]
        flat = np.repeat(section, np.diff(part.indptr)) * self.n_genes + part.indices
        for total, values in weights:
            np.add.at(total.reshape(-1), flat, values)

    def add_entries(self, spots: slice, block: sp.csr_matrix) -> None:
        """Gather what else a null needs of the genes at ``spots``, positions within ``keep``."""

    def arrays(self) -> list[NDArray]:
        """What is added up over processes."""
        return [self.cross, self.sums, self.squares, self._with_outer, *self._cubes]

    def finish(self, *, shared: bool) -> None:
        """After the last batch: sums over the processes, less the rank-one part."""
        if shared:
            for held, total in zip(self.arrays(), all_reduce(*self.arrays()), strict=True):
                held[...] = total
        self.magnitude = self.squares.sum(axis=0)
        if self._outer is not None:
            self._take_off(*self._outer)

    def _take_off(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        """The sums of rows less ``a`` times ``b``, from those of the rows."""
        by_section = [np.bincount(self.section, v, len(self.section_size)) for v in (a, a**2, a**3)]
        for s in range(len(self.section_size)):
            own = self.section == s
            self.cross[s] -= np.outer(b, a[own] @ self.y[own])
        self.sums -= np.outer(by_section[0], b)
        constant = np.outer(by_section[1], b**2)
        self.magnitude = self.magnitude + constant.sum(axis=0)
        self.squares += constant - 2 * b * self._with_outer
        if self._cubes:
            cubes, once, twice = self._cubes
            cubes += 3 * b * (b * twice - once) - np.outer(by_section[2], b**3)

    def coefficients_of_genes(
        self, genes: slice, project: Callable[[Matrix], NDArray[np.float64]]
    ) -> NDArray[np.float64] | None:
        """`coefficients` of rows less the rank-one part; ``project`` is that of the null model."""
        coef = self.coefficients(genes)
        if coef is None or self._outer is None:
            return coef
        a, b = self._outer
        if self._projected is None:
            self._projected = np.asarray(project(a[:, None]), dtype=np.float64)
        return coef - self._projected * b[genes]

    def coefficients(self, genes: slice) -> NDArray[np.float64] | None:
        """Coefficients ``(n_coef, m)`` of some genes of the range; `None` where the sums by section say all."""
        return None

    def shuffled(self, genes: slice) -> Shuffled:
        """What shuffling the targets within sections does to their covariance with some genes of the range.

        By default from sums over spots, after `gather_cubes`.
        """
        mean = self.sums[:, genes] / self.section_size[:, None]
        cubes = self._cubes[0][:, genes] - 3 * mean * self.squares[:, genes] + 2 * self.section_size[:, None] * mean**3
        found = Moments(self.centred_squares[:, genes], cubes, self.section_size)
        return Moments.of(self.y, self.section).against(found)

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
        super().finish(shared=shared)
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
    for one in moments:
        one.begin(stream.outer, genes)
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
