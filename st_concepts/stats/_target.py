"""Score, label, or both: what the genes of a concept are compared with."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

TARGETS = ("score", "both", "label")
# share of spots that must be labelled before labels are a target of their own
ENOUGH_LABELS = 0.5
# AUROC from which score and label count as two measurements of one thing
SAME_THING = 0.93


def mixed(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean of standardised score and standardised label; where there is no label, the score alone.

    Parameters
    ----------
    score, label
        ``(n_obs, n_concepts)``; NaN where unknown.
    """
    s, lab = ((v - np.nanmean(v, axis=0)) / np.maximum(np.nanstd(v, axis=0), 1e-12) for v in (score, label))
    return np.where(np.isnan(lab), s, (s + lab) / 2)


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that a spot inside scores above one outside; NaN labels are left out, NaN if one side is empty.

    Examples
    --------
    >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0]))
    1.0
    """
    known = ~np.isnan(label) & ~np.isnan(score)
    inside = label[known] == 1
    n_in, n_out = int(inside.sum()), int((~inside).sum())
    if not n_in or not n_out:
        return float("nan")
    ranks = rankdata(score[known])
    return float((ranks[inside].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out))


def choose_target(score: np.ndarray, label: np.ndarray, *, doubted: bool) -> tuple[list[str], np.ndarray]:
    """A target for each concept.

    With few labels, or labels that the expression contradicts, the score is the better target: it is cleaner than what
    it was made from. With most spots labelled and a score that separates them, the two are measurements of one thing
    with different errors, and their mean is better than either. Where the score separates the layer badly, it is mixed
    with other structure of the tissue, and the label is better. How well a target's ranking repeats between two halves
    of the counts does not tell: a score that follows a nuisance repeats very well.

    Parameters
    ----------
    score, label
        ``(n_obs, n_concepts)``; NaN where unknown.
    doubted
        Whether too many labels were contradicted.

    Returns
    -------
    The choice and the AUROC of the score for the label, per concept.
    """
    separation = np.array([auroc(s, lab) for s, lab in zip(score.T, label.T, strict=True)])
    usable = ~np.isnan(score).all(axis=1)
    labelled = (~np.isnan(label[usable])).mean(axis=0)
    choice = []
    for share, area in zip(labelled, separation, strict=True):
        if doubted or share < ENOUGH_LABELS or np.isnan(area):
            choice.append("score")
        else:
            choice.append("both" if area >= SAME_THING else "label")
    return choice, separation
