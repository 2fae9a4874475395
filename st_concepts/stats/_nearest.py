"""Labels of some spots carried to all spots of their section."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

# nearest labelled spots that are looked at, those equally far are averaged: as many as a hexagon has
_TIES = 6


def nearest_map(
    labels: NDArray[np.float64],
    known: NDArray[np.bool_],
    sections: NDArray[np.intp],
    coords: NDArray[np.float64] | None,
    graph: sp.csr_array | None,
) -> NDArray[np.float64]:
    """Each spot takes the label of the nearest labelled spot of its section, the mean of several equally near.

    Parameters
    ----------
    labels
        ``(n_obs, k)``, finite where ``known``.
    known
        Labelled spots, ``(n_obs,)``.
    sections
        Section codes.
    coords, graph
        Positions, or else a graph, whose steps are counted. Spots that it does not connect with a label have the mean.

    Returns
    -------
    float64 ``(n_obs, k)``; 0 in sections without labels.
    """
    out = np.zeros(labels.shape)
    for code in np.unique(sections[known]):
        rows = np.flatnonzero(sections == code)
        own = rows[known[rows]]
        y = labels[own]
        if coords is not None:
            other = rows[~known[rows]]
            out[other] = _by_distance(coords[own], y, coords[other])
        else:
            out[rows] = y.mean(axis=0)
            steps = sp.csr_array(graph)[rows][:, rows]
            start = np.flatnonzero(known[rows])
            _, _, source = dijkstra(steps, indices=start, unweighted=True, min_only=True, return_predecessors=True)
            reached = source >= 0
            out[rows[reached]] = labels[rows[source[reached]]]
        out[own] = y
    return out


def _by_distance(
    places: NDArray[np.float64], values: NDArray[np.float64], coords: NDArray[np.float64]
) -> NDArray[np.float64]:
    k = min(_TIES, len(places))
    distance, index = cKDTree(places).query(coords, k=k)
    distance, index = distance.reshape(len(coords), k), index.reshape(len(coords), k)
    tied = (distance <= distance[:, :1] * (1 + 1e-6)).astype(np.float64)
    return np.einsum("nt,ntk->nk", tied / tied.sum(axis=1, keepdims=True), values[index])
