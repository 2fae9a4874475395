"""Concept vectors from latent positions: three estimators, arrays in, one vector out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from st_concepts._registry import Registry
from st_concepts.stats import shrinkage as shrinkage
from st_concepts.stats import shrunk_covariance as shrunk_covariance


@dataclass(frozen=True)
class Estimator:
    """Record of one way to estimate a concept vector; `register` makes it known by its name.

    Attributes
    ----------
    name
        What users type.
    function
        ``(latent, inside, outside) -> vector``: latent positions ``(n, n_latent)`` and the spots inside and outside,
        boolean ``(n,)``, to a vector ``(n_latent,)``.
    citation
        Source.
    follow
        ``(latent, target) -> vector``: the twin for a continuous target ``(n,)``, such as the expression of seed genes;
        `None` where there is none.
    takes_weights
        Whether ``inside`` and ``outside`` may be weights from 0 to 1, as unlabelled spots have that are learned from.
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    citation: str
    follow: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    takes_weights: bool = False


def mean_difference(latent: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """``mean(latent[inside]) - mean(latent[outside])`` (Brocki & Chung 2019, section 2.2).

    Parameters
    ----------
    latent
        ``(n_obs, n_latent)``.
    inside, outside
        Boolean ``(n_obs,)``; spots in neither are not used.

    Returns
    -------
    float64 ``(n_latent,)``.
    """
    return latent[inside].mean(0) - latent[outside].mean(0)


def discriminant(latent: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Regularised linear discriminant: the mean difference over the shrunk covariance of *all* spots.

    Neighbouring layers differ little along the main axes of the tissue; dividing by the covariance finds the directions
    in which they do. Unlabelled spots help to estimate it.

    Parameters
    ----------
    latent
        ``(n_obs, n_latent)``.
    inside, outside
        ``(n_obs,)``, boolean, or weights from 0 to 1.

    Returns
    -------
    float64 ``(n_latent,)``.

    References
    ----------
    Friedman 1989, *Regularized discriminant analysis*, JASA 84:165.
    """
    n_in, n_out = float(inside.sum()), float(outside.sum())
    difference = inside @ latent / n_in - outside @ latent / n_out
    return np.linalg.solve(shrunk_covariance(latent, shrinkage(n_in, n_out)), difference)


def logistic(latent: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """L2-regularised logistic regression, classes balanced, on latent dimensions in units of their standard deviation.

    Parameters
    ----------
    latent
        ``(n_obs, n_latent)``.
    inside, outside
        Boolean ``(n_obs,)``.

    Returns
    -------
    float64 ``(n_latent,)``, in units of 1 / latent.
    """
    from sklearn.linear_model import LogisticRegression

    sd = latent.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    used = inside | outside
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    model.fit(latent[used] / sd, inside[used])
    return model.coef_[0] / sd


def seed_regression(latent: np.ndarray, target: np.ndarray, *, whiten: bool) -> np.ndarray:
    """Direction ``(n_latent,)`` that follows a continuous target ``(n_obs,)``, such as the expression of seed genes.

    ``whiten`` divides by the shrunk covariance (ridge regression), the continuous twin of `discriminant`; otherwise it
    is the covariance itself, the twin of `mean_difference`.
    """
    centered = latent - latent.mean(0)
    cov = centered.T @ (target - target.mean()) / len(latent)
    if not whiten:
        return cov
    n = len(latent)
    return np.linalg.solve(shrunk_covariance(latent, shrinkage(n / 2, n / 2)), cov)


ESTIMATORS: Registry[Estimator] = Registry(
    "estimator",
    Estimator,
    "st_concepts.concepts",
    first=("discriminant", "mean_difference"),
    offer="Please choose one of",
)
register = ESTIMATORS.register
# the first is the default: it separates neighbouring layers best
register(
    Estimator(
        "discriminant",
        discriminant,
        "Friedman 1989, JASA 84:165",
        partial(seed_regression, whiten=True),
        takes_weights=True,
    )
)
register(Estimator("mean_difference", mean_difference, "Brocki & Chung 2019", partial(seed_regression, whiten=False)))
register(Estimator("logistic", logistic, "Kim et al. 2018 (TCAV), ICML"))


def get_estimator(name: str | Estimator) -> Estimator:
    """The estimator called ``name``; an `Estimator` is returned as it is."""
    return ESTIMATORS.find(name)
