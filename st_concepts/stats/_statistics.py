"""Statistics of genes against targets from sums over spots, and the test of a matrix in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from st_concepts.stats._null import Matrix, NullModel, PermutationNull
from st_concepts.stats._sums import Moments

# entries of a dense block of genes: 128 MiB in float64
BLOCK_ENTRIES = 2**24
# below this share of its sum of squares a gene's or target's variance is rounding
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Target:
    """The targets of spots that are all known, and what the null model makes of them."""

    null: NullModel
    n_obs: int
    y_spot: NDArray[np.float64]  # centred within sections, ordered by section
    coef: NDArray[np.float64]
    y_blocks: NDArray[np.float64]
    varies: NDArray[np.bool_]
    scale: NDArray[np.float64]
    own: NDArray[np.float64] | None
    concepts: NDArray[np.intp]
    df: int

    @classmethod
    def of(
        cls, y: NDArray[np.float64], null: NullModel, own: NDArray[np.float64] | None, concepts: NDArray[np.intp]
    ) -> Target:
        spots = PermutationNull(null.sections)
        y_spot = spots.project(_standardised(y))
        varies = (y_spot**2).sum(axis=0) > _CONSTANT * len(y)
        y_spot[:, ~varies] = 0.0
        # the projection of a shuffle is no more than the centred values, which the spot-level statistic needs anyway
        coef = y_spot if isinstance(null, PermutationNull) else null.project(_standardised(y)) * varies
        y_blocks = null.block_sums(coef**2)
        df = len(y) - len(spots.dims) - 1
        return cls(null, len(y), y_spot, coef, y_blocks, varies, y.std(axis=0), own, concepts, df)

    @property
    def order(self) -> NDArray[np.intp]:
        """Spots by section, as in ``y_spot``."""
        return PermutationNull(self.null.sections).order

    @property
    def y(self) -> NDArray[np.float64]:
        """``y_spot`` in the order of the spots."""
        out = np.empty_like(self.y_spot)
        out[self.order] = self.y_spot
        return out

    def copies(self, j: int, n: int, rng: np.random.Generator) -> NDArray:
        """``n`` null copies of target ``j``; float64 where they are shuffled, since labels and counts make ties."""
        drawn = self.null.draw(self.coef[:, j], n, rng)
        return drawn if isinstance(self.null, PermutationNull) else drawn.astype(np.float32)


@dataclass(frozen=True)
class Genes:
    """What the statistics of a range of genes are made of: sums over spots, and over the blocks of the null."""

    genes: slice
    cross: NDArray[np.float64]  # (n_concepts, m)
    ss: NDArray[np.float64]
    varies: NDArray[np.bool_]
    b_blocks: NDArray[np.float64]  # (n_blocks, m)
    inner: NDArray[np.float64]  # (n_concepts, m)
    cross_blocks: Callable[[int], NDArray[np.float64]]  # of a concept, (n_blocks, m)

    @classmethod
    def from_coefficients(
        cls,
        genes: slice,
        target: Target,
        cross: NDArray[np.float64],
        ss: NDArray[np.float64],
        total: NDArray[np.float64],
        b: NDArray[np.float64],
    ) -> Genes:
        """From the coefficients ``b`` ``(n_coef, m)`` of the genes; ``total`` is their plain sum of squares."""
        varies = ss > _CONSTANT * total
        b[:, ~varies] = 0.0
        coef, null = target.coef, target.null
        inner = coef.T @ b
        return cls(
            genes, cross, ss, varies, null.block_sums(b**2), inner, lambda j: null.block_sums(coef[:, j : j + 1] * b)
        )

    @classmethod
    def from_moments(cls, genes: slice, moments: Moments) -> Genes:
        """For shuffled spots, whose blocks are the sections."""
        blocks = moments.centred_squares
        ss = blocks.sum(axis=0)
        varies = ss > _CONSTANT * moments.squares.sum(axis=0)
        cross = moments.cross.transpose(2, 0, 1) * varies
        total = cross.sum(axis=1)
        return cls(genes, total, ss, varies, blocks * varies, total, lambda j: cross[j])


Hits = Callable[[int, NDArray[np.float32]], NDArray]


def fill(
    target: Target,
    part: Genes,
    n_null: int,
    hits: Hits | None,
    out: dict[str, NDArray[np.float64]],
    empirical: NDArray[np.float64] | None,
) -> None:
    """Statistics of a range of genes. ``hits`` counts the null copies of a target that reach a limit."""
    genes, ss, b_blocks, dims = part.genes, part.ss, part.b_blocks, target.null.dims[:, None]
    for j, concept in enumerate(target.concepts):
        rest = np.full(len(ss), (target.y_spot[:, j] ** 2).sum())
        cov, num, a_blocks = part.cross[j], part.inner[j], target.y_blocks[:, j : j + 1]
        if target.own is not None and target.scale[j] > 0:
            w = target.own[genes, j] / target.scale[j]
            rest = np.maximum(rest - 2 * w * cov + w**2 * ss, 0.0)
            cov = cov - w * ss
            a_blocks = np.maximum(a_blocks - 2 * w * part.cross_blocks(j) + w**2 * b_blocks, 0.0)
            num = num - w * b_blocks.sum(axis=0)
        live = part.varies & target.varies[j] & (rest > _CONSTANT * target.n_obs)
        sd = np.sqrt((a_blocks * b_blocks / dims).sum(axis=0))
        out["covariance"][genes, concept] = np.where(live, cov, 0.0) * target.scale[j] / target.n_obs
        out["correlation"][genes, concept] = _ratio(cov, np.sqrt(rest * ss), live).clip(-1.0, 1.0)
        z = out["z"][genes, concept] = _ratio(num, sd, live)
        out["df"][genes, concept] = target.df
        if empirical is not None and hits is not None:
            null_sd = np.sqrt((target.y_blocks[:, j : j + 1] * b_blocks / dims).sum(axis=0))
            # copies are drawn of the whole target; in units of its null they serve the target less a gene as well
            limit = (np.abs(z) * null_sd * (1 - 1e-6)).astype(np.float32)
            empirical[genes, concept] = np.where(live & (sd > 0), (1.0 + hits(j, limit)) / (1.0 + n_null), 1.0)


def run_matrix(
    X: Matrix,
    target: Target,
    n_null: int,
    rng: np.random.Generator,
    out: dict[str, NDArray[np.float64]],
    empirical: NDArray[np.float64] | None,
) -> None:
    """Fill ``out`` and ``empirical`` for targets without NaN from a matrix of the same spots."""
    null, n_obs = target.null, target.n_obs
    copies = [target.copies(j, n_null, rng) if n_null else None for j in range(len(target.concepts))]
    same = isinstance(null, PermutationNull)
    for genes, block in _gene_blocks(X, max(len(target.coef), n_obs if not sp.issparse(X) or same else 1)):
        cross, ss = _spot_statistics(block, target.y_spot, PermutationNull(null.sections))
        b = null.project(block)
        part = Genes.from_coefficients(genes, target, cross, ss, _sum_of_squares(block), b)
        fill(target, part, n_null, counted(copies, b) if n_null else None, out, empirical)


def counted(copies: list[NDArray], b: NDArray[np.float64]) -> Hits:
    """Counts copies by their inner products with the coefficients of the genes."""
    return lambda j, limit: (np.abs(copies[j] @ b.astype(copies[j].dtype)) >= limit).sum(axis=0)


def _spot_statistics(
    block: Matrix, y_spot: NDArray[np.float64], spots: PermutationNull
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Within-section cross products ``(n_concepts, m)`` with the centred targets, and sums of squares ``(m,)``.

    ``y_spot`` is ordered by section, as ``spots.project`` returns it.
    """
    order, code = spots.order, spots.blocks
    y = np.empty_like(y_spot)
    y[order] = y_spot
    cross = np.asarray((block.T @ y).T)
    present, code = np.unique(code, return_inverse=True)
    member = sp.csr_array((np.ones(len(order)), (code, order)), shape=(len(present), len(order)))
    sums = member @ block
    sums = sums.toarray() if sp.issparse(sums) else sums
    ss = _sum_of_squares(block) - (sums**2 / np.bincount(code)[:, None]).sum(axis=0)
    return cross, np.maximum(ss, 0.0)


def _sum_of_squares(block: Matrix) -> NDArray[np.float64]:
    if sp.issparse(block):
        return np.asarray(block.multiply(block).sum(axis=0)).ravel()
    return np.einsum("ij,ij->j", block, block)


def _gene_blocks(X: Matrix, n_rows: int) -> Iterator[tuple[slice, Matrix]]:
    size = max(BLOCK_ENTRIES // max(n_rows, 1), 1)
    if sp.issparse(X):
        X = sp.csc_array(X)
    for start in range(0, X.shape[1], size):
        genes = slice(start, min(start + size, X.shape[1]))
        yield genes, X[:, genes].astype(np.float64)


def _standardised(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0, standard deviation 1 over the spots, so that thresholds do not depend on the target's units."""
    sd = y.std(axis=0)
    return (y - y.mean(axis=0)) / np.where(sd > _CONSTANT * np.abs(y).max(axis=0, initial=0.0), sd, np.inf)


def _ratio(num: NDArray, den: NDArray, live: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.divide(num, den, out=np.zeros_like(den), where=live & (den > 0))
