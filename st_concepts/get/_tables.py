"""Markers and concept scores as data frames, with the true names of the concepts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._keys import KEYS
from st_concepts.concepts import read_concepts
from st_concepts.concepts._stream import scores

_FIELDS = ("names", "scores", "logfoldchanges", "pvals", "pvals_adj")
# tables in varm, genes x concepts, that stand beside the ranking
_SHARES = ("pct_in", "pct_out", "n_sections", "sign_consistency", "z_combined")


def markers(adata: AnnData, concept: str | None = None, *, n: int | None = None, key: str = KEYS.RANK) -> pd.DataFrame:
    """Genes of a concept, best first.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.rank_genes_concepts`; only read.
    concept
        Name of a concept, as in the annotation; `None` for all, one below the other.
    n
        Number of genes a concept; `None` for all.
    key
        Entry of ``uns`` that holds the ranking, in scanpy's ``rank_genes_groups`` form.

    Returns
    -------
    DataFrame, one row per gene (and concept), with ``names``, ``scores`` (the concept statistic), ``logfoldchanges``
    (log2), ``pvals``, ``pvals_adj`` and, where they are stored, ``pct_in`` and ``pct_out`` (share of spots in which the
    gene is seen, 0 to 1), ``n_sections``, ``sign_consistency`` and ``z_combined`` (agreement of several sections) and
    ``saliency`` (signed, from ``varm["concept_saliency"]``, in units of the concept score).
    With ``concept=None`` the first column is ``concept``.

    Raises
    ------
    KeyError
        There is no ranking under ``key``, or no such concept in it.
    ValueError
        ``n`` is below 1.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.rank_genes_concepts(adata, null="none")
    >>> stc.get.markers(adata, "GCL", n=3).shape[0]
    3
    """
    if n is not None and n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    if key not in adata.uns:
        raise KeyError(f"adata.uns[{key!r}] is missing: run stc.tl.rank_genes_concepts(adata) first.")
    stored = adata.uns[key]
    names = list(stored["names"].dtype.names)
    if concept is not None and concept not in names:
        raise KeyError(f"Concept {concept!r} is not ranked in adata.uns[{key!r}]; there are: {', '.join(names)}.")
    extra = {column: _by_true_name(adata, f"{key}_{column}") for column in _SHARES}
    extra["saliency"] = _by_true_name(adata, KEYS.SALIENCY)
    parts = []
    for name in names if concept is None else [concept]:
        part = pd.DataFrame({field: np.asarray(stored[field][name])[:n] for field in _FIELDS if field in stored})
        for column, frame in extra.items():
            if name in frame:
                part[column] = frame[name].reindex(part["names"]).to_numpy()
        if concept is None:
            part.insert(0, "concept", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def concept_scores(adata: AnnData, *, key: str = KEYS.CONCEPTS) -> pd.DataFrame:
    """Concept score of every spot, with the true names of the concepts as columns.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.concepts` or `st_concepts.tl.score_concepts`; only read.
    key
        Entry of ``uns`` that holds the concepts.

    Returns
    -------
    DataFrame, n_obs x n_concepts, in standard deviations of the score over the spots that defined the concepts.

    Raises
    ------
    KeyError
        There are no concepts under ``key``, or no scores of theirs.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.get.concept_scores(adata).columns.tolist()
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL']
    """
    concepts = read_concepts(adata, key)
    return scores(adata, concepts).set_axis(concepts.names, axis=1)


def _by_true_name(adata: AnnData, slot: str) -> pd.DataFrame:
    """``varm[slot]`` with true names as columns; empty where there is none."""
    if slot not in adata.varm or KEYS.CONCEPTS not in adata.uns:
        return pd.DataFrame(index=adata.var_names)
    concepts = read_concepts(adata)
    return adata.varm[slot].rename(columns=dict(zip(concepts.labels, concepts.names, strict=True)))
