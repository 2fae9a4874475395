"""`stc.tl.concepts`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import column, drop_column
from st_concepts._counts.labels import Labels, clean_labels, is_boolean, missing_words
from st_concepts._distributed import all_sum
from st_concepts._names import as_names, unknown_name
from st_concepts._slots import KEYS, concept_slot
from st_concepts.attribution import Batch, group_attributions
from st_concepts.concepts import (
    ESTIMATORS,
    ConceptSet,
    Estimator,
    Membership,
    SoftLabels,
    from_labels,
    from_masks,
    from_scores,
    get_estimator,
    score_frame,
    soft_labels,
)
from st_concepts.concepts._membership import asked_for, check_names
from st_concepts.models import Encoder
from st_concepts.models._info import model_info
from st_concepts.tl._common import as_encoder, check_copy, check_filled, counts_layer, embed_all, informative, stream


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
    layer: str | None = None,
    key_added: str = KEYS.CONCEPTS,
    score_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
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
        ``"learn"``: with the discriminant and the layers of ``groupby``, spots without a label are assigned to layers
        softly and help to place the vectors, and labels that the expression contradicts in more than a fifth of the
        spots are no longer taken at their word (a warning says so). ``"ignore"``: labelled spots alone count, as given.
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
        dict: names, vectors, centre and scale of the scores, what the model is (with its fingerprint), parameters.
    ``obsm["concept_score"]``
        float32 DataFrame, spots x concepts.
    ``obsm["concept_members"]``
        int8 DataFrame, spots x concepts: 1 inside, 0 outside, -1 neither.
    ``obs["concept_disagreement"]``
        float32, where layers were learned from: probability that the label of a spot is wrong, NaN where unlabelled.
    ``varm["concept_gradient"]``
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
        Fewer than three labelled spots in a concept; labels that the expression contradicts; words taken as missing;
        labels that differ little.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> list(adata.obsm["concept_score"])
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL']
    """
    given = [
        n for n, v in (("groupby", groupby), ("mask", mask), ("genes", genes), ("vectors", vectors)) if v is not None
    ]
    check_copy(adata, copy)
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of groupby, mask, genes and vectors to define concepts; got "
            f"{' and '.join(given) or 'none'}."
        )
    check_filled(groups=groups, mask=mask, genes=genes, vectors=vectors)
    groups = [groups] if isinstance(groups, str) else groups
    if unlabelled not in ("learn", "ignore"):
        raise ValueError(f"unlabelled={unlabelled!r} is unknown; use 'learn' or 'ignore'.")
    score_key = score_key or concept_slot(KEYS.SCORE, key_added)
    record = get_estimator(estimator)
    encoder = as_encoder(model)
    layer = counts_layer(adata, encoder, layer)
    kind = given[0]
    named, labels = None, None
    if kind in ("groupby", "mask"):
        named, labels = _membership(adata, groupby, groups, reference, mask, missing)
    if kind == "groupby" and labels is None:
        kind = "mask"

    latent, totals = embed_all(adata, encoder, layer)
    usable = informative(totals)
    z = latent[usable].astype(np.float64)
    soft: SoftLabels | None = None
    if named is not None:
        names = named.names
        sides = [_sides(named, j, usable) for j in range(len(names))]
        learns = unlabelled == "learn" and isinstance(reference, str) and reference == "rest"
        if learns and kind == "groupby" and labels is not None and record.takes_weights:
            soft, sides = _learn(labels, str(groupby), named, z, usable)
        raw = np.stack([record.function(z, inside, outside) for inside, outside in sides])
    elif genes is not None:
        if record.follow is None:
            able = " or ".join(repr(e.name) for e in ESTIMATORS.values() if e.follow is not None)
            raise ValueError(f"Seed genes are a continuous target: use estimator={able}.")
        sets = _gene_sets(genes, encoder.var_names)
        names = list(sets)
        targets = _seed_expression(adata, encoder, layer, list(sets.values()))[usable]
        raw = np.stack([record.follow(z, t) for t in targets.T])
    else:
        names, raw = _given_vectors(vectors, encoder.n_latent)
    names = check_names(names)

    projected = z @ raw.T
    scale = projected.std(0)
    if (scale <= 0).any() or not np.isfinite(scale).all():
        bad = names[int(np.flatnonzero((scale <= 0) | ~np.isfinite(scale))[0])]
        raise ValueError(f"The score of concept {bad!r} is the same at every spot; its vector carries no information.")
    made = ConceptSet(
        names=names,
        vectors=raw.astype(np.float32),
        center=projected.mean(0),
        scale=scale,
        model=encoder.fingerprint,
        params={
            "kind": kind,
            "groupby": groupby if kind == "groupby" else "",
            "reference": ", ".join(as_names(reference)),
            "estimator": record.name,
            "layer": layer or "",
            "target_sum": float(getattr(encoder, "target_sum", np.median(totals[totals > 0]))),
            "key": key_added,
            "score_key": score_key,
            "section_key": getattr(encoder, "batch_key", None) or "",
        }
        | asked(reference, missing)
        | ({"label_error": soft.label_error} if soft is not None and np.isfinite(soft.label_error) else {}),
        n_labelled=named.inside.sum(0) if named is not None else np.zeros(len(names), dtype=np.int64),
        model_info=model_info(encoder),
    )
    if named is None:
        named = from_scores(names, made.score(latent))
    gradient = mean_gradient(adata, encoder, layer, made)

    out = adata.copy() if copy else adata
    out.uns[key_added] = made.to_uns()
    out.obsm[score_key] = score_frame(made, latent, adata.obs_names)
    index = adata.obs_names.rename(None)  # a label may be called like the index
    out.obsm[made.slot(KEYS.MEMBERS)] = pd.DataFrame(named.members, index=index, columns=made.labels)
    out.varm[made.slot(KEYS.GRADIENT)] = gene_frame(gradient, encoder.var_names, adata.var_names, made.labels)
    if soft is not None:
        disagreement = np.full(adata.n_obs, np.nan, dtype=np.float32)
        disagreement[usable] = soft.disagreement
        out.obs[made.slot(KEYS.DISAGREEMENT)] = disagreement
    elif made.slot(KEYS.DISAGREEMENT) in out.obs:
        drop_column(out, made.slot(KEYS.DISAGREEMENT))
    return out if copy else None


