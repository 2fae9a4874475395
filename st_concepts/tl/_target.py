"""Score or label: which target of a concept gives the ranking that repeats better."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from st_concepts.models._features import log_normalize
from st_concepts.models._fit import thin

_TOP = (20, 50, 100)


def correlations(x: sp.csr_matrix, targets: np.ndarray) -> np.ndarray:
    """Pearson correlation of each gene with each target, float64 ``(n_vars, n_targets)``; NaN targets are left out."""
    out = np.zeros((x.shape[1], targets.shape[1]))
    for j, y in enumerate(targets.T):
        keep = ~np.isnan(y)
        block, t = x[keep], y[keep]
        n = len(t)
        t = (t - t.mean()) / max(t.std(), 1e-12)
        mean = np.asarray(block.mean(0)).ravel().astype(np.float64)
        var = np.asarray(block.multiply(block).mean(0)).ravel().astype(np.float64) - mean**2
        cov = np.asarray(block.T @ t).ravel() / n
        out[:, j] = np.where(var > 1e-10, cov / np.sqrt(np.maximum(var, 1e-10)), 0.0)
    return out


def choose_target(
    counts: sp.csr_matrix,
    gradient: np.ndarray,
    labels: np.ndarray,
    *,
    target_sum: float,
    usable: np.ndarray,
    seed: int,
) -> tuple[list[str], np.ndarray]:
    """``"score"`` or ``"label"`` for each concept, by agreement of the top genes between two halves of the counts.

    The molecules are split in two. Genes of one half are ranked by their correlation with the label, or with the
    score read out of the *other* half (linearly, by the mean gradient), so that neither shares noise with its target.
    Agreement is the overlap of the two rankings' top 20, 50 and 100 genes.

    Parameters
    ----------
    counts
        CSR ``(n_obs, n_vars)``.
    gradient
        ``(n_vars, n_concepts)``, zero for genes that the model does not have.
    labels
        ``(n_obs, n_concepts)``: 1, 0, or NaN where unlabelled.
    target_sum
        Scale of the normalisation.
    usable
        Boolean ``(n_obs,)``: spots with enough counts.
    seed
        Seed of the split.

    Returns
    -------
    The choice per concept, and the agreement ``(n_concepts, 2)`` of score and label.
    """
    halves = [log_normalize(part, target_sum / 2)[usable] for part in thin(counts, 0.5, seed)]
    labels = labels[usable]
    scores = [np.asarray(h @ gradient, dtype=np.float64) for h in halves]
    by_score = [correlations(halves[i], scores[1 - i]) for i in (0, 1)]
    by_label = [correlations(h, labels) for h in halves]
    agreement = np.empty((gradient.shape[1], 2))
    for j in range(gradient.shape[1]):
        agreement[j] = [_overlap(r[0][:, j], r[1][:, j]) for r in (by_score, by_label)]
    return ["label" if lab > sco else "score" for sco, lab in agreement], agreement


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    shares = []
    for k in _TOP:
        k = min(k, max(len(a) // 4, 1))
        first, second = (set(np.argsort(-v, kind="stable")[:k]) for v in (a, b))
        shares.append(len(first & second) / k)
    return float(np.mean(shares))
