"""What was written about concepts, read back: who is inside and outside, and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import as_frame
from st_concepts._names import as_names
from st_concepts._slots import KEYS
from st_concepts.concepts._concept_set import ConceptSet, read_concepts
from st_concepts.concepts._membership import Membership, from_scores


def membership(adata: AnnData, concepts: ConceptSet) -> Membership:
    """Inside / outside of each concept: ``obsm["concept_members"]``, or else by concept score."""
    key = concepts.slot(KEYS.MEMBERS)
    if key in adata.obsm:
        frame = as_frame(adata.obsm[key])
        if list(frame.columns) == concepts.labels:
            return Membership(concepts.names, frame.to_numpy().astype(np.int8))
    return from_scores(concepts.names, scores(adata, concepts).to_numpy())


def scores(adata: AnnData, concepts: ConceptSet, key: str | None = None) -> pd.DataFrame:
    """``obsm[key]`` of these concepts, by default ``obsm["concept_score"]``."""
    key = key or str(concepts.params.get("score_key") or KEYS.SCORE)
    if key not in adata.obsm:
        raise KeyError(f"adata.obsm[{key!r}] is missing: run stc.tl.concepts or stc.tl.score_concepts first.")
    frame = as_frame(adata.obsm[key])
    if list(frame.columns) != concepts.labels:
        raise KeyError(
            f"adata.obsm[{key!r}] holds scores of {', '.join(map(str, frame.columns))}, but the concepts are "
            f"{', '.join(concepts.labels)}. Run stc.tl.score_concepts again."
        )
    return frame


@dataclass(frozen=True)
class ConceptView:
    """Some of the concepts of an AnnData, with all that was written about them.

    Attributes
    ----------
    made
        The set that they are of.
    names, labels
        Their true names and safe labels.
    members
        Spots inside and outside each.
    scores
        float64 ``(n_obs, n_concepts)``.
    alone
        The same of what concepts see in the spot itself, which genes are tested against.
    gradient
        Mean gradient of ``alone``, float64 ``(n_vars, n_concepts)``, zero for genes that the model does not have;
        `None` where it was not kept.
    weights
        How much each spot counts as inside when genes are ranked, float64 ``(n_obs, n_concepts)``; `None` where only
        the members say so.
    """

    made: ConceptSet
    names: list[str]
    labels: list[str]
    members: Membership
    scores: np.ndarray
    alone: np.ndarray
    gradient: np.ndarray | None
    weights: np.ndarray | None

    @classmethod
    def read(cls, adata: AnnData, key: str, concepts: Sequence[str] | str | None, score_key: str | None) -> ConceptView:
        """The concepts asked for, by true name or safe label; all for `None`."""
        made = read_concepts(adata, key)
        chosen = list(range(len(made.names))) if concepts is None else [made.index(c) for c in as_names(concepts)]
        names, labels = [made.names[j] for j in chosen], [made.labels[j] for j in chosen]
        members = Membership(names, membership(adata, made).members[:, chosen])
        values = scores(adata, made, score_key).to_numpy(dtype=np.float64)[:, chosen]
        context = made.context is not None
        alone = values
        if context and score_key in (None, made.params.get("score_key")):
            alone = scores(adata, made, made.slot(KEYS.SCORE_ALONE)).to_numpy(dtype=np.float64)[:, chosen]
        gradient = _columns(adata.varm.get(made.slot(KEYS.GRADIENT_ALONE if context else KEYS.GRADIENT)), labels)
        weights = _columns(adata.obsm.get(made.slot(KEYS.WEIGHT)), labels)
        return cls(made, names, labels, members, values, alone, gradient, weights)

    @property
    def given_labels(self) -> np.ndarray:
        """1 inside, 0 outside, NaN neither, float64 ``(n_obs, n_concepts)``."""
        return np.where(self.members.members < 0, np.nan, self.members.members).astype(np.float64)

    @property
    def concept_pval(self) -> np.ndarray | None:
        """That each concept is one, float64 ``(n_concepts,)``; `None` where that was not tested."""
        stored = self.made.test.get("pval")
        if stored is None:
            return None
        return np.asarray(stored, dtype=np.float64)[[self.made.index(n) for n in self.names]]

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of each spot inside and outside, float64 ``(n_obs, n_concepts)``, for a ranking."""
        if self.weights is None:
            return self.members.inside.astype(np.float64), self.members.outside.astype(np.float64)
        return self.weights, 1.0 - self.weights


def _columns(stored: Any, labels: list[str]) -> np.ndarray | None:
    """The columns of a frame, NaN as 0; `None` where it lacks one."""
    frame = as_frame(stored)
    if frame is None or not set(labels) <= set(frame.columns):
        return None
    return np.nan_to_num(frame[labels].to_numpy(dtype=np.float64))