def gene_frame(values: np.ndarray, var_names: pd.Index, wanted: pd.Index, labels: list[str]) -> pd.DataFrame:
    """``(n_concepts, genes of the model)`` as a float32 DataFrame of ``wanted`` genes x concepts, NaN where unknown."""
    frame = pd.DataFrame(np.asarray(values.T, dtype=np.float32), index=var_names, columns=labels)
    return frame.reindex(wanted.astype(str)).set_axis(wanted.rename(None), axis=0)


def asked(reference: str | Sequence[str], missing: Sequence[str] | str | None) -> dict[str, np.ndarray]:
    """What is kept with concepts of how labels were read, where that is not the default."""
    out = {}
    if labels := asked_for(None, reference):
        out["reference_labels"] = np.array(labels, dtype=object)
    if missing is not None:
        out["missing"] = np.array(sorted(missing_words(missing)), dtype=object)
    return out


def _membership(
    adata: AnnData,
    groupby: str | None,
    groups: Sequence[str] | str | None,
    reference: str | Sequence[str],
    mask: Any,
    missing: Sequence[str] | str | None,
) -> tuple[Membership, Labels | None]:
    """Inside and outside of each concept, and the labels where it was labels that said so."""
    if isinstance(mask, str):
        groupby, mask = mask, None
    if groupby is not None:
        values = obs_column(adata, groupby)
        if not is_boolean(values):
            labels = clean_labels(
                values,
                missing=missing,
                keep=asked_for(groups, reference),
                where=f"adata.obs[{groupby!r}]",
                names_allowed=groups is not None,
            )
            found = from_labels(labels, groups=groups, reference=reference)
            # words that were named here need no remark
            for remark in labels.said() if missing is None else labels.remarks:
                warnings.warn(f"adata.obs[{groupby!r}]: {remark}.", UserWarning, stacklevel=3)
            return found.check(), labels
        mask = {groupby: values}
    if not isinstance(mask, Mapping):
        mask = {"concept": mask}
    return from_masks(mask, adata.n_obs).check(), None


