"""The surroundings of a spot: a wide average over the spot graph, and its transpose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from st_concepts._counts.positions import positions
from st_concepts.stats import check_graph, spatial_graph

# error of the average, relative to the values, at which the iteration stops
_PRECISION = 1e-6


@dataclass(frozen=True)
class Surroundings:
    """Averages of values over the neighbourhood of each spot, of any width.

    With the 0/1 (or weighted) graph ``A`` and its degrees ``D``, the average of width ``t`` is
    ``((1 + t) D - t A)^-1 D values``: a random walk from the spot that stops after ``t`` steps in the mean. The weights
    of a spot are positive and sum to one; a spot without neighbours falls back on itself.

    The sparse system is solved by a fixed number of Chebyshev iterations (its spectrum lies between 1 and ``1 + 2 t``),
    so that the average is one linear map, whose transpose is exact. Memory: three times the values, besides the graph.

    Attributes
    ----------
    graph
        Symmetric CSR ``(n_obs, n_obs)``, no edges between sections, none to spots that say nothing.
    """

    graph: sp.csr_array

    @classmethod
    def of(
        cls,
        adata: AnnData,
        usable: NDArray[np.bool_],
        sections: NDArray[np.intp],
        *,
        graph_key: str | None = None,
    ) -> Self:
        """From ``obsp[graph_key]``, else from the coordinates, section by section.

        Raises
        ------
        KeyError
            No such graph; no coordinates.
        ValueError
            Coordinates or weights that cannot be.
        """
        if graph_key is None:
            graph = spatial_graph(positions(adata), sections)
        elif graph_key in adata.obsp:
            graph = check_graph(adata.obsp[graph_key], adata.n_obs, sections)
        else:
            raise KeyError(f"graph_key={graph_key!r} is not in adata.obsp: run sq.gr.spatial_neighbors(adata) first.")
        if not usable.all():
            keep = sp.dia_array((usable[None].astype(np.float64), [0]), shape=graph.shape)
            graph = sp.csr_array(keep @ graph @ keep)
            graph.eliminate_zeros()
        return cls(graph)

    def subset(self, rows: NDArray[np.intp]) -> Surroundings:
        """Of some of the spots, ascending, as if there were no others."""
        return type(self)(sp.csr_array(self.graph[rows][:, rows]))

    @cached_property
    def _degree(self) -> NDArray[np.float64]:
        degree = np.asarray(self.graph.sum(axis=1)).ravel()
        return np.where(degree > 0, degree, 1.0)

    @cached_property
    def _steps(self) -> sp.csr_array:
        """``D^-1/2 A D^-1/2``, a lone spot stepping to itself."""
        root = 1.0 / np.sqrt(self._degree)
        scale = sp.dia_array((root[None], [0]), shape=self.graph.shape)
        alone = (np.asarray(self.graph.sum(axis=1)).ravel() == 0).astype(np.float64)
        return sp.csr_array(scale @ self.graph @ scale + sp.dia_array((alone[None], [0]), shape=self.graph.shape))

    def average(self, values: NDArray[Any], width: float) -> NDArray[Any]:
        """Weighted mean over the surroundings of each spot, ``(n_obs, m)``, in the type of ``values``; width 0 is none.

        Examples
        --------
        >>> chain = sp.csr_array(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        >>> Surroundings(chain).average(np.array([[0.0], [3.0], [0.0]]), 1.0).ravel().round(3).tolist()
        [1.0, 2.0, 1.0]
        """
        root = np.sqrt(self._degree)[:, None]
        return self._solve(values * root.astype(values.dtype), width) / root.astype(values.dtype)

    def spread(self, weights: NDArray[Any], width: float) -> NDArray[Any]:
        """The transpose of `average`: how much each spot counts where ``weights`` ``(n_obs, m)`` ask for averages."""
        root = np.sqrt(self._degree)[:, None]
        return self._solve(weights / root.astype(weights.dtype), width) * root.astype(weights.dtype)

    def _solve(self, values: NDArray[Any], width: float) -> NDArray[Any]:
        """Chebyshev iteration (Golub & Varga 1961) on ``(1 + width) I - width D^-1/2 A D^-1/2``."""
        if width == 0:
            return values
        steps = self._steps.astype(values.dtype)
        ratio = np.sqrt(1 + 2 * width)
        n_iter = int(np.ceil(np.log(2 / _PRECISION) / np.log((ratio + 1) / (ratio - 1))))
        middle, half = 1.0 + width, width
        found, rest = np.zeros_like(values), values.copy()
        ahead, alpha = rest.copy(), 1.0 / middle
        for step in range(n_iter):
            if step:
                beta = (half * alpha) ** 2 * (0.5 if step == 1 else 0.25)
                alpha = 1.0 / (middle - beta / alpha)
                ahead *= values.dtype.type(beta)
                ahead += rest
            found += values.dtype.type(alpha) * ahead
            rest -= values.dtype.type(alpha) * (
                values.dtype.type(middle) * ahead - values.dtype.type(half) * (steps @ ahead)
            )
        return found
