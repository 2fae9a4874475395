"""`stc.tl.rank_genes_concepts`: layer markers in scanpy's own format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.expression import Expression, SideSums
from st_concepts._counts.frames import as_frame
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import sections_of
from st_concepts._distributed import size
from st_concepts._names import as_names
from st_concepts._slots import KEYS, concept_slot, safe_labels
from st_concepts.concepts import DOUBT_ABOVE, ConceptSet, Membership, read_concepts
from st_concepts.stats import (
    NULLS,
    AssociationResult,
    NullModel,
    RowStream,
    association_by_section,
    association_test,
    null_model,
)
from st_concepts.stats._target import TARGETS, choose_target, mixed
from st_concepts.tl._common import check_copy, check_filled, informative, membership, scores

# spots up to which a matrix is held for shuffled copies, which would otherwise be read for every few of them
_HOLD_BELOW = 20_000
STATISTICS = ("pattern", "saliency")
OPTIONAL_TABLES = ("pval_empirical", "z_combined", "n_sections", "sign_consistency")


def rank_genes_concepts(
    adata: AnnData,
    *,
    concepts: Sequence[str] | str | None = None,
    method: Literal["pattern", "saliency"] = "pattern",
    null: str | type[NullModel] | NullModel = "moran",
    target: Literal["auto", "score", "both", "label"] = "auto",
    n_null: int = 1000,
    section_key: str | None = None,
    graph_key: str | None = None,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    score_key: str | None = None,
    saliency_key: str | None = None,
    key_added: str | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Rank the genes of every concept, with p-values that allow for spatial correlation.

    The *pattern* statistic is the correlation of a gene with the concept over the spots (Haufe et al. 2014): which
    genes carry the concept. ``method="saliency"`` ranks by what the model reads instead; the p-values remain those of
    the pattern.

    Parameters
    ----------
    adata
        What ``stc.tl.concepts`` (or ``score_concepts``) wrote into.
    concepts
        Names of the concepts to rank genes for; by default all.
    method
        ``"pattern"`` or ``"saliency"`` (needs ``stc.tl.saliency``).
    null
        What the target is compared with: ``"moran"``, surrogates with the same spatial autocorrelation (Wagner & Dray
        2015); ``"permutation"``, shuffled spots, which treats neighbours as independent and finds too much on smooth
        tissue; ``"none"``, the t-test of a correlation, likewise.
    target
        ``"score"``: the concept score of every spot, better with few or wrong labels. ``"label"``: inside or outside,
        on the labelled spots. ``"both"``: genes are ranked by their correlation with the mean of the two, and tested
        against the label. ``"auto"`` decides concept by concept and records it: the score where fewer than half of the
        spots are labelled or the labels are doubtful, both where score and label agree (AUROC of at least 0.93), else
        the label.
    n_null
        Null copies for the empirical p-values; 0 for none. The other p-values come from the closed form of the null.
    section_key
        Column of ``adata.obs`` with the section of each spot. By default the ``batch_key`` of the model, then
        ``section``, ``library_id`` and ``sample``, those first that agree with the images in ``uns["spatial"]``.
    graph_key
        Entry of ``adata.obsp`` with spatial weights, for example ``"spatial_connectivities"``; by default a graph is
        made from ``obsm["spatial"]``.
    layer
        Layer with the counts; by default where the concepts were made from.
    concepts_key, saliency_key, key_added
        Where to read and write. Another set of concepts has slots of its own: ``concepts_key="seeds"`` reads
        ``varm["seeds_saliency"]`` and writes ``uns["rank_genes_seeds"]``.
    score_key
        Entry of ``obsm`` with the scores; by default the one that ``stc.tl.concepts`` wrote. See ``stc.tl.cross_fit``.
    seed
        Seed of the null copies.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``uns["rank_genes_concepts"]``
        The contract of ``sc.tl.rank_genes_groups``: record arrays by concept, all genes, sorted by score: ``names``,
        ``scores`` (the statistic), ``logfoldchanges`` (log2 of mean normalised expression inside over outside),
        ``pvals`` (two-sided), ``pvals_adj`` (Benjamini-Hochberg within the concept); and ``params``, which hold the
        ``section_key`` and the ``graph`` that were used (``"coordinates"``, ``"obsp"`` by ``graph_key``, ``"none"``).
    ``varm["rank_genes_concepts_<table>"]``
        float64 DataFrames, genes x concepts: ``z``, ``pval``, ``pval_greater`` (one-sided: higher inside), ``qval``,
        ``qval_all`` (over all concepts), ``lfc``, ``pct_in``, ``pct_out`` (share of spots in which the gene is seen),
        and ``pval_empirical`` where ``n_null > 0``. With several sections also ``z_combined`` (Stouffer's z of the
        sections tested apart), ``n_sections`` (in which the concept varies) and ``sign_consistency`` (share of them
        that agree in sign with the combined z).
    ``obs["concept_group"]``
        Only for concepts that no column defines: the concept that each spot is inside of, for scanpy's plots.

    Raises
    ------
    KeyError
        No concepts yet, a missing column or slot.
    ValueError
        ``null="moran"`` without coordinates, or with such as cannot be; sections that lie on each other and that no
        column tells apart; unknown option; X is neither counts nor log-normalised.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.rank_genes_concepts(adata, n_null=0)
    >>> stc.get.markers(adata, "GCL").columns[0]
    'names'
    """
    for name, value, known in (
        ("method", method, STATISTICS),
        ("target", target, ("auto", *TARGETS)),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; choose one of: {', '.join(map(repr, known))}.")
    check_copy(adata, copy)
    check_filled(concepts=concepts)
    made = read_concepts(adata, concepts_key)
    saliency_key = saliency_key or concept_slot(KEYS.SALIENCY, concepts_key)
    key_added = key_added or concept_slot(KEYS.RANK, concepts_key)
    chosen = list(range(len(made.names))) if concepts is None else [made.index(c) for c in as_names(concepts)]
    names, labels = [made.names[j] for j in chosen], [made.labels[j] for j in chosen]
    members = membership(adata, made)
    members = Membership(names, members.members[:, chosen])
    score = scores(adata, made, score_key).to_numpy(dtype=np.float64)[:, chosen]
    saliency = _saliency(adata, saliency_key, labels) if method == "saliency" else None
    # a graph of the user's knows which spots are neighbours, wherever they lie
    found = sections_of(adata, section_key, concepts_key=concepts_key, tested=False, check_stacked=graph_key is None)
    sections = found.codes
    model_null = _null(adata, null, sections, graph_key)

    layer = layer if layer is not None else (made.params.get("layer") or None)
    data = Expression.open(adata, layer, float(made.params["target_sum"]))
    usable = informative(data.totals)
    gradient = _gradient(adata, made, labels)
    label_target = np.where(members.members < 0, np.nan, members.members).astype(np.float64)
    label_target[~usable] = np.nan
    score[~usable] = np.nan
    separation = np.full(len(names), np.nan)
    if target == "auto" and made.params["kind"] in ("groupby", "mask"):
        doubted = float(made.params.get("label_error", 0.0)) > DOUBT_ABOVE
        targets, separation = choose_target(score, label_target, doubted=doubted)
    else:
        targets = ["score" if target == "auto" else target] * len(names)
    # "both" only ranks: what is tested is the label, which no gene is a part of
    by_score = np.array([t == "score" for t in targets])
    y = np.where(by_score, score, label_target)
    # a gene is tested against the score less its own part of it
    own_weights = None if gradient is None else np.where(by_score, gradient, 0.0)
    # one count of a nearly empty spot, scaled to full depth, would outweigh a layer
    sides = SideSums(members.inside & usable[:, None], members.outside & usable[:, None], adata.n_vars)
    x = RowStream(data.shape, sides.watching(data.read), shared=size() > 1)
    if model_null.rereads and n_null and size() == 1 and data.shape[0] <= _HOLD_BELOW:
        x = RowStream.of(sp.vstack([block for _, block in x.read()], format="csr"))
    tested = association_test(x, y, model_null, n_null=n_null, own_weights=own_weights, seed=seed)
    statistic = tested.correlation if saliency is None else saliency
    both = np.flatnonzero([t == "both" for t in targets])
    if saliency is None and both.size:
        mean = mixed(score[:, both], label_target[:, both])
        statistic = statistic.copy()
        statistic[:, both] = association_test(x, mean, "none", sections=sections).correlation
    lfc, pct_in, pct_out = (v.T for v in sides.result())
    tables = {
        "z": tested.z,
        "pval": tested.pval,
        "pval_greater": tested.pval_greater,
        "qval": tested.qval,
        "qval_all": tested.qval_all,
        "lfc": lfc,
        "pct_in": pct_in,
        "pct_out": pct_out,
    }
    if tested.pval_empirical is not None:
        tables["pval_empirical"] = tested.pval_empirical
    if model_null is not None and found.several:
        _, agreed = association_by_section(x, y, model_null, own_weights=own_weights)
        tables |= {
            "z_combined": agreed.z,
            "n_sections": agreed.n_sections.astype(np.float64),
            "sign_consistency": agreed.sign_consistency,
        }
    group_key = concept_slot(KEYS.GROUP, concepts_key)
    groupby = made.params.get("groupby") or group_key
    params: dict[str, Any] = {
        "groupby": groupby,
        "reference": made.params.get("reference", "rest"),
        "method": method,
        "use_raw": False,
        "corr_method": "benjamini-hochberg",
        "null": model_null.name,
        "n_null": int(n_null),
        "seed": int(seed),
        "target": np.array(targets, dtype=object),
        "score_auroc": np.nan_to_num(separation, nan=-1.0),
        "concepts": np.array(names, dtype=object),
        "model": made.model,
        "section_key": found.key,
        "section_source": found.how,
        "graph_key": graph_key or "",
        "graph": "none" if not model_null.needs_positions else "obsp" if graph_key is not None else "coordinates",
        "concepts_key": concepts_key,
        "saliency_key": saliency_key,
    }
    if layer is not None:
        params["layer"] = layer
    ranked = {"params": params} | _records(names, adata.var_names, statistic, lfc, tested)

    out = adata.copy() if copy else adata
    out.uns[key_added] = ranked
    for name in OPTIONAL_TABLES:  # of an earlier ranking, which they would outlive
        if f"{key_added}_{name}" in out.varm:
            del out.varm[f"{key_added}_{name}"]
    for name, values in tables.items():
        out.varm[f"{key_added}_{name}"] = pd.DataFrame(values, index=adata.var_names, columns=labels)
    if groupby == group_key:
        out.obs[group_key] = _group_column(members, adata.obs_names)
    return out if copy else None


def _records(
    names: list[str], var_names: pd.Index, statistic: np.ndarray, lfc: np.ndarray, tested: AssociationResult
) -> dict[str, np.ndarray]:
    """Record arrays as scanpy has them: each concept sorted by its statistic, ties by name order."""
    order = np.argsort(-np.nan_to_num(statistic, nan=-np.inf), axis=0, kind="stable")
    fields: dict[str, tuple[np.ndarray, str]] = {
        "names": (np.broadcast_to(np.asarray(var_names, dtype=object)[:, None], statistic.shape), "O"),
        "scores": (np.nan_to_num(statistic), "float32"),
        "logfoldchanges": (lfc, "float32"),
        "pvals": (tested.pval, "float64"),
        "pvals_adj": (tested.qval, "float64"),
    }
    return {
        key: np.rec.fromarrays(
            [values[order[:, j], j].astype(kind) for j in range(len(names))], dtype=[(n, kind) for n in names]
        )
        for key, (values, kind) in fields.items()
    }


def _saliency(adata: AnnData, key: str, labels: list[str]) -> np.ndarray:
    if key not in adata.varm:
        raise KeyError(f"adata.varm[{key!r}] is missing: run stc.tl.saliency(adata, model) first.")
    frame = as_frame(adata.varm[key])
    missing = [c for c in labels if c not in frame.columns]
    if missing:
        raise KeyError(f"adata.varm[{key!r}] lacks concept {missing[0]!r}: run stc.tl.saliency for it.")
    return frame[labels].to_numpy(dtype=np.float64)


def _gradient(adata: AnnData, made: ConceptSet, labels: list[str]) -> np.ndarray | None:
    """Mean gradient of each score, ``(n_vars, n_concepts)``, zero for genes that the model does not have."""
    frame = as_frame(adata.varm.get(made.slot(KEYS.GRADIENT)))
    if frame is None or not set(labels) <= set(frame.columns):
        return None
    return np.nan_to_num(frame[labels].to_numpy(dtype=np.float64))


def _null(
    adata: AnnData, null: str | type[NullModel] | NullModel, sections: np.ndarray, graph_key: str | None
) -> NullModel:
    if isinstance(null, NullModel):
        return null_model(null, adata.n_obs)
    kind = NULLS.find(null)
    if not kind.needs_positions:
        return null_model(kind, adata.n_obs, sections=sections)
    if graph_key is not None and graph_key not in adata.obsp:
        raise KeyError(f"graph_key={graph_key!r} is not in adata.obsp: run sq.gr.spatial_neighbors(adata) first.")
    graph = None if graph_key is None else adata.obsp[graph_key]
    if KEYS.SPATIAL not in adata.obsm and graph is None:
        raise ValueError(
            f"null={kind.name!r} needs the position of each spot in adata.obsm['spatial'] (or a graph in adata.obsp, "
            "named by graph_key). Without positions use null='permutation', which treats neighbouring spots as "
            "independent."
        )
    # beside a graph coordinates only serve to make tiles of large sections
    coords = positions(adata) if KEYS.SPATIAL in adata.obsm else None
    return null_model(kind, adata.n_obs, coords=coords, sections=sections, graph=graph)


def _group_column(members: Membership, index: pd.Index) -> pd.Series:
    inside = members.inside
    first = np.where(inside.any(1), inside.argmax(1), len(members.names))
    others = safe_labels([*members.names, "rest"])[-1]  # a concept may have that name
    categories = [*members.names, *([others] if (first == len(members.names)).any() else [])]
    return pd.Series(pd.Categorical.from_codes(first, categories), index=index)
