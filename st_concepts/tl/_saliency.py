"""`stc.tl.saliency` (genes x concepts) and `stc.tl.saliency_map` (spots x genes of one concept)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._keys import KEYS, saliency_layer
from st_concepts.attribution import (
    Batch,
    Options,
    get_method,
    group_attributions,
    profile_baseline,
    spot_attributions,
)
from st_concepts.concepts import ConceptSet, Membership, read_concepts
from st_concepts.models import Encoder
from st_concepts.tl._common import as_encoder, counts_layer, membership, stream
from st_concepts.tl._concepts import gene_frame

Baseline = str | np.ndarray | pd.Series
_DOC_BASELINE = ("others", "mean", "zero")


def saliency(
    adata: AnnData,
    model: Any,
    *,
    method: str = "integrated_gradients",
    concepts: Sequence[str] | None = None,
    baseline: Baseline = "others",
    options: Options | None = None,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    key_added: str = KEYS.SALIENCY,
    copy: bool = False,
) -> AnnData | None:
    """What the model reads: mean attribution of each gene to each concept score, over the spots of the concept.

    Parameters
    ----------
    adata
        What ``stc.tl.concepts`` wrote into.
    model
        The model that the concepts were made with.
    method
        ``"gradient"``, ``"gradient_x_input"``, ``"integrated_gradients"`` or another of
        ``stc.attribution.methods_table()``.
    concepts
        Names of the concepts to explain; by default all.
    baseline
        Where path methods start: ``"others"`` (mean features of the spots outside the concept), ``"mean"`` (of all
        spots), ``"zero"`` (no expression), the name of another concept (mean of its spots), or your own profile, in
        units of log-normalised expression, a Series by gene or an array in the order of the model.
    options
        Settings of the method, such as ``stc.attribution.Options(n_steps=50)``.
    layer
        Layer with the counts; by default that of the model.
    concepts_key, key_added
        Where to read and write.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``varm["concept_saliency"]``
        float32 DataFrame, genes x concepts, signed, in units of the concept score: integrated gradients of a concept
        sum to the difference of mean score between its spots and the baseline. NaN for genes the model does not have.
    ``uns["concept_saliency"]``
        dict: parameters, and per concept the attribution sum and score difference (completeness).

    Raises
    ------
    ValueError
        Unknown method; concepts of another model.
    KeyError
        No concepts yet; unknown concept.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.saliency(adata, model)
    >>> adata.varm["concept_saliency"].shape
    (150, 5)
    """
    encoder, made, layer = _open(adata, model, layer, concepts_key)
    record = get_method(method)
    chosen = list(range(len(made.names))) if concepts is None else [made.index(c) for c in concepts]
    members = membership(adata, made)
    inside = members.inside[:, chosen]
    base = None
    if record.needs_baseline:
        base = np.stack([_baseline(adata, encoder, layer, made, members, j, baseline) for j in chosen])

    def batches() -> Iterator[Batch]:
        for rows, features, _, codes in stream(adata, encoder, layer):
            yield Batch(features, inside[rows].astype(np.float64), codes)

    result = group_attributions(
        encoder,
        batches(),
        method=record,
        concepts=made.directions[chosen],
        paired=True,
        baselines=base,
        options=options,
    )
    values = result.values[:, 0]
    labels = [made.labels[j] for j in chosen]
    report: dict[str, Any] = {
        "params": {
            "method": record.name,
            "baseline": baseline if isinstance(baseline, str) else "profile",
            "model": encoder.fingerprint,
            "path": result.path,
            "n_steps": int((options or Options()).n_steps),
        },
        "names": np.array([made.names[j] for j in chosen], dtype=object),
        "attribution_sum": values.sum(1),
    }
    if result.score_difference is not None:
        report["score_difference"] = result.score_difference[:, 0]
    out = adata.copy() if copy else adata
    out.varm[key_added] = gene_frame(values, encoder.var_names, adata.var_names, labels)
    out.uns[key_added] = report
    return out if copy else None


def saliency_map(
    adata: AnnData,
    model: Any,
    *,
    concept: str,
    genes: Sequence[str] | str,
    method: str = "integrated_gradients",
    baseline: Baseline = "others",
    options: Options | None = None,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Attribution of chosen genes to one concept score, spot by spot.

    Parameters
    ----------
    adata
        What ``stc.tl.concepts`` wrote into.
    model
        The model that the concepts were made with.
    concept
        Name of the concept.
    genes
        Genes to map. Only their columns are filled.
    method, baseline, options, layer, concepts_key
        As in `saliency`.
    key_added
        Layer to write; ``"concept_saliency_<concept>"`` by default.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes ``adata.layers[key_added]``, float32 CSR ``(n_obs, n_vars)``, in units of the concept
    score; draw it with ``sq.pl.spatial_scatter(adata, color=genes, layer=key_added)`` or ``stc.pl.saliency_map``.

    Raises
    ------
    KeyError
        Unknown concept or gene.
    ValueError
        Unknown method; concepts of another model.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.saliency_map(adata, model, concept="GCL", genes=adata.var_names[:2])
    >>> adata.layers["concept_saliency_GCL"].shape
    (200, 150)
    """
    encoder, made, layer = _open(adata, model, layer, concepts_key)
    record = get_method(method)
    j = made.index(concept)
    wanted = pd.Index([genes] if isinstance(genes, str) else list(genes)).astype(str)
    in_model, in_data = encoder.var_names.get_indexer(wanted), adata.var_names.astype(str).get_indexer(wanted)
    for index, where in ((in_data, "adata.var_names"), (in_model, "the model")):
        if (index < 0).any():
            raise KeyError(f"Genes that are not in {where}: {', '.join(wanted[index < 0][:5])}.")
    base = None
    if record.needs_baseline:
        base = _baseline(adata, encoder, layer, made, membership(adata, made), j, baseline)
    blocks = []
    for _, features, _, codes in stream(adata, encoder, layer):
        part = spot_attributions(
            encoder,
            features,
            made.directions[j],
            genes=in_model,
            method=record,
            codes=codes,
            baseline=base,
            options=options,
        )
        blocks.append(sp.csr_matrix(part.values, dtype=np.float32))
    columns = sp.vstack(blocks).tocoo()
    full = sp.csr_matrix((columns.data, (columns.row, in_data[columns.col])), shape=adata.shape, dtype=np.float32)
    out = adata.copy() if copy else adata
    out.layers[key_added or saliency_layer(made.labels[j])] = full
    return out if copy else None


