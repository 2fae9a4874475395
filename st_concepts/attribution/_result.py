"""What goes into and comes out of group attribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from st_concepts._counts.kind import is_sparse
from st_concepts.attribution._inputs import check_concepts
from st_concepts.attribution._methods.base import Method
from st_concepts.models import FeatureMatrix


class Batch(NamedTuple):
    """Some spots of a stream.

    Attributes
    ----------
    features
        ``(n, n_vars)``, CSR or dense, as `Encoder.features` returns them.
    weights
        ``(n, n_groups)``, not negative: weight of each spot in each group; membership is 1 or `True`.
    codes
        Covariate codes ``(n,)`` or `None`.
    """

    features: FeatureMatrix
    weights: np.ndarray
    codes: np.ndarray | None = None


def iter_batches(
    features: FeatureMatrix, weights: np.ndarray, codes: np.ndarray | None = None, *, batch_size: int = 4096
) -> Iterator[Batch]:
    """Cut features that are in memory into batches; spots without weight in any group are left out.

    Examples
    --------
    >>> batch = next(iter_batches(np.eye(3), np.array([[1, 0], [0, 0], [0, 1]])))
    >>> batch.features.shape
    (2, 3)
    """
    weights = np.asarray(weights)
    if is_sparse(features):
        features = features.tocsr()
    used = np.flatnonzero(weights.any(axis=1))
    for start in range(0, len(used), batch_size):
        rows = used[start : start + batch_size]
        yield Batch(features[rows], weights[rows], None if codes is None else np.asarray(codes)[rows])


@dataclass(frozen=True)
class GroupAttribution:
    """Mean attributions of groups of spots.

    Attributes
    ----------
    values
        float64 ``(n_groups, m, n_vars)``: mean over each group, for each of ``m`` directions in latent space.
    directions
        float64 ``(n_groups, m, n_latent)``: those directions; the identity where ``per_latent``.
    weight
        float64 ``(n_groups,)``: total weight of each group.
    score_difference
        float64 ``(n_groups, m)``: mean score of the group minus that of its baseline or references; `None` for methods
        without one.
    per_latent
        Whether the directions are the latent dimensions, so that any concept can be asked for.
    method
        Record of the method.
    parameters
        Settings that produced the values.
    path
        ``"factorised"`` or ``"autograd"`` (no linear first layer).
    """

    values: np.ndarray
    directions: np.ndarray
    weight: np.ndarray
    score_difference: np.ndarray | None
    per_latent: bool
    method: Method
    path: str
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def completeness_error(self) -> np.ndarray | None:
        """``|sum of attributions - score difference| / |score difference|``, ``(n_groups, m)``."""
        if self.score_difference is None:
            return None
        gap, scale = np.abs(self.values.sum(-1) - self.score_difference), np.abs(self.score_difference)
        return gap / np.where(scale > 0, scale, 1.0)

    def contract(self, concepts: np.ndarray, *, paired: bool = False) -> GroupAttribution:
        """Attributions of concept vectors from those of the latent dimensions: a matrix product.

        ``concepts`` are ``(n_concepts, n_latent)`` or ``(n_latent,)``, the directions of the result. ``paired`` gives
        each group only the concept of the same row, so that ``m`` is 1.
        """
        if not self.per_latent:
            raise ValueError(
                "These attributions were computed for given concepts, not per latent dimension. "
                "Call group_attributions without concepts to be able to ask for others."
            )
        directions = expand_directions(concepts, len(self.values), self.directions.shape[2], paired)
        difference = self.score_difference
        return replace(
            self,
            values=directions @ self.values,
            directions=np.array(directions),
            score_difference=None if difference is None else np.einsum("kml,kl->km", directions, difference),
            per_latent=False,
        )


def expand_directions(concepts: np.ndarray | None, n_groups: int, n_latent: int, paired: bool) -> np.ndarray:
    """Directions of every group, float64 ``(n_groups, m, n_latent)``."""
    if concepts is None:
        return np.broadcast_to(np.eye(n_latent), (n_groups, n_latent, n_latent))
    vectors = check_concepts(concepts, n_latent)
    if not paired:
        return np.broadcast_to(vectors, (n_groups, *vectors.shape))
    if len(vectors) != n_groups:
        raise ValueError(f"paired=True needs one concept per group: got {len(vectors)} concepts and {n_groups} groups.")
    return vectors[:, None, :]
