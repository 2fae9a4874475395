"""`stc.tl.concepts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._names import as_names
from st_concepts._results import Result, gene_frame, writes
from st_concepts._slots import KEYS, concept_slot
from st_concepts.attribution import concept_gradients
from st_concepts.concepts import (
    ConceptSet,
    ContextOption,
    Defined,
    Estimator,
    Place,
    check_context,
    check_names,
    definition_of,
    from_scores,
    get_estimator,
    place_of,
    score_frame,
)
from st_concepts.models import Section, model_info
from st_concepts.tl._concept_test import tested, warn_of_doubtful


@writes
def concepts(
    adata: AnnData,
    model: Any,
    groupby: str | None = None,
    *,
    groups: Sequence[str] | str | None = None,
    reference: str | Sequence[str] = "rest",
    missing: Sequence[str] | str | None = None,
    mask: Mapping[str, Any] | Sequence[bool] | np.ndarray | pd.Series | str | None = None,
    genes: Mapping[str, Sequence[str]] | Sequence[str] | str | None = None,
    vectors: Mapping[str, np.ndarray] | np.ndarray | None = None,
    estimator: str | Estimator = "discriminant",
    unlabelled: Literal["learn", "ignore"] = "learn",
    context: ContextOption = "auto",
    section_key: str | None = None,
    graph_key: str | None = None,
    n_null: int = 999,
    seed: int = 0,
    layer: str | None = None,
    key_added: str = KEYS.CONCEPTS,
    score_key: str | None = None,
    copy: bool = False,
) -> Result:
    """Define concepts and score every spot.

    A concept is a vector ``v`` in latent space; its score at a spot is ``v . mu(x)``, centred and divided by its
    standard deviation over the spots (Brocki & Chung 2019). Give exactly one of ``groupby``, ``mask``, ``genes`` and
    ``vectors``.

    Parameters
    ----------
    adata
        Raw counts, ``n_obs`` spots.
    model
        A fitted `SpotVAE`, an scvi-tools model, or any encoder.
    groupby
        Column of ``adata.obs`` with the layer of each spot; missing values are unlabelled spots, which are allowed and
        help. A boolean column makes one concept of that name.
    groups
        Labels to make concepts of; by default all.
    reference
        What each label is compared with: ``"rest"``, all other labelled spots, or a label or several; a label that is
        called rest is meant by ``["rest"]``.
    missing
        Words of ``groupby`` that mean missing, in any case, in place of `st_concepts.io.MISSING` (``"nan"``, ``"NA"``,
        ``"unknown"``, ``"unassigned"`` and so on); ``[]`` for none. A word named in ``groups`` or ``reference`` is a
        label.
    mask
        Boolean per spot (missing values allowed), a column name, or several by name.
    genes
        Seed genes: each becomes a concept ``"<gene>-like"``, or name sets of genes: ``{"granule": ["Penk", "Pcp4"]}``.
        The vector is the latent direction that follows their mean standardised expression.
    vectors
        Your own vectors by name, or an array ``(n_concepts, n_latent)``.
    estimator
        ``"discriminant"`` (regularised linear discriminant), ``"mean_difference"`` (the paper's), ``"logistic"``, or
        one of your own, see `stc.concepts.register`.
    unlabelled
        ``"learn"``: spots without a label are assigned to layers softly and help to place the vectors (with estimators
        that take weights), and labels count as far as they can be predicted from the other labels: no threshold
        overrules them. ``"ignore"``: labelled spots alone count, as given.
    context
        How far around a spot its concepts look. A layer is a place: with the average latent position of the
        surroundings beside the spot's own, layers separate far better in most tissues. A number is the width of that
        average in steps of a random walk over neighbouring spots; 0 is the spot alone. ``"auto"``: with more than 20
        labelled spots a layer (in the median), the width out of 0, 3, 10 and 30 that tells held-out tiles of the tissue
        best; with fewer, 10; without positions, and for ``genes`` and ``vectors``, 0.
    section_key
        Column of ``adata.obs`` with the section of each spot; sections have no neighbours in common. By default as in
        `st_concepts.tl.rank_genes_concepts`.
    graph_key
        Entry of ``adata.obsp`` that says which spots are neighbours, for example ``"spatial_connectivities"``; by
        default a graph is made from ``obsm["spatial"]``.
    n_null, seed
        Null copies for the test of each concept, and their seed; 0 for no test.
    layer
        Layer with the counts; by default that of the model.
    key_added, score_key
        Where to write. A second set of concepts, under another ``key_added``, gets slots of its own:
        ``key_added="seeds"`` writes ``obsm["seeds_score"]``, ``obsm["seeds_members"]`` and so on.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``uns["concepts"]``
        dict: names, vectors, centre and scale of the scores, what the model is (with its fingerprint), parameters. For
        concepts made of labels also ``test``: per concept the ``statistic`` (how far the latent space explains its
        labels), ``null_mean``, ``null_sd`` and ``pval`` (against labels of the same spatial pattern that mean nothing,
        see `stc.stats.concept_test`; shuffled labels without positions), and a ``joint_pval`` of the whole labelling.
    ``obsm["concept_score"]``
        float32 DataFrame, spots x concepts.
    ``obsm["concept_score_alone"]``
        The same by what concepts see in the spot itself, where they see its surroundings too. Genes are tested against
        this.
    ``obsm["concept_members"]``
        int8 DataFrame, spots x concepts: 1 inside, 0 outside, -1 neither.
    ``obsm["concept_weight"]``
        float32 DataFrame, spots x concepts, with ``unlabelled="learn"``: how much a spot counts as inside, 0 to 1, when
        genes are ranked.
    ``varm["concept_gradient"]``, ``varm["concept_gradient_alone"]``
        float32 DataFrame, genes x concepts: mean gradient of each score over all spots, per unit of the model's
        features: log1p of size-normalised counts for `SpotVAE`, log1p of *raw* counts for scvi-tools models (the counts
        themselves with ``log_variational=False``), so the two are not compared number by number; NaN for genes the
        model does not have.

    Raises
    ------
    KeyError
        ``groupby`` is not a column, a seed gene is not in the model.
    ValueError
        Nothing or several things to define concepts with; a label without spots; only one label; measurements or names
        instead of labels; labels that cannot be told apart or kept.

    Warns
    -----
    UserWarning
        Fewer than three labelled spots in a concept; concepts that fail their test; positions that cannot be used;
        words taken as missing; labels that differ little.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> list(adata.obsm["concept_score"])
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL']
    """
    if unlabelled not in ("learn", "ignore"):
        raise ValueError(f"unlabelled={unlabelled!r} is unknown; use 'learn' or 'ignore'.")
    ways: dict[str, Any] = {"groupby": groupby, "mask": mask, "genes": genes, "vectors": vectors}
    how: dict[str, Any] = {"groups": groups, "reference": reference, "missing": missing}
    check_context(context)
    definition = definition_of(adata, **ways, **how, learn=unlabelled == "learn")
    record = get_estimator(estimator)
    section = Section.open(adata, model, layer=layer)
    looked = context if definition.looks_around else 0.0
    place = place_of(section, looked, section_key=section_key, graph_key=graph_key)
    defined = definition.define(section, record, place.seen, looked)
    made = ConceptSet.of(
        check_names(defined.names),
        defined.vectors,
        section.embedding.latent[section.embedding.usable],
        around=place.seen.average(defined.width) if defined.width else None,
        alone=defined.alone,
        width=defined.width,
        model=section.encoder.fingerprint,
        params={
            "kind": definition.kind,
            "groupby": "",
            "reference": ", ".join(as_names(reference)),
            "estimator": record.name,
            "layer": section.layer or "",
            "target_sum": section.target_sum,
            "key": key_added,
            "score_key": score_key or concept_slot(KEYS.SCORE, key_added),
            "section_key": place.sections.key
            if section_key is not None
            else str(getattr(section.encoder, "section_key", None) or ""),
            "graph_key": graph_key or "",
        }
        | defined.params,
        model_info=model_info(section.encoder),
    )
    if defined.membership is not None:
        test = tested(adata, defined.membership, place, graph_key=graph_key, n_null=n_null, seed=seed)
        warn_of_doubtful(defined.names, test)
        made = replace(made, test=test)
    return _result(section, made, defined, place)


def _result(section: Section, made: ConceptSet, defined: Defined, place: Place) -> Result:
    adata, found, soft = section.adata, section.embedding, defined.soft
    around = place.around if made.context is not None else None
    named = defined.membership or from_scores(made.names, made.score(found.latent, around))
    if defined.membership is not None:
        made = replace(made, n_labelled=named.inside.sum(0))
    if defined.auroc is not None:
        made = replace(made, params=made.params | {"auroc": defined.auroc})
    index = adata.obs_names.rename(None)  # a label may be called like the index
    frames = {
        str(made.params["score_key"]): score_frame(made, found.latent, adata.obs_names, around),
        made.slot(KEYS.MEMBERS): pd.DataFrame(named.members, index=index, columns=made.labels),
    }
    if made.context is not None:
        frames[made.slot(KEYS.SCORE_ALONE)] = score_frame(made, found.latent, adata.obs_names)
    if soft is not None:
        weights = np.zeros((adata.n_obs, len(made.names)), dtype=np.float32)
        weights[found.usable] = soft.weights
        frames[made.slot(KEYS.WEIGHT)] = pd.DataFrame(weights, index=index, columns=made.labels)
    gradients = {
        made.slot(slot): gene_frame(values, section.encoder.var_names, adata.var_names, made.labels)
        for slot, values in concept_gradients(section, made, around).items()
    }
    doubt: dict[str, np.ndarray] = {}
    if defined.labelling is not None:
        found_out = defined.labelling.calibrate(place.seen)
        made = replace(made, calibration=found_out.calibration)
        if soft is not None and found_out.disagreement is not None:
            doubt[made.slot(KEYS.DISAGREEMENT)] = np.full(adata.n_obs, np.nan, dtype=np.float32)
            doubt[made.slot(KEYS.DISAGREEMENT)][found.usable] = found_out.disagreement
    return Result(
        obs=doubt,
        obsm=frames,
        varm=gradients,
        uns={str(made.params["key"]): made.to_uns()},
        stale=[("obs", made.slot(slot)) for slot in (KEYS.DISAGREEMENT, KEYS.LABEL)]
        + [("obsm", made.slot(KEYS.PROBABILITY))]
        + ([] if soft is not None else [("obsm", made.slot(KEYS.WEIGHT))])
        + ([] if made.context is not None else made.alone_slots),
    )
