"""Tails of statistics that are skewed, and how skewed a covariance is when spots are shuffled."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaincc, ndtr

Tail = Literal["normal", "skewed"]
TAILS: tuple[Tail, ...] = ("normal", "skewed")

# below this skewness the two tails agree to rounding
_SYMMETRIC = 1e-4


def pearson_sf(z: ArrayLike, skewness: ArrayLike) -> NDArray[np.float64]:
    """Upper tail of the Pearson III distribution with mean 0 and variance 1, the normal one at skewness 0.

    Examples
    --------
    >>> pearson_sf([2.0, 2.0, 2.0], [0.0, 1.0, -1.0]).round(3).tolist()
    [0.023, 0.042, 0.0]
    """
    z, g = np.broadcast_arrays(np.asarray(z, dtype=np.float64), np.asarray(skewness, dtype=np.float64))
    flat = np.abs(g) < _SYMMETRIC
    root = 2.0 / np.where(flat, 1.0, np.abs(g))
    at = np.maximum(root**2 + np.sign(g) * z * root, 0.0)
    return np.where(flat, ndtr(-z), np.where(g > 0, gammaincc(root**2, at), gammainc(root**2, at)))


class Moments(NamedTuple):
    """Sums of squares and cubes about the section means, ``(n_sections, m)`` each, and sizes ``(n_sections,)``."""

    squares: NDArray[np.float64]
    cubes: NDArray[np.float64]
    size: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], section: NDArray[np.intp]) -> Moments:
        """Of the columns of ``values`` ``(n, m)``."""
        squares, cubes, size = [], [], []
        for s in np.unique(section):
            own = values[section == s]
            own = own - own.mean(axis=0)
            square = own * own
            squares.append(square.sum(axis=0))
            cubes.append((square * own).sum(axis=0))
            size.append(float(len(own)))
        return cls(np.array(squares), np.array(cubes), np.array(size))

    def against(self, other: Moments) -> Shuffled:
        """Of targets (``self``) and genes (``other``): their covariance when one of them is shuffled within sections.

        Second and third moment over all permutations are exact (Pitman 1937).
        """
        n = np.maximum(self.size, 3.0)
        variance = (self.squares / (n - 1)[:, None]).T @ other.squares
        third = (self.cubes * (np.where(self.size > 2, n, 0.0) / ((n - 1) * (n - 2)))[:, None]).T @ other.cubes
        total = np.outer(self.squares.sum(axis=0), other.squares.sum(axis=0))
        positive = variance > 0
        return Shuffled(
            np.divide(third, variance**1.5, out=np.zeros_like(third), where=positive),
            np.divide(variance, total, out=np.ones_like(total), where=positive & (total > 0)),
        )


class Shuffled(NamedTuple):
    """Skewness of a covariance under shuffling, and variance of the correlation, ``(n_concepts, m)`` each."""

    skewness: NDArray[np.float64]
    variance: NDArray[np.float64]


def two_sided(z: NDArray[np.float64], skewness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of a value at least as far from 0 as ``z``, on either side."""
    size = np.abs(z)
    return np.minimum(pearson_sf(size, skewness) + pearson_sf(size, -skewness), 1.0)
