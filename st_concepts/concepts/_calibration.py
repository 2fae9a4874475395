"""Concept scores as probabilities: coefficients that are kept with the concepts, and how they are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, softmax

# towards which slope coefficients are drawn, and how strongly: the logarithm of the slope that all concepts share, what
# a score tells beyond that of its own concept and of others, and intercepts. Chosen on seven sections by how well
# held-out spots are calibrated; any tissue left out gives nearly the same
_SLOPE = 1.4
_RIDGE_SLOPE, _RIDGE_OTHERS, _RIDGE_BIAS = 30.0, 2.0, 0.3
# share of the labelled spots that may lie beyond the reach of their layers, in each of two spaces; a quantile
# says little of few spots, and a log-normal tail has its say too
_BEYOND, _TAIL, _ENOUGH = 0.005, 2.58, 200
# what stands for a class that was not there
_NEVER = -1e9


@dataclass(frozen=True)
class Reach:
    """How far from the nearest class mean labelled spots lie.

    Attributes
    ----------
    means
        float64 ``(n_classes, d)``.
    root
        float64 ``(d, d)``: distances are Euclidean behind it.
    limit
        Distance beyond which one labelled spot in two hundred lies, seen from classes made without it.
    """

    means: NDArray[np.float64]
    root: NDArray[np.float64]
    limit: float

    @classmethod
    def of(cls, values: NDArray[np.floating], codes: NDArray[np.intp], n_classes: int, folds: NDArray[np.intp]) -> Self:
        """Of labelled spots at ``values`` ``(n, d)`` with their classes and folds."""
        x = values.astype(np.float64)
        found = np.full(len(x), np.nan)
        for fold in np.unique(folds):
            here = folds == fold
            if not here.all():
                found[here] = cls(*_shape(x[~here], codes[~here], n_classes), 0.0).distance(x[here])
        told = np.log(np.maximum(found[np.isfinite(found)], 1e-12))
        limit = np.inf
        if len(told) > 1:
            tail = told.mean() + _TAIL * told.std() if len(told) < _ENOUGH else -np.inf
            limit = float(np.exp(max(np.quantile(told, 1 - _BEYOND), tail)))
        return cls(*_shape(x, codes, n_classes), limit)

    def distance(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """To the nearest class mean, ``(n_obs,)``."""
        z = values.astype(np.float64) @ self.root
        nearest = np.full(len(z), np.inf)
        for mean in self.means @ self.root:
            if np.isfinite(mean).all():
                nearest = np.minimum(nearest, ((z - mean) ** 2).sum(axis=1))
        return np.sqrt(nearest)

    def to_uns(self) -> dict[str, Any]:
        """A dictionary that h5ad and zarr keep."""
        return {"means": self.means, "root": self.root, "limit": float(self.limit)}

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> Self:
        """Read back what `to_uns` made."""
        means, root = (np.asarray(stored[name], dtype=np.float64) for name in ("means", "root"))
        return cls(means, root, float(stored["limit"]))


def _shape(
    x: NDArray[np.float64], codes: NDArray[np.intp], n_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Class means, NaN where there is no spot, and what whitens the covariance within classes, shrunk."""
    size = np.bincount(codes, minlength=n_classes)
    means = np.full((n_classes, x.shape[1]), np.nan)
    for j in np.flatnonzero(size):
        means[j] = x[codes == j].mean(axis=0)
    rest = x - means[codes]
    covariance = rest.T @ rest / max(len(x) - (size > 0).sum(), 1)
    sphere = max(np.trace(covariance) / x.shape[1], 1e-12)
    weight = max(5.0 / (5.0 + len(x) / n_classes), 0.1)
    covariance = (1 - weight) * covariance + weight * sphere * np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(covariance)
    return means, vectors / np.sqrt(values)


