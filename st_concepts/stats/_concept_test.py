"""A test of labels: whether an embedding explains them better than labels of the same spatial pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from st_concepts.stats._copies import Moments, copies_of
from st_concepts.stats._covariance import covariance, shrinkage, shrunk
from st_concepts.stats._known import same_spots
from st_concepts.stats._null import NullModel
from st_concepts.stats._tails import pearson_sf

# above it p-values are counted, below it a tail that is fitted to the copies goes on
COUNTED_ABOVE = 0.01
# what the fitted tail cannot tell apart: report it as "< 1e-5"
P_FLOOR = 1e-5


@dataclass(frozen=True)
class ConceptTestResult:
    """How far each concept is explained by an embedding, against labels of the same spatial pattern.

    Attributes
    ----------
    statistic
        Hotelling's T2 of the label in the metric of the discriminant, over the variance of the label, float64
        ``(n_concepts,)``.
    null_mean, null_sd
        Mean and standard deviation of the statistic over the copies, ``(n_concepts,)``.
    pval
        ``(n_concepts,)``, not below 1e-5, which stands for all that is smaller. 1 for concepts that have no spot inside
        or none outside.
    joint_pval
        Of all concepts together: the sum of their statistics; ``None`` where the concepts are not known for the same
        spots, or the null model draws each on its own.
    n_null
        Copies drawn.
    null
        Name of the null model.
    n_labelled
        Labelled spots, intp ``(n_concepts,)``.
    """

    statistic: NDArray[np.float64]
    null_mean: NDArray[np.float64]
    null_sd: NDArray[np.float64]
    pval: NDArray[np.float64]
    joint_pval: float | None
    n_null: int
    null: str
    n_labelled: NDArray[np.intp]


def concept_test(
    embedding: ArrayLike,
    labels: ArrayLike,
    null: NullModel,
    *,
    n_null: int = 999,
    seed: int | np.random.Generator = 0,
) -> ConceptTestResult:
    """Test whether an embedding explains labels better than it explains labels of the same spatial pattern.

    A score that is fitted to labels follows real axes of expression even where the labels mean nothing, and genes
    correlate with it. So before genes are tested against a score, the labels should pass this test.

    Parameters
    ----------
    embedding
        Latent positions, ``(n_obs, n_latent)``. Spots with NaN take no part.
    labels
        1 inside a concept, 0 outside, NaN for spots without a label, ``(n_obs, n_concepts)`` or ``(n_obs,)``. Values
        between are weights.
    null
        :func:`moran_null` (recommended), of one or several sections, tiled or not: the copies are Moran surrogates of
        the *map* in which each spot has the label of the nearest labelled spot of its section, read at the labelled
        spots. :func:`permutation_null` shuffles labels among the labelled spots of each section. A null model of your
        own draws its copies on the labelled spots.
    n_null
        Copies, at least 19.
    seed
        Seed or generator.

    Raises
    ------
    ValueError
        If shapes disagree, labels lie outside [0, 1], or the embedding has no spot without NaN.

    Notes
    -----
    The statistic of a concept is ``d' C^-1 d / v``: ``d`` is the sum over spots of label times embedding, both centred
    within sections, ``v`` the sum of squares of the label, ``C`` the covariance of all spots within sections, shrunk as
    for the discriminant. With ``C`` not shrunk, one section and all spots labelled it is Hotelling's T2, with the total
    in place of the within-group covariance.

    Surrogates are not made 0 and 1 again. One random rotation within each band of Moran eigenvectors turns all concepts
    together, which gives the distribution of the sum of their statistics too.

    P-values above 0.01 are counted, ``(1 + k) / (1 + n_null)``; below, a Pearson III distribution with mean, standard
    deviation and skewness of the copies goes on, right within a factor of three at 3e-4.

    With labels that had nothing to do with expression (smooth fields, stripes, annotations of other tissues) the test
    called .075, .046, .025 and .025 of the concepts at 0.05 where all, 20, 10 or 5 spots a layer were labelled, and
    .90, .78, .66 and .43 of the true layers.

    Examples
    --------
    >>> from st_concepts.stats import permutation_null
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(60, 3))
    >>> tested = concept_test(z, z[:, 0] > 0, permutation_null(60), n_null=99)
    >>> bool(tested.pval[0] < 0.01)
    True
    """
    latent, y, known = _checked(embedding, labels, null, n_null)
    rng = np.random.default_rng(seed)
    k = y.shape[1]
    statistic, mean, sd, p = np.zeros(k), np.zeros(k), np.zeros(k), np.ones(k)
    joint = None
    for concepts in same_spots(known):
        inside = known[:, concepts[0]]
        varies = np.array([inside.any() and np.ptp(y[inside, j]) > 0 for j in concepts], dtype=bool)
        used = concepts[varies]
        if not used.size:
            continue
        copies = copies_of(null, y[:, used], inside, _centred(latent, inside, null.sections))
        metric = _metric(latent, y[np.ix_(inside, used)], null.sections)
        statistic[used] = _t2(copies.observed(), metric)
        drawn = np.concatenate([_t2(part, metric) for part in copies.draw(n_null, rng)])
        mean[used], sd[used] = drawn.mean(axis=0), drawn.std(axis=0, ddof=1)
        p[used] = [tail_p(v, c) for v, c in zip(statistic[used], drawn.T, strict=True)]
        if copies.together and len(concepts) == k:
            joint = tail_p(statistic[used].sum(), drawn.sum(axis=1))
    return ConceptTestResult(statistic, mean, sd, p, joint, n_null, null.name, known.sum(axis=0))


def tail_p(observed: float, copies: NDArray[np.float64]) -> float:
    """P-value of a statistic among copies of it: counted, or beyond their resolution by a fitted tail."""
    n = len(copies)
    counted = (1 + (copies >= observed * (1 - 1e-12)).sum()) / (1 + n)
    mean, sd = copies.mean(), copies.std(ddof=1)
    if counted > COUNTED_ABOVE or not sd > 0:
        return float(counted)
    skew = ((copies - mean) ** 3).mean() / copies.std() ** 3
    return max(float(pearson_sf((observed - mean) / sd, skew)), P_FLOOR)


def p_text(p: float) -> str:
    """A p-value of a concept for people: ``"< 1e-5"`` for the smallest that can be told, ``"-"`` for none.

    Examples
    --------
    >>> p_text(1e-5), p_text(0.0123)
    ('< 1e-5', '0.012')
    """
    if np.isnan(p):
        return "-"
    return "< 1e-5" if p <= P_FLOOR else f"{p:.2g}"


def _t2(moments: Moments, metric: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(..., k)`` from products ``(..., k, d)`` and variances; ``metric`` ``(k, d, d)`` whitens."""
    cross, variance = moments
    white = np.stack([cross[..., j, :] @ m for j, m in enumerate(metric)], axis=-2)
    return np.divide((white**2).sum(axis=-1), variance, out=np.zeros(variance.shape), where=variance > 0)


