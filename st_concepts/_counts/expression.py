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
from st_concepts._counts.residuals import CLIP, PearsonResiduals
from st_concepts._counts.rows import iter_rows
from st_concepts._counts.stream import RowStream
from st_concepts._distributed import all_reduce
from st_concepts._distributed import size as n_processes

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
    gene_totals
        Sum of each gene over all spots, of the same, float64 ``(n_vars,)``.
    share
        Whether processes share the rows; otherwise this one reads all.
    """

    adata: AnnData
    layer: str | None
    target_sum: float
    is_counts: bool
    totals: np.ndarray
    gene_totals: np.ndarray
    share: bool = True

    @classmethod
    def open(cls, adata: AnnData, layer: str | None, target_sum: float, *, share: bool = True) -> Expression:
        """Look at every value once: counts, or log-normalised by the mark that ``sc.pp.log1p`` leaves in ``uns``."""
        names = pd.Index(adata.var_names.astype(str))
        where = where_of(layer)
        marked = layer is None and "log1p" in adata.uns
        totals, genes, other = np.zeros(adata.n_obs), np.zeros(adata.n_vars), 0
        for rows, block in iter_rows(count_matrix(adata, layer), _ROWS, share=share):
            try:
                check_block(block, names, where)
            except ValueError:
                if not marked or not np.isfinite(block.data).all() or (block.data < 0).any():
                    raise
                other += 1
            totals[rows] = sizes(block)
            genes += np.bincount(block.indices, block.data, adata.n_vars)
        if share:
            totals, genes, (other,) = all_reduce(totals, genes, np.array([other]))
        return cls(adata, layer, target_sum, not other, totals, genes, share)

    @property
    def shape(self) -> tuple[int, int]:
        """Spots and genes."""
        return self.adata.shape

    def read(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Rows and float32 CSR of consecutive batches, those of this process."""
        for rows, block in self._blocks():
            yield rows, log_normalize(block, self.target_sum, size=self.totals[rows]) if self.is_counts else block

    def _blocks(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        yield from iter_rows(count_matrix(self.adata, self.layer), _ROWS, share=self.share)

    def residuals(self, usable: np.ndarray, *, clip: float = CLIP, sides: SideSums | None = None) -> RowStream:
        """Pearson residuals of the counts as a stream; of X that was log-normalised, the values themselves.

        Parameters
        ----------
        usable
            Boolean ``(n_obs,)``: spots with enough counts; the others are rows of zeros and do not count for the
            share of a gene. Where such spots hold counts, one more pass finds which.
        clip
            Largest residual; see `CLIP`.
        sides
            Gathers its sums in the first pass.

        Raises
        ------
        ValueError
            ``clip`` is not positive.
        """
        shared = self.share and n_processes() > 1
        if not self.is_counts:
            return RowStream(self.shape, self.read if sides is None else sides.watching(self.read), shared=shared)
        made = PearsonResiduals.of(self.totals, self._gene_totals(usable), usable, clip)
        scale = np.divide(self.target_sum, self.totals, out=np.zeros_like(self.totals), where=self.totals > 0)
        blocks = self._blocks if sides is None else sides.watching(self._blocks, scale=scale)

        def read() -> Iterator[tuple[slice, sp.csr_matrix]]:
            for rows, block in blocks():
                yield rows, made.sparse_part(block, rows)

        return RowStream(self.shape, read, shared, (made.a, made.b))

    def feature_slope(self, usable: np.ndarray) -> np.ndarray:
        """How much log-normalised expression rises with what `residuals` gives, float64 ``(n_vars,)``."""
        if not self.is_counts:
            return np.ones(self.shape[1])
        return PearsonResiduals.of(self.totals, self._gene_totals(usable), usable).feature_slope(self.target_sum)

    def _gene_totals(self, usable: np.ndarray) -> np.ndarray:
        """Sum of each gene over the spots in ``usable``."""
        left_out = ~usable & (self.totals > 0)
        if not left_out.any():
            return self.gene_totals
        theirs = np.zeros_like(self.gene_totals)
        for rows, block in self._blocks():
            if left_out[rows].any():
                part = block[left_out[rows]]
                theirs += np.bincount(part.indices, part.data, len(theirs))
        return self.gene_totals - (all_reduce(theirs)[0] if self.share else theirs)

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
        self, read: Callable[[], Iterable[tuple[slice, sp.csr_matrix]]], *, scale: np.ndarray | None = None
    ) -> Callable[[], Iterator[tuple[slice, sp.csr_matrix]]]:
        """``read`` itself, whose first complete pass is summed up on the way.

        It gives log-normalised values, or else counts and ``scale`` ``(n_obs,)`` what they are multiplied by.
        """

        def watched() -> Iterator[tuple[slice, sp.csr_matrix]]:
            first, self._complete = not self._complete, True
            for rows, block in read():
                if first:
                    self._add(rows, block, None if scale is None else scale[rows])
                yield rows, block

        return watched

    def _add(self, rows: slice, x: sp.csr_matrix, scale: np.ndarray | None) -> None:
        values = x.data.astype(np.float64)
        linear = np.expm1(values) if scale is None else values * np.repeat(scale, np.diff(x.indptr))
        sides = self.sides[rows].astype(np.float64)
        for total, values in (
            (self.linear, linear),
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
