"""What genes are ranked by: how far they differ between two sides of weighted spots, and follow a score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from st_concepts._counts.stream import RowStream
from st_concepts._distributed import all_reduce

# below this share of its sum of squares a variance is rounding
_CONSTANT = 1e-9


class Contrast:
    """Welch's t between two sides and the correlation with a score, from sums that one pass over the rows gathers.

    Sections are compared within themselves: the difference of the means is that of each section, weighed by
    ``n_in n_out / (n_in + n_out)``, and scores are centred within sections.

    Parameters
    ----------
    inside, outside
        Weights from 0 to 1, float64 ``(n_obs, n_concepts)``; a spot that plays no part has 0 in both.
    score
        float64 ``(n_obs, n_concepts)``, NaN where unknown.
    sections
        Section codes ``(n_obs,)``.
    n_vars
        Number of genes.
    """

    def __init__(
        self,
        inside: NDArray[np.float64],
        outside: NDArray[np.float64],
        score: NDArray[np.float64],
        sections: NDArray[np.intp],
        n_vars: int,
    ) -> None:
        self.n_concepts = k = inside.shape[1]
        self.known = np.asarray(~np.isnan(score).all(axis=1))
        self.score = _centred(score, sections)
        self.sides = np.concatenate([inside, outside], axis=1)
        difference = _differences(inside, outside, sections)
        ones = self.known.astype(np.float64)[:, None]
        # columns: differences, scores, both sides, all spots
        self.columns = np.concatenate([difference, self.score, self.sides, ones], axis=1)
        self.squared = slice(2 * k, None)
        self.linear = np.zeros((n_vars, self.columns.shape[1]))
        self.squares = np.zeros((n_vars, 2 * k + 1))
        self.crossed = np.zeros_like(self.squares)
        self._outer: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._shared, self._complete = False, False

    def watching(self, stream: RowStream) -> RowStream:
        """``stream`` itself, whose first pass is summed up on the way."""
        self._outer, self._shared = stream.outer, stream.shared

        def read() -> Iterator[tuple[slice, sp.csr_matrix]]:
            first, self._complete = not self._complete, True
            for rows, block in stream.read():
                if first:
                    self._add(rows, block)
                yield rows, block

        return replace(stream, read=read)

    def _add(self, rows: slice, block: sp.csr_matrix) -> None:
        columns = self.columns[rows]
        weights = columns[:, self.squared]
        flat = [columns] if self._outer is None else [columns, weights * self._outer[0][rows, None]]
        found = block.T @ np.concatenate(flat, axis=1).astype(block.dtype)
        self.linear += found[:, : columns.shape[1]]
        if self._outer is not None:
            self.crossed += found[:, columns.shape[1] :]
        square = sp.csr_matrix((block.data**2, block.indices, block.indptr), shape=block.shape)
        self.squares += square.T @ weights.astype(block.dtype)

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weighted sums of the genes ``(n_vars, n_columns)``, and of their squares for sides and all spots."""
        linear, squares, crossed = self.linear, self.squares, self.crossed
        if self._shared:
            linear, squares, crossed = all_reduce(linear, squares, crossed)
        if self._outer is None:
            return linear, squares
        a, b = self._outer
        weights = self.columns[:, self.squared]
        return (
            linear - b[:, None] * (a @ self.columns),
            squares - 2 * b[:, None] * crossed + (b**2)[:, None] * (a**2 @ weights),
        )

    def correlation(self) -> NDArray[np.float64]:
        """Correlation of genes and scores over all spots, float64 ``(n_vars, n_concepts)``; 0 where either is flat."""
        linear, squares = self._moments()
        k, n = self.n_concepts, max(float(self.known.sum()), 1.0)
        variance = squares[:, -1] - linear[:, -1] ** 2 / n
        variance = np.where(variance > _CONSTANT * squares[:, -1], variance, 0.0)
        norm = np.sqrt(variance[:, None] * (self.score**2).sum(axis=0))
        return _ratio(linear[:, k : 2 * k], norm)

    def welch(self) -> NDArray[np.float64]:
        """Welch's t of weighted spots, float64 ``(n_vars, n_concepts)``; 0 where a gene is flat on both sides."""
        linear, squares = self._moments()
        k = self.n_concepts
        size = self.sides.sum(axis=0)
        effective = size**2 / np.maximum((self.sides**2).sum(axis=0), 1e-300)
        size = np.maximum(size, 1e-300)
        mean = linear[:, 2 * k : 4 * k] / size
        second = squares[:, : 2 * k] / size
        variance = np.where(second - mean**2 > _CONSTANT * second, second - mean**2, 0.0)
        error = variance / np.maximum(effective - 1.0, 1.0)
        return _ratio(linear[:, :k], np.sqrt(error[:, :k] + error[:, k:]))

    def both(self) -> NDArray[np.float64]:
        """Welch's t plus the correlation times the square root of the number of spots, two t-like numbers."""
        return self.welch() + np.sqrt(float(self.known.sum())) * self.correlation()


def _centred(score: NDArray[np.float64], sections: NDArray[np.intp]) -> NDArray[np.float64]:
    """Less the mean of the section; 0 where unknown."""
    out = np.zeros_like(score)
    for code in np.unique(sections):
        own = sections == code
        known = ~np.isnan(score[own])
        mean = np.where(known, score[own], 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        out[own] = np.where(known, score[own] - mean, 0.0)
    return out


def _differences(
    inside: NDArray[np.float64], outside: NDArray[np.float64], sections: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Weights of the spots whose sum is the difference of the sides."""
    weights, total = np.zeros_like(inside), np.zeros(inside.shape[1])
    for code in np.unique(sections):
        own = sections == code
        n_in, n_out = inside[own].sum(axis=0), outside[own].sum(axis=0)
        share = np.divide(n_in * n_out, n_in + n_out, out=np.zeros_like(n_in), where=(n_in > 0) & (n_out > 0))
        plus, minus = (np.divide(share, n, out=np.zeros_like(n), where=n > 0) for n in (n_in, n_out))
        weights[own] = inside[own] * plus - outside[own] * minus
        total += share
    return weights / np.where(total > 0, total, 1.0)


def _ratio(num: NDArray[np.float64], den: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(num, den, out=np.zeros_like(num), where=den > 0)