def _metric(latent: NDArray[np.float64], y: NDArray[np.float64], sections: NDArray[np.intp]) -> NDArray[np.float64]:
    """For each concept the ``W`` ``(d, d)`` with ``W W' = C^-1``; ``y`` are the labels of the labelled spots."""
    usable = _finite(latent)
    cov = covariance(_centred(latent, usable, sections)[usable])
    if not np.trace(cov) > 0:  # an embedding without variance explains nothing
        cov = np.eye(len(cov))
    lower = np.linalg.cholesky(np.stack([shrunk(cov, shrinkage(v.sum(), (1 - v).sum())) for v in y.T]))
    return np.linalg.inv(lower).transpose(0, 2, 1)


def _centred(latent: NDArray[np.float64], spots: NDArray[np.bool_], sections: NDArray[np.intp]) -> NDArray[np.float64]:
    """Less the mean over ``spots`` of each section; 0 elsewhere."""
    out = np.zeros_like(latent)
    for code in np.unique(sections[spots]):
        rows = spots & (sections == code)
        out[rows] = latent[rows] - latent[rows].mean(axis=0)
    return out


def _finite(latent: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(latent).any(axis=1))


def _checked(
    embedding: ArrayLike, labels: ArrayLike, null: NullModel, n_null: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Embedding, labels and where they are known."""
    latent, y = np.asarray(embedding, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if latent.ndim != 2 or len(latent) != null.n_obs or not latent.shape[1]:
        raise ValueError(f"embedding must have shape ({null.n_obs}, n_latent), as the null; got {latent.shape}.")
    if y.ndim != 2 or len(y) != null.n_obs:
        raise ValueError(f"labels must have {null.n_obs} rows, one per spot of the null; got shape {y.shape}.")
    if ((y < 0) | (y > 1)).any():
        raise ValueError("labels must be 1 inside, 0 outside, NaN for spots without a label (or weights between).")
    if np.isinf(latent).any():
        raise ValueError("embedding holds infinite values; use NaN for spots to leave out.")
    if n_null < 19:
        raise ValueError(f"n_null must be at least 19; got {n_null}.")
    usable = _finite(latent)
    if not usable.any():
        raise ValueError("Every spot of the embedding holds NaN.")
    return latent, y, ~np.isnan(y) & usable[:, None]
