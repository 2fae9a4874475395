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
# spots that an iteration takes at a time, so that they stay in the cache
_ROWS = 2**14
# relative change of all parameters below which further iterations are the same
_STILL = 1e-13


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
    n_known, error = int(known.sum()), _PRIOR_ERROR
    parts = [slice(a, min(a + _ROWS, n)) for a in range(0, n, _ROWS)]
    posterior, nearest = np.empty((n, n_classes)), np.empty(n)
    size, first, second = given.sum(0), given.T @ z, np.zeros((dims, dims))
    cov = np.cov(z.T, bias=True).reshape(dims, dims)
    before = np.zeros(0)
    for step in range(n_iter):
        means = first / size[:, None]
        if step:  # the first covariance is that of all spots: a few labelled ones cannot tell it
            cov = (second - (means.T * size) @ means) / size.sum()
        now = np.concatenate([means.ravel(), cov.ravel(), [error]])
        if step > 1 and np.abs(now - before).max() <= _STILL * np.abs(now).max():
            break
        before = now
        shrink = 5.0 / (5.0 + size.min())
        shrunk = (1 - shrink) * cov + (shrink * np.trace(cov) / dims + 1e-9) * np.eye(dims)
        # distances are squared lengths after this rotation and scaling
        turn = np.linalg.cholesky(np.linalg.inv(shrunk))
        centres = means @ turn
        odds = np.log1p(-error) - np.log(error / max(n_classes - 1, 1)) if learn_error else 0.0
        size, first, second, wrong = np.zeros(n_classes), np.zeros((n_classes, dims)), np.zeros((dims, dims)), 0.0
        for rows in parts:
            at, here = z[rows] @ turn, given[rows].T
            # classes x spots: sums over the few classes are then sums of long rows
            distance = np.einsum("ij,ij->i", at, at) - 2.0 * (centres @ at.T) + (centres**2).sum(1)[:, None]
            share = odds * here - 0.5 * distance
            share -= share.max(0)
            np.exp(share, out=share)
            share /= share.sum(0)
            weights = share if learn_error else np.where(known[rows], here, share)
            size += weights.sum(1)
            first += weights @ z[rows]
            second += (z[rows].T * weights.sum(0)) @ z[rows]
            wrong -= float((share * here).sum())
            posterior[rows], nearest[rows] = share.T, distance.min(0)
        if learn_error:
            error = (n_known + wrong + _PRIOR_STRENGTH * _PRIOR_ERROR) / (n_known + _PRIOR_STRENGTH)
            error = float(np.clip(error, 0.01, 0.6))
    return posterior, (nearest < chi2.ppf(0.999, dims)).astype(np.float64), error
