"""What a null model of the association test has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from st_concepts._counts.kind import is_sparse
from st_concepts._counts.stream import Matrix, RowStream
from st_concepts._registry import Registry
from st_concepts.stats._sums import ColumnSums, Sums

if TYPE_CHECKING:
    from st_concepts.stats._statistics import Job

# of a target and limits of the genes: how many null copies reach them
Hits = Callable[[int, NDArray[np.float32]], NDArray]


class NullModel(ABC):
    """A null model of the association between a gene and a target.

    Target and gene are written in an orthonormal basis of the spots (or pseudo-spots) in which the section means are
    gone; their covariance is the inner product of their coefficients. The coefficients form blocks, and under the null
    the target's coefficients within a block point in any direction of ``dims[block]`` dimensions alike. The null
    variance of the inner product of target ``a`` and gene ``b`` is then
    ``sum over blocks of |a_block|^2 |b_block|^2 / dims[block]``.

    A subclass that is registered (``stc.stats.register``) can be asked for by its name; an object of one that is not
    can be passed as it is.

    Attributes
    ----------
    name
        Short name, written into results.
    what
        What a gene is tested against, in a few words that follow "p-values:".
    citation
        Where it comes from.
    needs_positions
        Whether `build` needs coordinates or a graph.
    n_obs
        Number of spots.
    sections
        Section codes, shape ``(n_obs,)``.
    blocks
        Block of each coefficient, shape ``(n_coef,)``, ascending.
    dims
        Dimension of each block, shape ``(n_blocks,)``.
    """

    name: ClassVar[str] = ""
    what: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    needs_positions: ClassVar[bool] = False
    # whether null copies can be counted, and whether each of them meets the rows of the expression again
    draws: ClassVar[bool] = True
    rereads: ClassVar[bool] = False
    n_obs: int
    sections: NDArray[np.intp]
    blocks: NDArray[np.intp]
    dims: NDArray[np.float64]

    @classmethod
    def build(
        cls,
        n_obs: int,
        *,
        coords: NDArray[np.float64] | None = None,
        sections: ArrayLike | None = None,
        graph: sp.sparray | sp.spmatrix | None = None,
    ) -> Self:
        """The null model of spots, with their positions, sections and graph as far as they are known.

        Raises
        ------
        ValueError
            It needs positions and there are none.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be asked for by name; pass null= an object of it.")

    @abstractmethod
    def project(self, values: Matrix) -> NDArray[np.float64]:
        """Coefficients ``(n_coef, m)`` of the columns of ``values`` ``(n_obs, m)``, dense or sparse."""

    @abstractmethod
    def draw(self, coef: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """``n`` null copies, ``(n, n_coef)``, of the coefficients ``coef`` ``(n_coef,)`` of one target."""

    @abstractmethod
    def subset(self, keep: NDArray[np.bool_]) -> NullModel:
        """The same null model for the spots in ``keep``."""

    def sums(self, y: NDArray[np.float64], keep: NDArray[np.intp], n_genes: int) -> Sums:
        """What one pass over rows gathers for this null; see `Sums`. By default the genes themselves."""
        return ColumnSums(self.sections, y, keep, n_genes, self.project)

    @property
    def bytes_a_gene(self) -> int:
        """Memory that `sums` takes for each gene, which decides how many are gathered in a pass."""
        return 12 * self.n_obs

    def coefficients_of(self, y: NDArray[np.float64], centred: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients of the targets ``y``; ``centred`` are they, less the section means and ordered by section."""
        return self.project(y)

    def counter(self, job: Job, X: RowStream, n: int, rng: np.random.Generator) -> Counter:
        """What counts ``n`` null copies of the targets of a job."""
        return DrawnCounter(self, job, n, rng)

    def tail(
        self, z: NDArray[np.float64], correlation: NDArray[np.float64], df: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Two-sided p-value, one-sided one for positive association, and z; by default by the normal distribution."""
        return 2 * norm.sf(np.abs(z)), norm.sf(z), z

    def block_sums(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the coefficients of each block: ``(n_coef, m)`` to ``(n_blocks, m)``."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.blocks) > 0])
        return np.add.reduceat(squares, starts, axis=0)


class Counter(ABC):
    """Counts how many null copies of a target reach a limit."""

    @abstractmethod
    def hits(self, b: NDArray[np.float64] | None, varies: NDArray[np.bool_]) -> Hits:
        """For genes with coefficients ``b``, of which some vary."""


class DrawnCounter(Counter):
    """Copies drawn once; their inner products with the coefficients of the genes are counted."""

    def __init__(self, null: NullModel, job: Job, n: int, rng: np.random.Generator) -> None:
        coef = job.target.coef
        self.copies = [null.draw(coef[:, j], n, rng).astype(np.float32) for j in range(coef.shape[1])]

    def hits(self, b: NDArray[np.float64] | None, varies: NDArray[np.bool_]) -> Hits:
        """One product a target."""
        if b is None:
            raise ValueError("Drawn copies are counted with the coefficients of the genes, and there are none.")
        coef = b.astype(np.float32)
        return lambda j, limit: (np.abs(self.copies[j] @ coef) >= limit).sum(axis=0)


NULLS: Registry[type[NullModel]] = Registry(
    "null model", NullModel, "st_concepts.stats", first=("moran", "permutation", "none"), classes=True
)
register = NULLS.register


def find_null(null: str | type[NullModel]) -> type[NullModel]:
    """The class of null model of that name."""
    if isinstance(null, str) and null not in NULLS:
        raise ValueError(f"null={null!r} is unknown; choose one of: {', '.join(map(repr, NULLS))}.")
    return NULLS.find(null)


def null_model(
    null: str | type[NullModel] | NullModel,
    n_obs: int,
    *,
    coords: NDArray[np.float64] | None = None,
    sections: ArrayLike | None = None,
    graph: sp.sparray | sp.spmatrix | None = None,
) -> NullModel:
    """The null model of that name, built for these spots; an object is returned as it is.

    Examples
    --------
    >>> null_model("permutation", 10).name
    'permutation'
    """
    if not isinstance(null, NullModel):
        return find_null(null).build(n_obs, coords=coords, sections=sections, graph=graph)
    if null.n_obs != n_obs:
        raise ValueError(f"The null model was built for {null.n_obs} spots, the data have {n_obs}.")
    return null


def dense(values: Matrix) -> NDArray[np.float64]:
    """As a dense float64 array."""
    if is_sparse(values):
        values = values.toarray()
    return np.asarray(values, dtype=np.float64)
