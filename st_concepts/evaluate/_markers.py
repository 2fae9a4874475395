"""Whether the genes that are known to mark a layer are among the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import hypergeom

from st_concepts._slots import KEYS, concept_slot
from st_concepts.concepts import read_concepts
from st_concepts.datasets import bulb_markers
from st_concepts.stats import auroc


def marker_recovery(
    adata: AnnData,
    markers: pd.DataFrame | Mapping[str, Sequence[str]] | None = None,
    *,
    key: str | None = None,
    n_top: int = 50,
    concepts_key: str = KEYS.CONCEPTS,
) -> pd.DataFrame:
    """Share of known markers of each concept among its first genes.

    Parameters
    ----------
    adata
        With saliency or a ranking of genes; only read.
    markers
        Genes by concept: a mapping, or a table with the columns ``gene`` and ``layer``. By default
        ``stc.datasets.bulb_markers()``.
    key
        What to rank by: a table in ``varm`` (genes x concepts, the largest signed value first), or an entry of ``uns``
        in scanpy's ``rank_genes_groups`` form, such as ``"rank_genes_concepts"``.
    n_top
        Number of first genes.
    concepts_key
        Entry of ``uns`` with the concepts, for their true names.

    Returns
    -------
    DataFrame, one row per concept that has markers among the ranked genes:

    - ``concept``, ``n_markers`` (those that are ranked), ``n_found`` (those in the top), ``share`` of the two;
    - ``expected``: share that random genes would reach; ``fold``: ``share / expected``;
    - ``pval``: hypergeometric probability of at least as many. It takes genes as exchangeable, which co-expressed genes
      are not, and is an optimistic guide rather than a test;
    - ``auroc``: probability that a marker ranks above another gene.

    Raises
    ------
    KeyError
        Nothing to rank by; no column ``gene`` or ``layer``.
    ValueError
        No marker of any concept is ranked; ``n_top`` below 1.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.saliency(adata, model)
    >>> known = {"GCL": [g for g in adata.var_names if g.startswith("GCL")]}
    >>> bool(stc.evaluate.marker_recovery(adata, known, n_top=10)["fold"][0] > 2)
    True
    """
    if n_top < 1:
        raise ValueError(f"n_top={n_top} must be at least 1.")
    ranking = _rankings(adata, key or concept_slot(KEYS.SALIENCY, concepts_key), concepts_key)
    known = _by_concept(bulb_markers() if markers is None else markers)
    rows = []
    for name, values in ranking.items():
        genes = values.dropna().sort_values(ascending=False, kind="stable")
        is_marker = genes.index.isin(known.get(name, ()))
        n, k = len(genes), int(is_marker.sum())
        if not k:
            continue
        top = min(n_top, n)
        found = int(is_marker[:top].sum())
        rows.append(
            {
                "concept": name,
                "n_markers": k,
                "n_found": found,
                "share": found / k,
                "expected": top / n,
                "fold": (found / k) / (top / n),
                "pval": float(hypergeom.sf(found - 1, n, k, top)),
                "auroc": auroc(genes[is_marker], genes[~is_marker]),
            }
        )
    if not rows:
        raise ValueError(
            f"No known marker of {', '.join(ranking)} is among the ranked genes. Markers are given for: "
            f"{', '.join(known) or 'nothing'}. Do the names of concepts and genes agree?"
        )
    return pd.DataFrame(rows)


def _rankings(adata: AnnData, key: str, concepts_key: str) -> dict[str, pd.Series]:
    """Values by gene for each concept, under its true name."""
    if key in adata.varm:
        frame = pd.DataFrame(adata.varm[key])
        frame.index = adata.var_names.astype(str)
        true = {}
        if concepts_key in adata.uns:
            made = read_concepts(adata, concepts_key)
            true = dict(zip(made.labels, made.names, strict=True))
        return {str(true.get(c, c)): frame[c] for c in frame}
    if key in adata.uns:
        stored = adata.uns[key]
        return {
            str(group): pd.Series(np.asarray(stored["scores"][group]), index=stored["names"][group].astype(str))
            for group in stored["names"].dtype.names
        }
    raise KeyError(
        f"Neither adata.varm nor adata.uns has {key!r}: run stc.tl.saliency or stc.tl.rank_genes_concepts first."
    )


def _by_concept(markers: pd.DataFrame | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    if not isinstance(markers, pd.DataFrame):
        return {str(k): [str(g) for g in v] for k, v in markers.items()}
    missing = [c for c in ("gene", "layer") if c not in markers]
    if missing:
        raise KeyError(f"The table of markers lacks the column {missing[0]!r}; it needs 'gene' and 'layer'.")
    rows = markers.dropna(subset=["gene", "layer"])
    return {str(k): v["gene"].astype(str).unique().tolist() for k, v in rows.groupby("layer", observed=True)}
