"""Baselines for path methods: what a spot is compared with, in units of the features."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from st_concepts.attribution._inputs import check_baseline
from st_concepts.models import FeatureMatrix


def zero_baseline(n_vars: int) -> np.ndarray:
    """No gene expressed, ``(n_vars,)``."""
    return np.zeros(n_vars)


def mean_baseline(features: FeatureMatrix, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of each gene over all spots, or weighted, float64 ``(n_vars,)``.

    Raises
    ------
    ValueError
        If there is no spot, or the weights sum to zero.

    Examples
    --------
    >>> mean_baseline(np.array([[0.0, 2.0], [4.0, 2.0]]))
    array([2., 2.])
    """
    weights = np.ones(features.shape[0]) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (features.shape[0],):
        raise ValueError(f"weights have shape {weights.shape}, but there are {features.shape[0]} spots.")
    total = weights.sum()
    if not total > 0:
        raise ValueError("No spot to average: all weights are zero. Choose a baseline group that has spots.")
    return np.asarray(weights @ features, dtype=np.float64).ravel() / total


def group_means(features: FeatureMatrix, weights: np.ndarray) -> np.ndarray:
    """Mean of each gene in each group, float64 ``(n_groups, n_vars)``; ``weights`` is ``(n, n_groups)``.

    A group without weight has NaN.
    """
    weights = np.asarray(weights, dtype=np.float64)
    sums = np.asarray((features.T @ weights).T if sp.issparse(features) else weights.T @ features, dtype=np.float64)
    total = weights.sum(0)
    return sums / np.where(total > 0, total, np.nan)[:, None]


def other_groups_baselines(features: FeatureMatrix, weights: np.ndarray) -> np.ndarray:
    """For each group, the mean of each gene over the spots of the *other* groups, float64 ``(n_groups, n_vars)``.

    Parameters
    ----------
    features
        ``(n, n_vars)``, CSR or dense.
    weights
        ``(n, n_groups)``: group membership, not negative. Spots without weight in any group count nowhere.

    Raises
    ------
    ValueError
        If a group has no counterpart.

    Notes
    -----
    The spots of all other groups are pooled, so large groups count for more than small ones.

    Examples
    --------
    >>> other_groups_baselines(np.array([[0.0], [2.0], [4.0]]), np.array([[1, 0], [0, 1], [0, 1]]))
    array([[3.],
           [0.]])
    """
    weights = np.asarray(weights, dtype=np.float64)
    others = weights.sum(1, keepdims=True) - weights
    empty = np.flatnonzero(~(others.sum(0) > 0))
    if empty.size:
        raise ValueError(
            f"Group {int(empty[0])} has no other group to compare with. Use zero_baseline or mean_baseline instead."
        )
    return group_means(features, others)


def group_baseline(features: FeatureMatrix, labels: np.ndarray | pd.Series, group: str) -> np.ndarray:
    """Mean of each gene over the spots of one reference group, float64 ``(n_vars,)``.

    Raises
    ------
    ValueError
        If no spot has that label; the message lists the labels.
    """
    labels = pd.Series(np.asarray(labels))
    members = (labels == group).to_numpy(dtype=bool)
    if not members.any():
        known = ", ".join(sorted(map(str, labels.dropna().unique())))
        raise ValueError(f"No spot is labelled {group!r}. Labels: {known}.")
    return mean_baseline(features, members)


def profile_baseline(profile: pd.Series | np.ndarray, var_names: pd.Index) -> np.ndarray:
    """A user's own profile in the order of ``var_names``, float64 ``(n_vars,)``.

    Parameters
    ----------
    profile
        A series by gene name (genes that the model lacks are ignored), or an array already in order.
    var_names
        Names of the encoder's features.

    Raises
    ------
    ValueError
        If genes of the model are missing from the series, the length is wrong or a value is not finite.
    """
    if isinstance(profile, pd.Series):
        missing = var_names[~var_names.isin(profile.index)]
        if len(missing):
            raise ValueError(
                f"The baseline profile lacks {len(missing)} of the model's {len(var_names)} genes, "
                f"for example {', '.join(map(str, missing[:5]))}. Fill them in, with 0 where they are not expressed."
            )
        profile = profile[~profile.index.duplicated()].reindex(var_names).to_numpy()
    return check_baseline(profile, len(var_names))
