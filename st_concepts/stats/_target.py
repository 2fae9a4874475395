"""Score, label, or both: what the genes of a concept are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from st_concepts.stats._ranks import auroc

TARGETS = ("score", "both", "label")
# share of spots that must be labelled before labels are a target of their own
ENOUGH_LABELS = 0.5
# AUROC from which score and label count as two measurements of one thing
SAME_THING = 0.93


def mixed(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean of standardised score and label ``(n_obs, n_concepts)``; where there is no label (NaN), the score alone."""
    s, lab = ((v - np.nanmean(v, axis=0)) / np.maximum(np.nanstd(v, axis=0), 1e-12) for v in (score, label))
    return np.where(np.isnan(lab), s, (s + lab) / 2)


def _separation(score: np.ndarray, label: np.ndarray) -> float:
    known = ~np.isnan(label) & ~np.isnan(score)
    inside = known & (label == 1)
    return auroc(score[inside], score[known & ~inside])


def choose_target(score: np.ndarray, label: np.ndarray, *, doubted: bool) -> tuple[list[str], np.ndarray]:
    """A target for each concept, and how well the score tells the label (AUROC).

    With few labels, or labels that the expression contradicts (``doubted``), the score is the better target: it is
    cleaner than what it was made from. With most spots labelled and a score that separates them, the two are
    measurements of one thing with different errors, and their mean is better than either. Where the score separates the
    layer badly, it is mixed with other structure of the tissue, and the label is better. How well a target's ranking
    repeats between two halves of the counts does not tell: a score that follows a nuisance repeats very well.
    """
    separation = np.array([_separation(s, lab) for s, lab in zip(score.T, label.T, strict=True)])
    usable = ~np.isnan(score).all(axis=1)
    labelled = (~np.isnan(label[usable])).mean(axis=0)
    choice = []
    for share, area in zip(labelled, separation, strict=True):
        if doubted or share < ENOUGH_LABELS or np.isnan(area):
            choice.append("score")
        else:
            choice.append("both" if area >= SAME_THING else "label")
    return choice, separation


@dataclass(frozen=True)
class Targets:
    """What the genes of each concept are tested against, and what they are ranked by.

    Attributes
    ----------
    kinds
        One of `TARGETS` for each concept.
    score, label
        float64 ``(n_obs, n_concepts)``; NaN where unknown.
    separation
        AUROC of the score for the label; NaN where it was not asked for.
    """

    kinds: list[str]
    score: np.ndarray
    label: np.ndarray
    separation: np.ndarray

    @classmethod
    def choose(
        cls, target: str, score: np.ndarray, label: np.ndarray, usable: np.ndarray, *, defined: bool, doubted: bool
    ) -> Self:
        """The target asked for; ``"auto"`` looks at labels and scores where labels ``defined`` the concepts."""
        score, label = score.copy(), label.copy()
        score[~usable], label[~usable] = np.nan, np.nan
        n_concepts = score.shape[1]
        if target == "auto" and defined:
            kinds, separation = choose_target(score, label, doubted=doubted)
            return cls(kinds, score, label, separation)
        kinds = ["score" if target == "auto" else target] * n_concepts
        return cls(kinds, score, label, np.full(n_concepts, np.nan))

    @property
    def by_score(self) -> np.ndarray:
        """Boolean ``(n_concepts,)``; ``"both"`` only ranks: what is tested is the label, which no gene is part of."""
        return np.array([kind == "score" for kind in self.kinds])

    @property
    def tested(self) -> np.ndarray:
        """What the null model is of, ``(n_obs, n_concepts)``."""
        return np.where(self.by_score, self.score, self.label)

    def own_weights(self, gradient: np.ndarray | None) -> np.ndarray | None:
        """A gene is tested against the score less its own part of it."""
        return None if gradient is None else np.where(self.by_score, gradient, 0.0)

    def ranked_by_both(self) -> tuple[np.ndarray, np.ndarray]:
        """Concepts that are ranked by the mean of score and label, and that mean."""
        both = np.flatnonzero([kind == "both" for kind in self.kinds])
        return both, mixed(self.score[:, both], self.label[:, both])
