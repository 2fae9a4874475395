"""Label spreading: what unlabelled spots are, by their neighbours in expression and on the tissue."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from st_concepts.models import Surroundings

_NEIGHBOURS = 10
# share of a spot's weight that goes to its neighbours on the tissue
_TISSUE = 0.1
# share that comes from the neighbours rather than from the spot's own label, and rounds of it
_ALPHA, _ROUNDS = 0.8, 40
# latent axes in which neighbours are looked for, and spots that take part, labelled ones first
_AXES = 10
MAX_SPOTS = 10_000


def spread_labels(
    latent: NDArray[np.float64],
    codes: NDArray[np.intp],
    n_classes: int,
    around: Surroundings | None,
    rows: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Class shares of the spots ``rows``, float64 ``(len(rows), n_classes)``, rows sum to 1.

    Labels travel along the ten nearest neighbours in the leading latent axes, with a tenth of the weight along the
    neighbours on the tissue. Every class starts with the same mass. The spots' own labels are not put back: what comes
    out is what the neighbours say.

    Parameters
    ----------
    latent
        ``(n_obs, n_latent)``.
    codes
        Class of each spot ``(n_obs,)``, -1 where unlabelled.
    n_classes
        Number of classes.
    around
        Neighbours on the tissue; `None` where there are no positions.
    rows
        Spots that take part, ascending.

    References
    ----------
    Zhou et al. 2004, *Learning with local and global consistency*, NeurIPS 16.
    """
    axes = leading_axes(latent, _AXES)[rows]
    n = len(rows)
    k = min(_NEIGHBOURS, n - 1)
    near = cKDTree(axes).query(axes, k + 1)[1][:, 1:]
    steps = sp.csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), near.ravel())), shape=(n, n))
    steps = _stochastic(sp.csr_array(steps.maximum(steps.T)))
    if around is not None:
        steps = (1 - _TISSUE) * steps + _TISSUE * _stochastic(sp.csr_array(around.graph[rows][:, rows]))
    start = np.zeros((n, n_classes))
    known = np.flatnonzero(codes[rows] >= 0)
    start[known, codes[rows][known]] = 1.0
    start /= np.maximum(start.sum(axis=0), 1.0)
    share = start.copy()
    for _ in range(_ROUNDS):
        share = _ALPHA * (steps @ share) + (1 - _ALPHA) * start
    total = share.sum(axis=1, keepdims=True)
    return np.where(total > 0, share / np.where(total > 0, total, 1.0), 1.0 / n_classes)


def taking_part(codes: NDArray[np.intp], seed: int, most: int = MAX_SPOTS) -> NDArray[np.intp]:
    """Spots that take part in spreading, ascending: all, or as many as ``most``, half of them labelled at most."""
    n = len(codes)
    if n <= most:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    known = rng.permutation(np.flatnonzero(codes >= 0))
    # every class keeps spots: the first of each, class after class
    order = _rank_within(codes[known])
    first = known[np.argsort(order, kind="stable")][: most // 2]
    rest = rng.permutation(np.setdiff1d(np.arange(n), first))[: most - len(first)]
    return np.sort(np.concatenate([first, rest]))


def _rank_within(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """How many spots of the same class come before each."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(codes)])
    rank = np.empty(len(codes), dtype=np.intp)
    rank[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return rank


def leading_axes(latent: NDArray[np.float64], n_axes: int) -> NDArray[np.float64]:
    """Principal axes of latent positions, at most ``n_axes``."""
    centered = latent - latent.mean(0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    return centered @ vectors[:, ::-1][:, :n_axes]


def _stochastic(graph: sp.csr_array) -> sp.csr_array:
    """Rows that sum to one; a spot without neighbours stays where it is."""
    degree = np.asarray(graph.sum(axis=1)).ravel()
    alone = (degree == 0).astype(np.float64)
    scale = sp.dia_array((np.where(degree > 0, 1.0 / np.where(degree > 0, degree, 1.0), 0.0)[None], [0]), graph.shape)
    return sp.csr_array(scale @ graph + sp.dia_array((alone[None], [0]), shape=graph.shape))
