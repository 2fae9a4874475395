"""What labelled spots, unlabelled spots and their surroundings say about the layers together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from st_concepts.concepts._held_out import HeldOut, held_out, random_folds
from st_concepts.concepts._spreading import spread_labels, taking_part
from st_concepts.concepts._vectors import shrinkage, shrunk_covariance
from st_concepts.models import Surroundings

# rounds of discriminant and class weights after the first
_ROUNDS = 2
# log odds beyond which a spot is certain
_CERTAIN = 30.0


@dataclass(frozen=True)
class SoftLabels:
    """Class weights of every spot.

    Attributes
    ----------
    shares
        float64 ``(n_obs, n_classes)``, rows sum to 1: what class means, and so the concept vectors, are made with.
    weights
        float64 ``(n_obs, n_classes)``, 0 to 1: how much a spot counts as inside of each class when genes are ranked.
    trust
        How much the labels as given count, 0 to 1.
    held_out
        Scores of the labelled spots by discriminants that did not see their labels.
    """

    shares: NDArray[np.float64]
    weights: NDArray[np.float64]
    trust: float
    held_out: HeldOut


@dataclass(frozen=True)
class Soft:
    """Weights of every spot in each concept, from one labelling or one for each concept.

    Attributes
    ----------
    sides
        Of each concept, weights inside and outside, each ``(n_obs,)``, to make vectors of.
    weights
        float64 ``(n_obs, n_concepts)``: how much a spot counts as inside when genes are ranked.
    trust
        In the labels, mean over the labellings.
    found
        The labellings.
    """

    sides: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    weights: NDArray[np.float64]
    trust: float
    found: list[SoftLabels]

    @classmethod
    def of(cls, found: list[SoftLabels], picked: list[list[int]]) -> Self:
        """The classes ``picked`` of each labelling."""
        chosen = [(one, c) for one, classes in zip(found, picked, strict=True) for c in classes]
        sides = [(one.shares[:, c], one.shares.sum(axis=1) - one.shares[:, c]) for one, c in chosen]
        weights = np.stack([one.weights[:, c] for one, c in chosen], axis=1)
        return cls(sides, weights, float(np.mean([one.trust for one in found])), found)


def soft_labels(
    latent: NDArray[np.float64],
    embedding: NDArray[np.floating],
    codes: NDArray[np.intp],
    n_classes: int,
    *,
    around: Surroundings | None = None,
    seed: int = 0,
) -> SoftLabels:
    """Spread the labels, find out how far they can be trusted, and let discriminants refine both.

    No label is overruled by a threshold. Labels as given count with the *trust* ``max(0, 2 AUROC - 1)^2``, where the
    AUROC is that of discriminants out of fold: 1 where expression tells the layers, 0 where labels mean nothing to it.
    The rest of a labelled spot's weight, and all of an unlabelled one's, comes from what other spots say: first its
    neighbours, then, two rounds long, the discriminants themselves.

    Parameters
    ----------
    latent
        Latent positions ``(n_obs, n_latent)``, for the search of neighbours.
    embedding
        What the discriminants see ``(n_obs, d)``: the same, or with the surroundings beside it.
    codes
        int ``(n_obs,)``: class of each spot, -1 where unlabelled.
    n_classes
        Number of classes; each must have a labelled spot.
    around
        Neighbours on the tissue, where there are positions.
    seed
        Of the folds.

    References
    ----------
    Zhou et al. 2004 (label spreading); McLachlan 1977, JASA 72:403 (discriminants from few classified observations).

    Examples
    --------
    >>> z = np.r_[np.zeros((20, 2)), np.full((20, 2), 9.0)] + np.random.default_rng(0).normal(size=(40, 2))
    >>> codes = np.full(40, -1); codes[[0, 1, 2]] = 0; codes[[20, 21, 22]] = 1
    >>> soft_labels(z, z, codes, 2).shares.argmax(1).tolist() == [0] * 20 + [1] * 20
    True
    """
    out_of_fold = held_out(embedding, codes, n_classes, random_folds(codes, seed))
    area = out_of_fold.mean_auroc
    # where no label can be held out there is nothing to hold against them
    trust = 1.0 if np.isnan(area) else max(0.0, 2 * area - 1) ** 2
    rows = taking_part(codes, seed)
    given = np.zeros((len(codes), n_classes))
    known = np.flatnonzero(codes >= 0)
    given[known, codes[known]] = 1.0
    heard = spread_labels(latent, codes, n_classes, around, rows)
    shares = _mixed(given[rows], codes[rows] >= 0, heard, trust)
    fit = _Discriminants(embedding)
    found = fit.probability(embedding[rows], shares)
    for _ in range(_ROUNDS):
        shares = _mixed(given, codes >= 0, found / np.maximum(found.sum(1, keepdims=True), 1e-12), trust)
        found = fit.probability(embedding, shares)
    return SoftLabels(shares, _mixed(given, codes >= 0, found, trust), trust, out_of_fold)


def _mixed(
    given: NDArray[np.float64], known: NDArray[np.bool_], found: NDArray[np.float64], trust: float
) -> NDArray[np.float64]:
    """Labels as given and what was found, weighed by the trust; the latter alone where there is no label."""
    return np.where(known[:, None], trust * given + (1 - trust) * found, found)


class _Discriminants:
    """One-vs-rest discriminants of weighted classes, with the covariance of all spots."""

    def __init__(self, embedding: NDArray[np.floating]) -> None:
        self.embedding = embedding
        self.mean = embedding.mean(axis=0, dtype=np.float64)
        self.covariance = shrunk_covariance(embedding, 0.0)

    def probability(self, seen: NDArray[np.floating], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each class for all spots, from the class shares of the spots ``seen``: two Gaussians of one variance."""
        scores, of_seen = self._scores(seen, shares)
        out = np.empty_like(scores)
        total = shares.sum(axis=1)
        for j in range(shares.shape[1]):
            inside, s = shares[:, j], of_seen[:, j]
            outside = total - inside
            n_in, n_out = inside.sum(), outside.sum()
            if n_in <= 0 or n_out <= 0:
                out[:, j] = float(n_in > 0)
                continue
            high, low = inside @ s / n_in, outside @ s / n_out
            variance = (inside @ (s - high) ** 2 + outside @ (s - low) ** 2) / (n_in + n_out)
            odds = (high - low) / max(variance, 1e-12) * (scores[:, j] - (high + low) / 2) + np.log(n_in / n_out)
            out[:, j] = expit(np.clip(odds, -_CERTAIN, _CERTAIN))
        return out

    def _scores(
        self, seen: NDArray[np.floating], shares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of all spots, and of those ``seen``."""
        size = shares.sum(axis=0)
        sums = shares.T.astype(seen.dtype) @ seen - size[:, None] * self.mean
        sphere, eye = np.trace(self.covariance) / len(self.covariance), np.eye(len(self.covariance))
        vectors = np.zeros((len(self.covariance), shares.shape[1]))
        for j in range(shares.shape[1]):
            n_in, n_out = size[j], size.sum() - size[j]
            if n_in <= 0 or n_out <= 0:
                continue
            difference = sums[j] / n_in - (sums.sum(axis=0) - sums[j]) / n_out
            weight = shrinkage(n_in, n_out)
            vectors[:, j] = np.linalg.solve((1 - weight) * self.covariance + weight * sphere * eye, difference)
        centre = self.mean @ vectors
        v = vectors.astype(seen.dtype)
        of_all = self.embedding @ v - centre
        return of_all, of_all if seen is self.embedding else seen @ v - centre
