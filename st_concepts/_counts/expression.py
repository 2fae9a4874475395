"""Log-normalised expression of an AnnData, sparse or in batches, and group summaries of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.check import check_block, count_matrix, where_of
from st_concepts._counts.features import log_normalize, sizes
from st_concepts._counts.rows import iter_rows
from st_concepts._distributed import all_reduce

_ROWS = 4096


@dataclass(frozen=True)
class Expression:
    """Log-normalised expression that is read in batches; where several processes share the work, each reads its part.

    Attributes
    ----------
    adata, layer, target_sum
        Where the counts are, and the total that every spot is scaled to.
    is_counts
        `False` where ``adata.X`` was log-normalised after the model was fitted.
    totals
        Sum of each spot, of counts or else of X, float64 ``(n_obs,)``.
    share
        Whether processes share the rows; otherwise this one reads all.
    """

    adata: AnnData
    layer: str | None
    target_sum: float
    is_counts: bool
    totals: np.ndarray
    share: bool = True

    @classmethod
    def open(cls, adata: AnnData, layer: str | None, target_sum: float, *, share: bool = True) -> Expression:
        """Look at every value once: counts, or log-normalised by the mark that ``sc.pp.log1p`` leaves in ``uns``."""
        names = pd.Index(adata.var_names.astype(str))
        where = where_of(layer)
        marked = layer is None and "log1p" in adata.uns
        totals, other = np.zeros(adata.n_obs), 0
        for rows, block in iter_rows(count_matrix(adata, layer), _ROWS, share=share):
            try:
                check_block(block, names, where)
            except ValueError:
                if not marked or not np.isfinite(block.data).all() or (block.data < 0).any():
                    raise
                other += 1
            totals[rows] = sizes(block)
        if share:
            totals, (other,) = all_reduce(totals, np.array([other]))
        return cls(adata, layer, target_sum, not other, totals, share)

    @property
    def shape(self) -> tuple[int, int]:
        """Spots and genes."""
        return self.adata.shape

    def read(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Rows and float32 CSR of consecutive batches, those of this process."""
        for rows, block in iter_rows(count_matrix(self.adata, self.layer), _ROWS, share=self.share):
            yield rows, log_normalize(block, self.target_sum, size=self.totals[rows]) if self.is_counts else block

    def matrix(self) -> sp.csr_matrix:
        """All rows, float32 CSR ``(n_obs, n_vars)``, held."""
        return sp.vstack([block for _, block in self.read()], format="csr")


class SideSums:
    """Group summaries of both sides of each concept, gathered while batches pass by for another purpose.

    Parameters
    ----------
    inside, outside
        Boolean ``(n_obs, n_concepts)``.
    n_vars
        Number of genes.
    """

    def __init__(self, inside: np.ndarray, outside: np.ndarray, n_vars: int) -> None:
        self.n_obs, self.sides = len(inside), np.concatenate([inside, outside], axis=1)
        self.linear = np.zeros((n_vars, self.sides.shape[1]))
        self.seen = np.zeros_like(self.linear)
        self._complete = False

    def watching(
        self, read: Callable[[], Iterable[tuple[slice, sp.csr_matrix]]]
    ) -> Callable[[], Iterator[tuple[slice, sp.csr_matrix]]]:
        """``read`` itself, whose first complete pass is summed up on the way."""

        def watched() -> Iterator[tuple[slice, sp.csr_matrix]]:
            first, self._complete = not self._complete, True
            for rows, block in read():
                if first:
                    self._add(rows, block)
                yield rows, block

        return watched

    def _add(self, rows: slice, x: sp.csr_matrix) -> None:
        sides = self.sides[rows].astype(np.float64)
        for total, values in (
            (self.linear, np.expm1(x.data.astype(np.float64))),
            (self.seen, np.ones(x.nnz)),
        ):
            total += sp.csr_matrix((values, x.indices, x.indptr), shape=x.shape).T @ sides

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log2 ratio of mean normalised expression inside over outside; share of spots of each side that see a gene.

        One count spread over all spots is added on both sides of the ratio, so that genes seen on one side only stay
        finite. Each float64 ``(n_concepts, n_vars)``.
        """
        linear, seen = all_reduce(self.linear, self.seen)
        size = np.maximum(self.sides.sum(0), 1)
        (mean_in, mean_out), (seen_in, seen_out) = (np.split((v / size).T, 2) for v in (linear, seen))
        eps = 1.0 / self.n_obs
        return np.log2((mean_in + eps) / (mean_out + eps)), seen_in, seen_out
