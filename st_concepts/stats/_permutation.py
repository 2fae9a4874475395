"""Spots as if they were independent: shuffling them within sections, and the t-test of a correlation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri_exp
from scipy.stats import t

from st_concepts._counts.stream import Matrix, RowStream
from st_concepts._distributed import all_reduce
from st_concepts.stats._graph import section_codes
from st_concepts.stats._null import Counter, Hits, NullModel, dense, register
from st_concepts.stats._sums import Sums

if TYPE_CHECKING:
    from st_concepts.stats._statistics import Job

# entries of shuffled copies that meet the rows at a time: 256 MiB in float64
_COPY_ENTRIES = 2**25


@register
@dataclass(frozen=True)
class PermutationNull(NullModel):
    """Shuffle the target among the spots of each section, as if spots were independent.

    Neighbouring spots are not independent, so on smooth genes its p-values are too small; it needs no coordinates.

    Parameters
    ----------
    sections
        Section codes, shape ``(n_obs,)``. Use :func:`permutation_null` to build from labels.

    Notes
    -----
    The variance over all permutations, ``|a|^2 |b|^2 / (n - 1)`` per section for centred ``a`` and ``b``, is exact
    (Pitman 1937).
    """

    sections: NDArray[np.intp]
    name = "permutation"
    what = "against shuffled spots, as if neighbours were independent, which finds too much on smooth tissue"
    rereads = True
    citation = "Pitman 1937, Suppl. J. R. Stat. Soc. 4:225"

    @classmethod
    def build(
        cls,
        n_obs: int,
        *,
        coords: NDArray[np.float64] | None = None,
        sections: ArrayLike | None = None,
        graph: sp.sparray | sp.spmatrix | None = None,
    ) -> Self:
        """Positions play no part."""
        return cls(section_codes(sections, n_obs))

    @property
    def n_obs(self) -> int:  # type: ignore[override]  # derived
        """Number of spots."""
        return len(self.sections)

    @property
    def order(self) -> NDArray[np.intp]:
        """Spots ordered by section; coefficients follow this order."""
        return np.argsort(self.sections, kind="stable")

    @property
    def blocks(self) -> NDArray[np.intp]:  # type: ignore[override]  # derived
        """One block per section."""
        return np.sort(self.sections)

    @property
    def dims(self) -> NDArray[np.float64]:  # type: ignore[override]  # derived
        """Spots less one, per section."""
        size = np.bincount(self.sections)
        return np.maximum(size[size > 0] - 1.0, 1.0)

    def project(self, values: Matrix) -> NDArray[np.float64]:
        """Values less the section mean, ordered by section."""
        ordered = dense(values)[self.order]
        sizes = np.bincount(self.sections)
        sizes = sizes[sizes > 0]
        return ordered - np.repeat(self.block_sums(ordered) / sizes[:, None], sizes, axis=0)

    def draw(self, coef: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Permute within sections."""
        out = np.empty((n, len(coef)), dtype=coef.dtype)
        for part in np.split(np.arange(len(coef)), np.flatnonzero(np.diff(self.blocks)) + 1):
            out[:, part] = rng.permuted(np.broadcast_to(coef[part], (n, len(part))), axis=1)
        return out

    def draw_in_parts(
        self, coef: NDArray[np.float64], n: int, few: int, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """The copies of `draw`, the very same, ``few`` at a time: nothing of size ``n`` times spots is held."""
        sections = np.split(np.arange(len(coef)), np.flatnonzero(np.diff(self.blocks)) + 1)
        spans = [slice(a, min(a + few, n)) for a in range(0, n, few)]
        # copies are drawn section by section: the generator walks through once to find where each part begins
        states = []
        for part in sections:
            for span in spans:
                states.append(rng.bit_generator.state)
                rng.permuted(np.broadcast_to(coef[part], (span.stop - span.start, len(part))), axis=1)
        end = rng.bit_generator.state
        for i, span in enumerate(spans):
            out = np.empty((span.stop - span.start, len(coef)), dtype=coef.dtype)
            for s, part in enumerate(sections):
                rng.bit_generator.state = states[s * len(spans) + i]
                out[:, part] = rng.permuted(np.broadcast_to(coef[part], (len(out), len(part))), axis=1)
            yield out
        rng.bit_generator.state = end

    def sums(self, y: NDArray[np.float64], keep: NDArray[np.intp], n_genes: int) -> Sums:
        """Sums by section say all."""
        return Sums(self.sections, y, keep, n_genes)

    @property
    def bytes_a_gene(self) -> int:
        """Nothing of size spots."""
        return 0

    def coefficients_of(self, y: NDArray[np.float64], centred: NDArray[np.float64]) -> NDArray[np.float64]:
        """The centred values, which the spot-level statistic needs anyway."""
        return centred

    def counter(self, job: Job, X: RowStream, n: int, rng: np.random.Generator) -> Counter:
        """Copies drawn as they are needed."""
        return ShuffleCounter(self, job, X, n, rng)

    def subset(self, keep: NDArray[np.bool_]) -> PermutationNull:
        """Permute among the spots in ``keep`` only."""
        return type(self)(self.sections[keep])


@register
class IndependentNull(PermutationNull):
    """The t-test of a correlation between independent spots; nothing is shuffled."""

    name = "none"
    what = "t-test of a correlation, as if neighbours were independent, which finds too much on smooth tissue"
    citation = "Student 1908, Biometrika 6:302"
    draws = False

    def tail(
        self, z: NDArray[np.float64], correlation: NDArray[np.float64], df: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """P-values of t, and the normal quantile of the one-sided."""
        with np.errstate(divide="ignore"):
            stat = correlation * np.sqrt(np.maximum(df, 1.0) / np.maximum(1 - correlation**2, 0.0))
        log_tail = t.logsf(np.abs(stat), np.maximum(df, 1.0))
        z = np.where(correlation == 0, 0.0, -np.sign(correlation) * ndtri_exp(np.maximum(log_tail, -1e300)))
        tail = np.exp(log_tail)
        return np.minimum(2 * tail, 1.0), np.where(correlation > 0, tail, 1 - tail), z


def permutation_null(n_obs: int, sections: ArrayLike | None = None) -> PermutationNull:
    """Null model that shuffles spots within sections.

    Parameters
    ----------
    n_obs
        Number of spots.
    sections
        Section of each spot, shape ``(n_obs,)``.

    Raises
    ------
    ValueError
        If ``sections`` has the wrong shape or misses a value.
    """
    return PermutationNull(section_codes(sections, n_obs))


class ShuffleCounter(Counter):
    """Shuffled copies of a target, not held all at once: a pass over the stream for every few.

    In float64, since labels and counts make ties.
    """

    def __init__(self, null: PermutationNull, job: Job, X: RowStream, n: int, rng: np.random.Generator) -> None:
        self.null, self.job, self.X, self.n, self.rng = null, job, X, n, rng

    def hits(self, b: NDArray[np.float64] | None, varies: NDArray[np.bool_]) -> Hits:
        """The copies meet the rows."""
        target, keep, X = self.job.target, self.job.keep, self.X
        few = max(_COPY_ENTRIES // max(target.n_obs, 1), 1)

        def hits(j: int, limit: NDArray[np.float32]) -> NDArray:
            found = np.zeros(len(limit), dtype=np.int64)
            for copies in self.null.draw_in_parts(target.coef[:, j], self.n, few, self.rng):
                placed = np.empty((target.n_obs, len(copies)))
                placed[self.null.order] = copies.T
                products = np.zeros((len(limit), len(copies)))
                for rows, block in X.read():
                    first, last = np.searchsorted(keep, [rows.start, rows.stop])
                    if first < last:
                        products += block[keep[first:last] - rows.start].astype(np.float64).T @ placed[first:last]
                if X.shared:
                    (products,) = all_reduce(products)
                if X.outer is not None:
                    products -= np.outer(X.outer[1], X.outer[0][keep] @ placed)
                # a gene that does not vary has no covariance, whatever rounding makes of it
                found += (np.abs(products) * varies[:, None] >= limit[:, None]).sum(axis=1)
            return found

        return hits