def obs_column(adata: AnnData, groupby: str) -> pd.Series:
    """``adata.obs[groupby]``, with a `KeyError` that says what there is."""
    if groupby in adata.obs:
        return column(adata.obs, groupby)
    have = list(map(str, adata.obs.columns))
    close = difflib.get_close_matches(str(groupby), have, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise KeyError(f"{groupby!r} is not a column of adata.obs (it has: {', '.join(have) or 'none'}).{hint}")


def _sides(named: Membership, j: int, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside, outside = named.inside[usable, j], named.outside[usable, j]
    if not inside.any() or not outside.any():
        raise ValueError(f"The labelled spots of concept {named.names[j]!r} have almost no counts; label others.")
    return inside, outside


def _learn(
    labels: Labels, groupby: str, named: Membership, z: np.ndarray, usable: np.ndarray
) -> tuple[SoftLabels, list[tuple[np.ndarray, np.ndarray]]]:
    """Soft class weights of the usable spots, and the sides of each concept that follow from them."""
    soft = soft_labels(z, labels.codes[usable], len(labels.names))
    if soft.doubted:
        warnings.warn(
            f"Expression contradicts about {soft.label_error:.0%} of the labels in {groupby!r}; the concepts rest "
            f"on what it says instead. obs[{KEYS.DISAGREEMENT!r}] marks the spots; unlabelled='ignore' takes labels as "
            "given.",
            UserWarning,
            stacklevel=3,
        )
    weights = soft.weights
    total = weights.sum(1)
    picked = [labels.names.index(n) for n in named.names]
    return soft, [(weights[:, c], total - weights[:, c]) for c in picked]


def _gene_sets(genes: Any, var_names: pd.Index) -> dict[str, list[str]]:
    if isinstance(genes, Mapping):
        sets = {str(k): as_names(v) for k, v in genes.items()}
    else:
        sets = {f"{g}-like": [g] for g in as_names(genes)}
    for name, members in sets.items():
        unknown = [g for g in members if g not in var_names]
        if unknown or not members:
            hint = f" The model's genes are called like {str(var_names[0])!r}." if unknown else ""
            if unknown and (meant := unknown_name(unknown[0], var_names)).endswith("?"):
                hint += meant[meant.rindex(" Did you mean") :]
            raise KeyError(
                f"Seed genes of {name!r} that the model does not have: {', '.join(unknown) or 'no gene'}.{hint}"
            )
    return sets


def _seed_expression(adata: AnnData, encoder: Encoder, layer: str | None, sets: list[list[str]]) -> np.ndarray:
    """Mean standardised features of each set, float64 ``(n_obs, n_sets)``."""
    every = sorted({g for s in sets for g in s})
    columns = encoder.var_names.get_indexer(every)
    values = np.zeros((adata.n_obs, len(every)))
    for rows, features, _, _ in stream(adata, encoder, layer, share=True):
        values[rows] = features[:, columns].toarray() if hasattr(features, "toarray") else features[:, columns]
    (values,) = all_sum(values)
    sd = values.std(0)
    flat = [g for g, s in zip(every, sd, strict=True) if s == 0]
    if flat:
        raise ValueError(f"Seed gene {flat[0]!r} has the same expression at every spot; choose another.")
    values = (values - values.mean(0)) / sd
    return np.stack([values[:, [every.index(g) for g in s]].mean(1) for s in sets], axis=1)


def _given_vectors(vectors: Any, n_latent: int) -> tuple[list[str], np.ndarray]:
    if isinstance(vectors, Mapping):
        names, rows = [str(k) for k in vectors], [np.asarray(v, dtype=np.float64).ravel() for v in vectors.values()]
    else:
        rows = list(np.atleast_2d(np.asarray(vectors, dtype=np.float64)))
        names = [f"concept_{i}" for i in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        if row.shape != (n_latent,) or not np.isfinite(row).all():
            raise ValueError(
                f"Vector {name!r} must hold {n_latent} finite numbers, one per latent dimension; got shape {row.shape}."
            )
    return names, np.stack(rows)


def mean_gradient(adata: AnnData, encoder: Encoder, layer: str | None, made: ConceptSet) -> np.ndarray:
    """Mean gradient of each score over all spots, float64 ``(n_concepts, genes of the model)``."""
    batches = (
        Batch(features, np.ones((features.shape[0], 1)), codes)
        for _, features, _, codes in stream(adata, encoder, layer, share=True)
    )
    return group_attributions(encoder, batches, method="gradient", concepts=made.directions, shared=True).values[0]
