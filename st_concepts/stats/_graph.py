"""Neighbour graphs of spots: grids, hexagons and irregular cells, section by section."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree

GraphKind = Literal["auto", "grid", "delaunay", "knn"]

# a spot lattice: nearest-neighbour distances hardly vary (hard-core cells reach about 2, a Poisson pattern 5)
_LATTICE_SPREAD = 1.35
# between a jittered lattice edge (up to 1.23 nearest-neighbour distances) and the diagonal of a square (1.41 and more)
_LATTICE_REACH = 1.3
# a Delaunay edge this many times longer than what is usual at both of its ends bridges a gap or runs along the hull
_DELAUNAY_REACH = 2.5
_MAX_COINCIDENT = 100


def section_codes(sections: ArrayLike | None, n_obs: int) -> NDArray[np.intp]:
    """Codes 0, 1, ... of sections, intp ``(n_obs,)``, in sorted order of their labels; `None` is one section."""
    if sections is None:
        return np.zeros(n_obs, dtype=np.intp)
    labels = np.asarray(sections)
    if labels.shape != (n_obs,):
        raise ValueError(f"sections must have shape ({n_obs},), one label per spot; got {labels.shape}.")
    missing = np.array([x is None or x != x for x in labels.tolist()], dtype=bool)
    if missing.any():
        raise ValueError(f"sections is missing for {missing.sum()} spots (first at {np.flatnonzero(missing)[0]}).")
    if labels.dtype == object:
        labels = labels.astype(str)
    return np.unique(labels, return_inverse=True)[1].astype(np.intp)


def check_coords(coords: ArrayLike) -> NDArray[np.float64]:
    """Coordinates as float64 ``(n_obs, 2)``, finite."""
    xy = np.asarray(coords, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ValueError(f"coords must have shape (n_obs, 2); got {xy.shape}. Stacked sections belong in `sections`.")
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        raise ValueError(
            f"coords of {bad.sum()} of {len(xy)} spots are NaN or infinite (first at row {np.flatnonzero(bad)[0]}). "
            "Drop these spots, or test with a null that needs no coordinates (null='permutation')."
        )
    return xy


def spatial_graph(
    coords: ArrayLike,
    sections: ArrayLike | None = None,
    *,
    kind: GraphKind = "auto",
    n_neighbors: int = 6,
) -> sp.csr_array:
    """Symmetric 0/1 graph of neighbouring spots, without edges between sections.

    Parameters
    ----------
    coords
        Spot coordinates, any unit, shape ``(n_obs, 2)``.
    sections
        Section of each spot, shape ``(n_obs,)``.
    kind
        ``"grid"`` joins spots within 1.3 nearest-neighbour distances: four neighbours on a square lattice, six on
        Visium's hexagons, jitter of a few per cent allowed. ``"delaunay"`` is the Delaunay triangulation less the edges
        that bridge gaps. ``"knn"`` joins each spot to its ``n_neighbors`` nearest and makes that symmetric.
        ``"auto"`` takes, per section, the grid where nearest-neighbour distances hardly vary, Delaunay elsewhere.
    n_neighbors
        Only for ``kind="knn"``.

    Returns
    -------
    CSR, float64, ``(n_obs, n_obs)``, zero diagonal. Spots far from all others have an empty row. Spots at the same
    place are neighbours of each other and share all other neighbours.

    Raises
    ------
    ValueError
        For wrong shapes, NaN coordinates, an unknown ``kind``, or more than 100 spots at one place.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.meshgrid(np.arange(4), np.arange(4))
    >>> graph = spatial_graph(np.c_[x.ravel(), y.ravel()])
    >>> int(graph.sum(axis=1).max())
    4
    """
    if kind not in ("auto", "grid", "delaunay", "knn"):
        raise ValueError(f"kind must be 'auto', 'grid', 'delaunay' or 'knn'; got {kind!r}.")
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be at least 1; got {n_neighbors}.")
    xy = check_coords(coords)
    codes = section_codes(sections, len(xy))
    pairs = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        pairs.append(rows[_section_edges(xy[rows], kind, n_neighbors)])
    edges = np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.intp)
    return _from_edges(edges, len(xy))


def check_graph(graph: object, n_obs: int, codes: NDArray[np.intp]) -> sp.csr_array:
    """A user's graph ``(n_obs, n_obs)`` as symmetric CSR without diagonal and without edges between sections.

    An edge present in one direction only is taken as present in both.
    """
    weights = sp.csr_array(graph, dtype=np.float64)
    if weights.shape != (n_obs, n_obs):
        raise ValueError(f"graph must have shape ({n_obs}, {n_obs}), one row and column per spot; got {weights.shape}.")
    if not np.isfinite(weights.data).all() or (weights.data < 0).any():
        raise ValueError("graph holds weights that are negative, NaN or infinite; pass connectivities, not distances.")
    weights = weights.maximum(weights.T).tocoo()
    row, col = weights.coords
    keep = (row != col) & (codes[row] == codes[col]) & (weights.data > 0)
    return sp.csr_array((weights.data[keep], (row[keep], col[keep])), shape=(n_obs, n_obs))


def _from_edges(edges: NDArray[np.intp], n: int) -> sp.csr_array:
    both = np.concatenate([edges, edges[:, ::-1]])
    both = np.unique(both, axis=0)
    return sp.csr_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(n, n))


def _section_edges(xy: NDArray[np.float64], kind: GraphKind, k: int) -> NDArray[np.intp]:
    places, place_of, count = np.unique(xy, axis=0, return_inverse=True, return_counts=True)
    place_of = place_of.ravel()
    if count.max(initial=0) > _MAX_COINCIDENT:
        raise ValueError(f"{count.max()} spots lie at the same place {places[count.argmax()]}: are these coordinates?")
    edges = _place_edges(places, kind, k)
    if len(places) == len(xy):
        # np.unique sorted the places; bring the edges back to the order of the spots
        spot_of = np.argsort(place_of)
        return spot_of[edges]
    at = sp.csr_array((np.ones(len(xy)), (np.arange(len(xy)), place_of)), shape=(len(xy), len(places)))
    lifted = at @ _from_edges(edges, len(places)) @ at.T + at @ at.T
    row, col = sp.coo_array(lifted).coords
    upper = row < col
    return np.column_stack([row[upper], col[upper]]).astype(np.intp)


def _place_edges(xy: NDArray[np.float64], kind: GraphKind, k: int) -> NDArray[np.intp]:
    n = len(xy)
    if n < 2:
        return np.zeros((0, 2), dtype=np.intp)
    # distances, not coordinates, decide everything below; bring them to order one
    xy = (xy - xy.mean(axis=0)) / (np.ptp(xy, axis=0).max() or 1.0)
    tree = cKDTree(xy)
    nearest = tree.query(xy, k=2)[0][:, 1]
    if kind == "auto":
        low, high = np.quantile(nearest, [0.1, 0.9])
        kind = "grid" if n >= 9 and high < _LATTICE_SPREAD * low else "delaunay"
    if kind == "grid":
        return tree.query_pairs(_LATTICE_REACH * float(np.median(nearest)), output_type="ndarray")
    if kind == "delaunay" and n >= 4:
        try:
            return _pruned_delaunay(xy)
        except QhullError:
            k = 2  # all on a line: Delaunay is not defined, the order along the line is
    k = min(k if kind == "knn" or n >= 4 else n - 1, n - 1)
    other = tree.query(xy, k=k + 1)[1][:, 1:]
    return np.column_stack([np.repeat(np.arange(n), k), other.ravel()])


def _pruned_delaunay(xy: NDArray[np.float64]) -> NDArray[np.intp]:
    corners = Delaunay(xy).simplices
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1)
    edges = np.unique(edges, axis=0).astype(np.intp)
    length = np.linalg.norm(xy[edges[:, 0]] - xy[edges[:, 1]], axis=1)
    usual = _median_per_end(edges, length, len(xy))
    return edges[length <= _DELAUNAY_REACH * np.maximum(usual[edges[:, 0]], usual[edges[:, 1]])]


def _median_per_end(edges: NDArray[np.intp], length: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    end = edges.T.ravel()
    both = np.concatenate([length, length])
    order = np.lexsort((both, end))
    count = np.bincount(end, minlength=n)
    start = np.cumsum(count) - count
    middle = np.minimum(start + (count - 1).clip(0) // 2, len(both) - 1)
    return np.where(count > 0, both[order][middle], np.inf)