@dataclass(frozen=True)
class Calibration:
    """How concept scores become probabilities.

    Attributes
    ----------
    exclusive
        Whether a spot is of one concept only, as the layers of a column are; otherwise each concept has a probability
        of its own.
    weights, bias
        float64 ``(n_concepts, n_concepts)`` and ``(n_concepts,)``: log odds are ``scores @ weights + bias``.
    reach
        By space (``"embedding"``, ``"scores"``), how far labelled spots lie from their layers; empty unless exclusive.
    """

    exclusive: bool
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    reach: dict[str, Reach]

    def probability(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Of each concept, from scores ``(n_obs, n_concepts)``; rows sum to one where concepts exclude each other."""
        odds = scores @ self.weights + self.bias
        return np.asarray(softmax(odds, axis=1) if self.exclusive else expit(odds), dtype=np.float64)

    def beyond(self, scores: NDArray[np.floating], embedding: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Spots that lie farther from every layer than labelled ones do, by their scores or all latent axes."""
        out = np.zeros(len(scores), dtype=bool)
        for name, values in (("scores", scores), ("embedding", embedding)):
            if name in self.reach:
                out |= self.reach[name].distance(values) > self.reach[name].limit
        return out

    def to_uns(self) -> dict[str, Any]:
        """A dictionary that h5ad and zarr keep."""
        reach = {name: one.to_uns() for name, one in self.reach.items()}
        return {"exclusive": bool(self.exclusive), "weights": self.weights, "bias": self.bias, "reach": reach}

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> Calibration:
        """Read back what `to_uns` made."""
        weights, bias = (np.asarray(stored[name], dtype=np.float64) for name in ("weights", "bias"))
        reach = {str(name): Reach.from_uns(one) for name, one in stored.get("reach", {}).items()}
        return cls(bool(stored["exclusive"]), weights, bias, reach)


def fit_exclusive(
    scores: NDArray[np.float64], codes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Multinomial logistic regression of classes on scores out of fold, drawn towards one slope for all: weights, bias.

    Parameters
    ----------
    scores
        ``(n, n_classes)``, in standard deviations; NaN where a class had no spot in the other folds.
    codes
        Class of each spot.

    References
    ----------
    Platt 1999; Guo et al. 2017, *On calibration of modern neural networks*, ICML.
    """
    k = scores.shape[1]
    known = ~np.isnan(scores[np.arange(len(codes)), codes])
    s, y = np.nan_to_num(scores[known]), codes[known]
    never = np.where(np.isnan(scores[known]), _NEVER, 0.0)
    truth, rows = np.eye(k)[y], np.arange(len(y))

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, bias, more = np.exp(x[0]), x[1 : k + 1], x[k + 1 :].reshape(k, k)
        odds = slope * s + s @ more + bias + never
        odds -= odds.max(axis=1, keepdims=True)
        off = np.exp(odds)
        total = off.sum(axis=1, keepdims=True)
        off = off / total - truth
        drawn = x[0] - np.log(_SLOPE)
        value = (
            np.log(total).sum()
            - odds[rows, y].sum()
            + 0.5 * (_RIDGE_SLOPE * drawn**2 + _RIDGE_BIAS * bias @ bias + _RIDGE_OTHERS * (more**2).sum())
        )
        grads = slope * (off * s).sum() + _RIDGE_SLOPE * drawn, off.sum(axis=0) + _RIDGE_BIAS * bias
        return float(value), np.concatenate([[grads[0]], grads[1], (s.T @ off + _RIDGE_OTHERS * more).ravel()])

    start = np.r_[np.log(_SLOPE), np.zeros(k + k * k)]
    x = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return np.exp(x[0]) * np.eye(k) + x[k + 1 :].reshape(k, k), x[1 : k + 1]


def fit_alone(scores: NDArray[np.float64], inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Logistic regression on one score out of fold, drawn in the same way: slope and intercept."""
    known = ~np.isnan(scores)
    s, sign = scores[known], np.where(inside[known], 1.0, -1.0)

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, drawn = np.exp(x[0]), x[0] - np.log(_SLOPE)
        odds = sign * (slope * s + x[1])
        off = -sign * expit(-odds)
        value = -log_expit(odds).sum() + 0.5 * (_RIDGE_SLOPE * drawn**2 + _RIDGE_BIAS * x[1] ** 2)
        return float(value), np.array([slope * (off * s).sum() + _RIDGE_SLOPE * drawn, off.sum() + _RIDGE_BIAS * x[1]])

    found = minimize(loss, np.array([np.log(_SLOPE), 0.0]), jac=True, method="L-BFGS-B").x
    return float(np.exp(found[0])), float(found[1])
