"""Rows of counts with their features, and the batches that a training step takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts._counts.features import log_normalize
from st_concepts._counts.sparse import SparseRows, row_numbers

# share of nonzeros below which sparse products are faster: measured, the two meet at 0.4 to 0.6 (2,000 to 12,000 genes,
# 32 to 128 spots); a GPU prefers dense ones
_SPARSE_BELOW = 0.35


class Batch:
    """Spots of one step. No dataclass: Fabric would take it apart and convert its numbers.

    Attributes
    ----------
    x
        Features ``(n, n_vars)``, dense or sparse.
    row, gene, counts
        Nonzero counts: spot and gene, int64, and values, float32.
    size
        Total counts ``(n,)``, float32.
    codes
        Section of each spot ``(n,)``, or `None`.
    """

    def __init__(
        self,
        x: torch.Tensor | SparseRows,
        row: torch.Tensor,
        gene: torch.Tensor,
        counts: torch.Tensor,
        size: torch.Tensor,
        codes: torch.Tensor | None,
    ) -> None:
        self.x, self.row, self.gene, self.counts, self.size, self.codes = x, row, gene, counts, size, codes

    @property
    def n(self) -> int:
        """Number of spots."""
        return len(self.size)


@dataclass(frozen=True)
class SpotRows:
    """CSR counts and features of some spots, which share columns and row pointers.

    Attributes
    ----------
    indptr, indices
        int64 ``(n + 1,)`` and int32 ``(nnz,)``.
    counts, features
        float32 ``(nnz,)``.
    size
        Total counts, float64 ``(n,)``.
    codes
        Section codes ``(n,)``, or `None`.
    n_vars
        Number of genes.
    """

    indptr: np.ndarray
    indices: np.ndarray
    counts: np.ndarray
    features: np.ndarray
    size: np.ndarray
    codes: np.ndarray | None
    n_vars: int

    @classmethod
    def of(cls, counts: sp.csr_matrix, target_sum: float, codes: np.ndarray | None, size: np.ndarray) -> SpotRows:
        """From CSR counts ``(n, n_vars)`` and their row sums."""
        return cls(
            counts.indptr.astype(np.int64),
            counts.indices.astype(np.int32, copy=False),
            counts.data,
            np.asarray(log_normalize(counts, target_sum, size=size).data),
            size,
            codes,
            counts.shape[1],
        )

    @property
    def n(self) -> int:
        """Number of spots."""
        return len(self.size)

    def csr(self, values: str = "features") -> sp.csr_matrix:
        """``"features"`` or ``"counts"`` as CSR ``(n, n_vars)``, a view."""
        data = getattr(self, values)
        return sp.csr_matrix((data, self.indices, self.indptr), shape=(self.n, self.n_vars), copy=False)

    def by_section(self, values: str) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Section code and CSR of ``"features"`` or ``"counts"`` of each section that occurs."""
        matrix = self.csr(values)
        if self.codes is None:
            yield 0, matrix
            return
        for s in np.unique(self.codes):
            yield int(s), matrix[self.codes == s]

    def take(self, rows: np.ndarray) -> SpotRows:
        """The rows of these positions, in this order."""
        length = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(length)])
        at = np.repeat(self.indptr[rows] - indptr[:-1], length) + np.arange(indptr[-1])
        codes = None if self.codes is None else self.codes[rows]
        return SpotRows(
            indptr, self.indices[at], self.counts[at], self.features[at], self.size[rows], codes, self.n_vars
        )

    def cut(self, first: int, last: int) -> SpotRows:
        """Rows ``first`` to ``last`` without a copy of their values."""
        span = slice(self.indptr[first], self.indptr[last])
        return SpotRows(
            self.indptr[first : last + 1] - span.start,
            self.indices[span],
            self.counts[span],
            self.features[span],
            self.size[first:last],
            None if self.codes is None else self.codes[first:last],
            self.n_vars,
        )

    def batch(self, device: torch.device, *, sparse: bool, transpose: bool = True) -> Batch:
        """These spots as a `Batch`; ``transpose`` is for the gradient of a sparse first layer."""
        gene = torch.from_numpy(self.indices).to(device).long()
        row = row_numbers(torch.from_numpy(self.indptr).to(device), len(gene))
        if sparse:
            x: torch.Tensor | SparseRows = SparseRows.of(self.csr(), device=device, transpose=transpose)
        else:
            x = torch.zeros(self.n * self.n_vars, device=device)
            x[row * self.n_vars + gene] = torch.from_numpy(self.features).to(device)
            x = x.view(self.n, self.n_vars)
        return Batch(
            x,
            row,
            gene,
            torch.from_numpy(self.counts).to(device),
            torch.from_numpy(self.size.astype(np.float32)).to(device),
            None if self.codes is None else torch.from_numpy(self.codes).to(device),
        )


def concatenate(parts: Sequence[SpotRows]) -> SpotRows:
    """Rows of all parts, one after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0] + [len(p.indices) for p in parts])
    indptr = np.concatenate([parts[0].indptr[:1], *(p.indptr[1:] + e for p, e in zip(parts, ends, strict=False))])
    codes = None if parts[0].codes is None else np.concatenate([p.codes for p in parts])
    indices, counts, features, size = (
        np.concatenate([getattr(p, k) for p in parts]) for k in ("indices", "counts", "features", "size")
    )
    return SpotRows(indptr, indices, counts, features, size, codes, parts[0].n_vars)


def use_sparse(density: float, device: torch.device) -> bool:
    """Whether batches with this share of nonzeros go through the first layer as sparse products."""
    return device.type == "cpu" and density < _SPARSE_BELOW
