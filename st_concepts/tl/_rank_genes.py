"""`stc.tl.rank_genes_concepts`: layer markers in scanpy's own format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from anndata import AnnData

from st_concepts._counts.expression import Expression, SideSums
from st_concepts._counts.frames import as_frame
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import Sections, sections_of
from st_concepts._distributed import size
from st_concepts._names import check_filled
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS, concept_slot
from st_concepts.concepts import ConceptView
from st_concepts.models import informative
from st_concepts.stats import (
    RANKED,
    TAILS,
    TARGETS,
    Contrast,
    NullModel,
    Tail,
    Targets,
    association_by_section,
    association_test,
    find_null,
    null_model,
)
from st_concepts.tl._concept_test import warn_of_clusters
from st_concepts.tl._ranking import Ranking

# spots up to which a matrix is held for shuffled copies, which would otherwise be read for every few of them
_HOLD_BELOW = 20_000
STATISTICS = ("pattern", "saliency")


@writes
def rank_genes_concepts(
    adata: AnnData,
    *,
    concepts: Sequence[str] | str | None = None,
    method: Literal["pattern", "saliency"] = "pattern",
    null: str | type[NullModel] | NullModel = "moran",
    target: Literal["auto", "score", "both", "label"] = "auto",
    tail: Tail = "normal",
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
) -> Result:
    """Rank the genes of every concept, with p-values that allow for spatial correlation.

    Genes are compared as Pearson residuals of their counts, which depth does not drive. The *pattern* statistic is the
    sum of two t-like numbers: Welch's t between the spots inside and outside the layer, weighted by how surely they
    are (``obsm["concept_weight"]``), and the correlation with the concept score times the square root of the number of
    spots. ``method="saliency"`` ranks by what the model reads instead; the p-values remain the same.

    A gene is called a marker of a layer if the layer is there, and the gene goes with it: its p-value is the larger one
    of the concept's (see ``stc.tl.concepts``) and of its own, against the score of the spot alone less the gene's part
    in it (intersection-union; Berger 1982).

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
        What genes are tested against and ranked by. ``"auto"``: tested against the score, ranked by labels and score
        together; by the score alone where no labels defined the concept. ``"score"``: tested and ranked by it.
        ``"label"``: tested against inside or outside on the labelled spots, ranked by Welch's t between them, which
        asks nothing of the concept. ``"both"``: ranked as ``"auto"``, tested as ``"label"``.
    tail
        ``"normal"``, or ``"skewed"``: a Pearson III tail for sparse genes in small layers, whose normal tail is too
        light; it costs power elsewhere.
    n_null
        Null copies for the empirical p-values; 0 for none. The other p-values come from the closed form of the null.
    section_key
        Column of ``adata.obs`` with the section of each spot. By default the ``section_key`` of the model, then
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
        ``pvals`` (two-sided), ``pvals_adj`` (Benjamini-Hochberg within the concept); and ``params``, which say what was
        tested (``target``) and how genes are ranked (``ranked_by``), and hold the ``section_key`` and the ``graph``
        that were used (``"coordinates"``, ``"obsp"`` by ``graph_key``, ``"none"``).
    ``varm["rank_genes_concepts_<table>"]``
        float64 DataFrames, genes x concepts: ``z``, ``pval``, ``pval_greater`` (one-sided: higher inside), ``qval``,
        ``qval_all`` (over all concepts), ``pval_programme`` (the gene's own p-value: it goes with this axis of
        expression, whether or not the axis is the layer), ``lfc``, ``pct_in``, ``pct_out`` (share of spots in which the
        gene is seen), and ``pval_empirical`` where ``n_null > 0`` (counted for the gene alone). With several sections
        also ``z_combined`` (Stouffer's z of the sections tested apart), ``n_sections`` (in which the concept varies)
        and ``sign_consistency`` (share of them that agree in sign with the combined z).
    ``obs["concept_group"]``
        Only for concepts that no column defines: the concept that each spot is inside of, for scanpy's plots.

    Raises
    ------
    KeyError
        No concepts yet, a missing column or slot.
    ValueError
        ``null="moran"`` without coordinates, or with such as cannot be; sections that lie on each other and that no
        column tells apart; unknown option; X is neither counts nor log-normalised.

    Warns
    -----
    UserWarning
        The labels are clusters that were found in these counts.

    References
    ----------
    Lause, Berens & Kobak 2021, Genome Biology 22:258 (residuals); Haufe et al. 2014, NeuroImage 87:96 (patterns);
    Wagner & Dray 2015, Methods Ecol. Evol. 6:1169 (null).

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
    _check_options(method=(method, STATISTICS), target=(target, ("auto", *TARGETS)), tail=(tail, TAILS))
    check_filled(concepts=concepts)
    view = ConceptView.read(adata, concepts_key, concepts, score_key)
    made = view.made
    saliency_key = saliency_key or concept_slot(KEYS.SALIENCY, concepts_key)
    saliency = _saliency(adata, saliency_key, view.labels) if method == "saliency" else None
    # a graph of the user's knows which spots are neighbours, wherever they lie
    found = sections_of(adata, section_key, concepts_key=concepts_key, tested=False, check_stacked=graph_key is None)
    model_null = _null(adata, null, found.codes, graph_key)

    layer = made.layer if layer is None else layer
    warn_of_clusters(adata, made.groupby or "", layer)
    data = Expression.open(adata, layer, float(made.params["target_sum"]))
    usable = informative(data.totals)
    defined = made.params["kind"] in ("groupby", "mask")
    targets = Targets.choose(target, view.alone, view.given_labels, usable, defined=defined)
    # one count of a nearly empty spot, scaled to full depth, would outweigh a layer
    sides = SideSums(view.members.inside & usable[:, None], view.members.outside & usable[:, None], adata.n_vars)
    contrast = _contrast(view, targets, usable, found.codes, adata.n_vars)
    x = contrast.watching(data.residuals(usable, sides=sides))
    if model_null.rereads and n_null > 0 and size() == 1 and data.shape[0] <= _HOLD_BELOW:
        x = x.held()
    options: dict[str, Any] = {"tail": tail, "n_null": int(n_null), "seed": int(seed)}
    tests: dict[str, Any] = {"null": model_null, "own_weights": _own_weights(view, targets, data, usable)}
    tested = association_test(x, targets.tested, **tests, **options)
    agreed = association_by_section(x, targets.tested, **tests)[1] if model_null.draws and found.several else None
    ranking = Ranking(
        view,
        tested,
        statistic=_statistic(contrast, targets) if saliency is None else saliency,
        concept_pval=view.concept_pval if targets.tested_by == "score" and defined else None,
        sides=sides.result(),
        agreed=agreed,
        params={"method": method, "concepts_key": concepts_key, "saliency_key": saliency_key}
        | options
        | _how(targets, model_null, found, graph_key)
        | ({} if layer is None else {"layer": layer}),
    )
    return ranking.result(adata, key_added or concept_slot(KEYS.RANK, concepts_key))


def _check_options(**options: tuple[str, Sequence[str]]) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; choose one of: {', '.join(map(repr, known))}.")


def _how(targets: Targets, null: NullModel, found: Sections, graph_key: str | None) -> dict[str, Any]:
    """What was tested against what, in a form that files keep."""
    return {
        "null": null.name,
        "target": targets.tested_by,
        "ranked_by": RANKED[targets.ranked_by],
        "section_key": found.key,
        "section_source": found.how,
        "graph_key": graph_key or "",
        "graph": "none" if not null.needs_positions else "obsp" if graph_key is not None else "coordinates",
    }


def _contrast(view: ConceptView, targets: Targets, usable: np.ndarray, sections: np.ndarray, n_vars: int) -> Contrast:
    inside, outside = (side * usable[:, None] for side in view.sides)
    if targets.ranked_by == "label":
        inside, outside = (
            (side & usable[:, None]).astype(float) for side in (view.members.inside, view.members.outside)
        )
    return Contrast(inside, outside, np.where(usable[:, None], view.scores, np.nan), sections, n_vars)


def _statistic(contrast: Contrast, targets: Targets) -> np.ndarray:
    if targets.ranked_by == "score":
        return contrast.correlation()
    return contrast.welch() if targets.ranked_by == "label" else contrast.both()


def _own_weights(view: ConceptView, targets: Targets, data: Expression, usable: np.ndarray) -> np.ndarray | None:
    """A gene is tested against the score less its own part of it, in units of what is tested."""
    if targets.tested_by == "label" or view.gradient is None:
        return None
    return view.gradient * data.feature_slope(usable)[:, None]


def _saliency(adata: AnnData, key: str, labels: list[str]) -> np.ndarray:
    if key not in adata.varm:
        raise KeyError(f"adata.varm[{key!r}] is missing: run stc.tl.saliency(adata, model) first.")
    frame = as_frame(adata.varm[key])
    missing = [c for c in labels if c not in frame.columns]
    if missing:
        raise KeyError(f"adata.varm[{key!r}] lacks concept {missing[0]!r}: run stc.tl.saliency for it.")
    return frame[labels].to_numpy(dtype=np.float64)


def _null(
    adata: AnnData, null: str | type[NullModel] | NullModel, sections: np.ndarray, graph_key: str | None
) -> NullModel:
    if isinstance(null, NullModel):
        return null_model(null, adata.n_obs)
    kind = find_null(null)
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
