"""Markers and concept scores as data frames, with the true names of the concepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import as_frame, plain
from st_concepts._names import as_name, unknown_name
from st_concepts._slots import KEYS, concept_slot, surroundings_slot
from st_concepts.concepts import ConceptSet, read_concepts, scores

_FIELDS = ("names", "scores", "logfoldchanges", "pvals", "pvals_adj")
# tables in varm, genes x concepts, that stand beside the ranking
_SHARES = ("pct_in", "pct_out", "n_sections", "sign_consistency", "z_combined")


def markers(
    adata: AnnData, concept: str | int | None = None, *, n: int | None = None, key: str = KEYS.RANK
) -> pd.DataFrame:
    """Genes of a concept, best first.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.rank_genes_concepts`; only read.
    concept
        Name of a concept, as in the annotation (a number where the labels are numbers) or its safe label; `None` for
        all, one below the other.
    n
        Number of genes a concept; `None` for all.
    key
        Entry of ``uns`` that holds the ranking, in scanpy's ``rank_genes_groups`` form, or the key of a set of
        concepts, for the ranking of that set: saliency and names are read from the slots of the same set.

    Returns
    -------
    DataFrame, one row per gene (and concept), with ``names``, ``scores`` (the concept statistic), ``logfoldchanges``
    (log2), ``pvals``, ``pvals_adj`` and, where they are stored, ``pct_in`` and ``pct_out`` (share of spots in which the
    gene is seen, 0 to 1), ``n_sections``, ``sign_consistency`` and ``z_combined`` (agreement of several sections) and
    ``saliency`` (signed, in units of the concept score: ``varm["concept_saliency"]``, or that of the set ranked) and
    ``saliency_surroundings``, the part of it that is read around the spots.
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
    if "vectors" in adata.uns.get(key, ()):  # a set of concepts
        key = concept_slot(KEYS.RANK, key)
    if key not in adata.uns:
        of = "" if key == KEYS.RANK else ", concepts_key=..."
        raise KeyError(f"adata.uns[{key!r}] is missing: run stc.tl.rank_genes_concepts(adata{of}) first.")
    stored = adata.uns[key]
    names = list(stored["names"].dtype.names)
    params = plain(stored.get("params", {}))
    made = _set_of(adata, params)
    if concept is not None:
        concept = _ranked_name(as_name(concept), names, made, key)
    extra = {column: _by_true_name(adata, f"{key}_{column}", made) for column in _SHARES}
    saliency = str(params.get("saliency_key") or (KEYS.SALIENCY if made is None else made.slot(KEYS.SALIENCY)))
    extra["saliency"] = _by_true_name(adata, saliency, made)
    extra["saliency_surroundings"] = _by_true_name(adata, surroundings_slot(saliency), made)
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


def saliency_parts(adata: AnnData, *, key: str = KEYS.CONCEPTS, saliency_key: str | None = None) -> pd.DataFrame:
    """How much of the saliency of each concept is read in its spots, and how much around them.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.saliency`; only read.
    key
        Entry of ``uns`` that holds the concepts.
    saliency_key
        Table in ``varm``; by default that of the concepts.

    Returns
    -------
    DataFrame, one row per concept with saliency: ``concept``; ``own`` and ``surroundings``, sums over the genes (with
    integrated gradients the two add up to the difference of mean score between the spots and the baseline); and
    ``share``, how much of the sum of absolute values over the genes is that of the surroundings, between 0 and 1. Zeros
    where concepts see the spot alone.

    Raises
    ------
    KeyError
        No concepts, or no saliency.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer", context=3)
    >>> stc.tl.saliency(adata, model)
    >>> stc.get.saliency_parts(adata).columns.tolist()
    ['concept', 'own', 'surroundings', 'share']
    """
    made = read_concepts(adata, key)
    slot = saliency_key or made.slot(KEYS.SALIENCY)
    if slot not in adata.varm:
        raise KeyError(f"adata.varm[{slot!r}] is missing: run stc.tl.saliency(adata, model) first.")
    whole = _by_true_name(adata, slot, made)
    further = _by_true_name(adata, surroundings_slot(slot), made).reindex(columns=whole.columns, fill_value=0.0)
    own = whole - further
    size = own.abs().sum() + further.abs().sum()
    return pd.DataFrame(
        {
            "concept": whole.columns.astype(str),
            "own": own.sum().to_numpy(dtype=np.float64),
            "surroundings": further.sum().to_numpy(dtype=np.float64),
            "share": (further.abs().sum() / size.where(size > 0)).to_numpy(dtype=np.float64),
        }
    )


def _set_of(adata: AnnData, params: Mapping[str, Any]) -> ConceptSet | None:
    """The concepts that a ranking was made of; `None` where they are gone."""
    key = str(params.get("concepts_key") or KEYS.CONCEPTS)
    return read_concepts(adata, key) if key in adata.uns else None


def _ranked_name(concept: str, names: list[str], made: ConceptSet | None, key: str) -> str:
    """The true name of a ranked concept, given that or its safe label."""
    if concept not in names and made is not None and concept in made.labels:
        concept = made.names[made.labels.index(concept)]
    if concept not in names:
        raise KeyError(f"Concept {concept!r} is not ranked in adata.uns[{key!r}]; {unknown_name(concept, names)}")
    return concept


def _by_true_name(adata: AnnData, slot: str, made: ConceptSet | None) -> pd.DataFrame:
    """``varm[slot]`` with true names as columns; empty where there is none."""
    if slot not in adata.varm or made is None:
        return pd.DataFrame(index=adata.var_names)
    return as_frame(adata.varm[slot]).rename(columns=dict(zip(made.labels, made.names, strict=True)))