def _open(adata: AnnData, model: Any, layer: str | None, key: str) -> tuple[Encoder, ConceptSet, str | None]:
    encoder = as_encoder(model)
    made = read_concepts(adata, key)
    made.check_model(encoder.fingerprint)
    return encoder, made, counts_layer(adata, encoder, layer or made.params.get("layer") or None)


def _baseline(
    adata: AnnData,
    encoder: Encoder,
    layer: str | None,
    made: ConceptSet,
    members: Membership,
    j: int,
    baseline: Baseline,
) -> np.ndarray:
    """Baseline features of concept ``j``, float64 ``(n_vars,)``."""
    if not isinstance(baseline, str):
        return profile_baseline(baseline, encoder.var_names)
    if baseline == "zero":
        return np.zeros(len(encoder.var_names))
    if baseline == "mean":
        weights = np.ones(adata.n_obs)
    elif baseline == "others":
        weights = members.outside[:, j].astype(float)
    elif baseline in made.names or baseline in made.labels:
        weights = members.inside[:, made.index(baseline)].astype(float)
    else:
        raise ValueError(
            f"baseline={baseline!r} is unknown; use {', '.join(map(repr, _DOC_BASELINE))}, the name of a concept "
            f"({', '.join(made.names)}), or a profile."
        )
    total = np.zeros(len(encoder.var_names))
    for rows, features, _, _ in stream(adata, encoder, layer):
        total += np.asarray(weights[rows] @ features).ravel()
    return total / weights.sum()
