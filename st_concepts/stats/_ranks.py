"""Ranks: how well one side is above the other, and agreement of rankings."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that a value of ``inside`` exceeds one of ``outside``, ties counted half; NaN if one is empty.

    Examples
    --------
    >>> auroc(np.array([3.0]), np.array([1.0, 2.0]))
    1.0
    """
    n_in, n_out = len(inside), len(outside)
    if not n_in or not n_out:
        return float("nan")
    ranks = rankdata(np.concatenate([inside, outside]))
    return float((ranks[:n_in].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation over the entries that are finite in both; NaN where one side is constant.

    Examples
    --------
    >>> round(spearman(np.array([1.0, 2.0, 9.0]), np.array([0.0, 5.0, 6.0])), 12)
    1.0
    """
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2:
        return float("nan")
    x, y = (rankdata(v[known]) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def top_overlap(a: np.ndarray, b: np.ndarray, n: int) -> float:
    """Share of the ``n`` largest entries of ``a`` that are among the ``n`` largest of ``b``; NaN counts as smallest.

    Examples
    --------
    >>> top_overlap(np.array([3.0, 2.0, 1.0]), np.array([3.0, 0.0, 2.0]), 2)
    0.5
    """
    first, second = (np.argsort(-np.where(np.isnan(v), -np.inf, v), kind="stable")[:n] for v in (a, b))
    return len(np.intersect1d(first, second)) / n
