"""Scores of labelled spots by discriminants that never saw their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from st_concepts.concepts._vectors import shrinkage, shrunk_covariance
from st_concepts.stats import auroc, balanced_tiles

N_FOLDS, N_TILES = 5, 8


@dataclass(frozen=True)
class HeldOut:
    """Scores of the labelled spots out of fold.

    Attributes
    ----------
    rows
        Labelled spots, ascending.
    codes
        Their classes.
    scores
        float64 ``(n_labelled, n_classes)``; NaN where a class had no spot in the other folds.
    """

    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    scores: NDArray[np.float64]

    @property
    def auroc(self) -> NDArray[np.float64]:
        """Of each class against the others, ``(n_classes,)``; NaN where it cannot be told."""
        out = np.full(self.scores.shape[1], np.nan)
        for j, score in enumerate(self.scores.T):
            known, inside = ~np.isnan(score), self.codes == j
            if (known & inside).any() and (known & ~inside).any():
                out[j] = auroc(score[known & inside], score[known & ~inside])
        return out

    @property
    def mean_auroc(self) -> float:
        """Mean over the classes that can be told; NaN where none can."""
        found = self.auroc
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def held_out(
    embedding: NDArray[np.floating], codes: NDArray[np.intp], n_classes: int, folds: NDArray[np.intp]
) -> HeldOut:
    """One-vs-rest discriminants on all folds but one, applied to that.

    The covariance is that of all spots, which takes no labels; class means come from sums by fold, so that all folds
    cost one pass.

    Parameters
    ----------
    embedding
        ``(n_obs, d)``.
    codes
        ``(n_obs,)``, -1 where unlabelled.
    n_classes
        Number of classes.
    folds
        Fold of each labelled spot, in their order.
    """
    rows = np.flatnonzero(codes >= 0)
    y, n_folds = codes[rows], int(folds.max(initial=-1)) + 1
    z = embedding[rows].astype(np.float64)
    z -= z.mean(axis=0)
    cell = folds * n_classes + y
    count = np.bincount(cell, minlength=n_folds * n_classes).reshape(n_folds, n_classes).astype(np.float64)
    flat = np.zeros((n_folds * n_classes, z.shape[1]))
    np.add.at(flat, cell, z)
    sums = flat.reshape(n_folds, n_classes, -1)
    scores = np.full((len(rows), n_classes), np.nan)
    covariance, eye = shrunk_covariance(embedding, 0.0), np.eye(z.shape[1])
    sphere = np.trace(covariance) / len(covariance)
    for f in range(n_folds):
        size, total = count.sum(0) - count[f], sums.sum(0) - sums[f]
        here = folds == f
        for j in np.flatnonzero((size > 0) & (size < size.sum())):
            others = size.sum() - size[j]
            difference = total[j] / size[j] - (total.sum(0) - total[j]) / others
            weight = shrinkage(size[j], others)
            vector = np.linalg.solve((1 - weight) * covariance + weight * sphere * eye, difference)
            scores[here, j] = z[here] @ vector
    return HeldOut(rows, y, scores)


def random_folds(codes: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Five folds of the labelled spots, every class dealt evenly; fewer where a class has few spots."""
    y = codes[codes >= 0]
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(y), dtype=np.intp)
    size = np.bincount(y)
    n_folds = int(np.clip(size[size > 0].min(initial=N_FOLDS), 2, N_FOLDS))
    for j in np.unique(y):
        spots = rng.permutation(np.flatnonzero(y == j))
        folds[spots] = np.arange(len(spots)) % n_folds
    return folds


def dealt_folds(codes: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Five folds of the labelled spots, the spots of every class dealt to them in turn; rare classes miss some."""
    y = codes[codes >= 0]
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(y), dtype=np.intp)
    for j in np.unique(y):
        spots = rng.permutation(np.flatnonzero(y == j))
        folds[spots] = np.arange(len(spots)) % N_FOLDS
    return folds


def tile_folds(codes: NDArray[np.intp], coords: NDArray[np.float64], sections: NDArray[np.intp]) -> NDArray[np.intp]:
    """Eight compact tiles of the labelled spots of every section."""
    known = codes >= 0
    _, section = np.unique(sections[known], return_inverse=True)
    number = np.minimum(np.bincount(section), N_TILES)
    tiles = np.asarray(balanced_tiles(coords[known], number, section))
    first = np.r_[0, np.cumsum(number)[:-1]]
    return np.asarray(tiles - first[section], dtype=np.intp)
