"""What a null model of the association test has to offer, and the simplest one: shuffling spots within sections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from st_concepts.stats._graph import section_codes

Matrix = NDArray | sp.sparray | sp.spmatrix


class NullModel(ABC):
    """A null model of the association between a gene and a target.

    Target and gene are written in an orthonormal basis of the spots (or pseudo-spots) in which the section means are
    gone; their covariance is the inner product of their coefficients. The coefficients form blocks, and under the null
    the target's coefficients within a block point in any direction of ``dims[block]`` dimensions alike. The null
    variance of the inner product of target ``a`` and gene ``b`` is then
    ``sum over blocks of |a_block|^2 |b_block|^2 / dims[block]``.

    Attributes
    ----------
    name
        Short name, written into results.
    n_obs
        Number of spots.
    sections
        Section codes, shape ``(n_obs,)``.
    blocks
        Block of each coefficient, shape ``(n_coef,)``, ascending.
    dims
        Dimension of each block, shape ``(n_blocks,)``.
    """

    name: str
    n_obs: int
    sections: NDArray[np.intp]
    blocks: NDArray[np.intp]
    dims: NDArray[np.float64]

    @abstractmethod
    def project(self, values: Matrix) -> NDArray[np.float64]:
        """Coefficients ``(n_coef, m)`` of the columns of ``values`` ``(n_obs, m)``, dense or sparse."""

    @abstractmethod
    def draw(self, coef: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """``n`` null copies, ``(n, n_coef)``, of the coefficients ``coef`` ``(n_coef,)`` of one target."""

    @abstractmethod
    def subset(self, keep: NDArray[np.bool_]) -> NullModel:
        """The same null model for the spots in ``keep``."""

    def block_sums(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the coefficients of each block: ``(n_coef, m)`` to ``(n_blocks, m)``."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.blocks) > 0])
        return np.add.reduceat(squares, starts, axis=0)


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
    name: str = "permutation"

    @property
    def n_obs(self) -> int:  # type: ignore[override]
        """Number of spots."""
        return len(self.sections)

    @property
    def order(self) -> NDArray[np.intp]:
        """Spots ordered by section; coefficients follow this order."""
        return np.argsort(self.sections, kind="stable")

    @property
    def blocks(self) -> NDArray[np.intp]:  # type: ignore[override]
        """One block per section."""
        return np.sort(self.sections)

    @property
    def dims(self) -> NDArray[np.float64]:  # type: ignore[override]
        """Spots less one, per section."""
        size = np.bincount(self.sections)
        return np.maximum(size[size > 0] - 1.0, 1.0)

    def project(self, values: Matrix) -> NDArray[np.float64]:
        """Values less the section mean, ordered by section."""
        dense = _dense(values)[self.order]
        sizes = np.bincount(self.sections)
        sizes = sizes[sizes > 0]
        return dense - np.repeat(self.block_sums(dense) / sizes[:, None], sizes, axis=0)

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

    def subset(self, keep: NDArray[np.bool_]) -> PermutationNull:
        """Permute among the spots in ``keep`` only."""
        return PermutationNull(self.sections[keep])


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


def _dense(values: Matrix) -> NDArray[np.float64]:
    if sp.issparse(values):
        values = values.toarray()
    return np.asarray(values, dtype=np.float64)
