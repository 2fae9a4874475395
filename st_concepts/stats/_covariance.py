"""The metric of the discriminant: a covariance of all spots, shrunk towards a sphere."""

from __future__ import annotations

import numpy as np


def shrinkage(n_inside: float, n_outside: float) -> float:
    """Weight of the spherical target in `shrunk_covariance`: ``5 / (5 + n_in n_out / (n_in + n_out))``, at least 0.1.

    The mean difference has a sampling variance of ``(1/n_in + 1/n_out)`` times the covariance: the fewer spots are
    labelled, the less it can be trusted along directions of small variance.

    Examples
    --------
    >>> round(shrinkage(5, 20), 2), shrinkage(80, 180)
    (0.56, 0.1)
    """
    n = n_inside * n_outside / max(n_inside + n_outside, 1e-12)
    return max(5.0 / (5.0 + n), 0.1)


def shrunk_covariance(latent: np.ndarray, weight: float) -> np.ndarray:
    """Covariance of all spots, labelled or not, shrunk by ``weight`` towards the sphere of equal total variance."""
    return shrunk(covariance(latent), weight)


def covariance(latent: np.ndarray) -> np.ndarray:
    """Covariance of the columns of ``latent`` ``(n_obs, d)``, divided by the number of spots."""
    centered = latent - latent.mean(0)
    return centered.T @ centered / len(latent)


def shrunk(cov: np.ndarray, weight: float) -> np.ndarray:
    """A covariance shrunk by ``weight`` towards the sphere of equal total variance, never singular if there is any."""
    dims = cov.shape[0]
    sphere = np.trace(cov) / dims
    return (1.0 - weight) * cov + (weight * sphere + 1e-8 * max(sphere, 1e-12)) * np.eye(dims)
