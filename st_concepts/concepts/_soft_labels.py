"""What unlabelled and doubtful spots say about the layers: a mixture of Gaussians that starts at the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

# a label is doubted only where there are enough of them to judge by
MIN_LABELS_TO_JUDGE = 10
# share of contradicted labels above which labels are no longer taken at their word
DOUBT_ABOVE = 0.2
_PRIOR_STRENGTH = 10.0
_PRIOR_ERROR = 0.1


@dataclass(frozen=True)
class SoftLabels:
    """Class weights of every spot.

    Attributes
    ----------
    weights
        float64 ``(n_obs, n_classes)``: what to average classes with. Rows of unlabelled spots that resemble no class
        are zero.
    disagreement
        float64 ``(n_obs,)``: probability, given the latent position, that the label is wrong; NaN where unlabelled.
    label_error
        Estimated share of wrong labels; NaN where there were too few labels to judge.
    doubted
        Whether the labels were so often contradicted that ``weights`` no longer follow them.
    """

    weights: np.ndarray
    disagreement: np.ndarray
    label_error: float
    doubted: bool


def soft_labels(latent: np.ndarray, codes: np.ndarray, n_classes: int, *, n_iter: int = 25) -> SoftLabels:
    """Fit one Gaussian per class, with one shrunk covariance, to labelled and unlabelled spots by EM.

    The fit happens in the leading ``n_classes`` principal axes of the latent positions, where neighbouring spots of one
    layer lie together; more axes let few labels be overfitted. Two fits are made: one takes labels as given, the other
    lets each be wrong with a probability that it estimates. The second one serves to judge the labels, and replaces the
    first only where more than a fifth of the labels are contradicted.

    Parameters
    ----------
    latent
        ``(n_obs, n_latent)``.
    codes
        int ``(n_obs,)``: class of each spot, -1 where unlabelled.
    n_classes
        Number of classes; each must have a labelled spot.
    n_iter
        EM iterations.

    References
    ----------
    McLachlan 1977, *Estimating the linear discriminant function from initial samples containing a small number of
    unclassified observations*, JASA 72:403; Lawrence & Schölkopf 2001 (label noise).

    Examples
    --------
    >>> z = np.r_[np.zeros((20, 2)), np.full((20, 2), 9.0)] + np.random.default_rng(0).normal(size=(40, 2))
    >>> codes = np.full(40, -1); codes[[0, 1, 2]] = 0; codes[[20, 21, 22]] = 1
    >>> soft_labels(z, codes, 2).weights.argmax(1).tolist() == [0] * 20 + [1] * 20
    True
    """
    axes = _leading_axes(latent, n_classes)
    known = codes >= 0
    given = np.zeros((len(codes), n_classes))
    given[known, codes[known]] = 1.0
    posterior, typical, _ = _em(axes, codes, given, n_iter, learn_error=False)
    weights = np.where(known[:, None], given, posterior * typical[:, None])
    per_class = given.sum(0)
    disagreement = np.full(len(codes), np.nan)
    if per_class.min() < MIN_LABELS_TO_JUDGE:
        disagreement[known] = 1.0 - posterior[known, codes[known]]
        return SoftLabels(weights, disagreement, float("nan"), False)
    posterior, typical, error = _em(axes, codes, given, n_iter, learn_error=True)
    disagreement[known] = 1.0 - posterior[known, codes[known]]
    doubted = error > DOUBT_ABOVE
    if doubted:
        weights = np.where(known[:, None], posterior, posterior * typical[:, None])
    return SoftLabels(weights, disagreement, error, doubted)


def _leading_axes(latent: np.ndarray, n_axes: int) -> np.ndarray:
    centered = latent - latent.mean(0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    return centered @ vectors[:, ::-1][:, :n_axes]


def _em(
    z: np.ndarray, codes: np.ndarray, given: np.ndarray, n_iter: int, *, learn_error: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Posterior ``(n, n_classes)``, typicality ``(n,)`` (1 or 0) and error rate of the labels."""
    n, dims = z.shape
    n_classes = given.shape[1]
    known = codes >= 0
    weights, error = given, _PRIOR_ERROR
    cov = np.cov(z.T, bias=True).reshape(dims, dims)
    posterior, distance = given, np.zeros((n, n_classes))
    for step in range(n_iter):
        size = weights.sum(0)
        means = (weights.T @ z) / size[:, None]
        if step:  # the first covariance is that of all spots: a few labelled ones cannot tell it
            cov = sum(((z - means[c]) * weights[:, [c]]).T @ (z - means[c]) for c in range(n_classes)) / weights.sum()
        shrink = 5.0 / (5.0 + size.min())
        shrunk = (1 - shrink) * cov + (shrink * np.trace(cov) / dims + 1e-9) * np.eye(dims)
        precision = np.linalg.inv(shrunk)
        distance = np.stack([np.einsum("ni,ij,nj->n", z - m, precision, z - m) for m in means], axis=1)
        log_posterior = -0.5 * distance
        if learn_error:
            log_posterior[known] += np.log(error / max(n_classes - 1, 1))
            log_posterior[known, codes[known]] += np.log1p(-error) - np.log(error / max(n_classes - 1, 1))
        log_posterior -= log_posterior.max(1, keepdims=True)
        posterior = np.exp(log_posterior)
        posterior /= posterior.sum(1, keepdims=True)
        if learn_error:
            wrong = float((1.0 - posterior[known, codes[known]]).sum())
            error = (wrong + _PRIOR_STRENGTH * _PRIOR_ERROR) / (known.sum() + _PRIOR_STRENGTH)
            error = float(np.clip(error, 0.01, 0.6))
            weights = posterior
        else:
            weights = np.where(known[:, None], given, posterior)
    typical = (distance.min(1) < chi2.ppf(0.999, dims)).astype(np.float64)
    return posterior, typical, error
