"""`stc.tl.saliency`: genes x concepts, what the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from anndata import AnnData

from st_concepts._counts.check import count_matrix
from st_concepts._counts.rows import in_memory
from st_concepts._distributed import size
from st_concepts._slots import KEYS, concept_slot
from st_concepts.attribution import Method, Options, get_method
from st_concepts.attribution._explained import Baseline, Section
from st_concepts.tl._common import check_copy, check_filled
from st_concepts.tl._concepts import gene_frame
from st_concepts.tl._saliency_cache import cached_attributions

_CACHE_BELOW = 200_000  # spots up to which every latent dimension is explained at once


def saliency(
    adata: AnnData,
    model: Any,
    *,
    method: str = "integrated_gradients",
    concepts: Sequence[str] | str | None = None,
    baseline: Baseline = "others",
    options: Options | None = None,
    cache: bool | Literal["auto"] = "auto",
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    key_added: str | None = None,
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
        ``"expected_gradients"`` draws its references, at most 200, from the same spots instead of averaging them.
    options
        Settings of the method, such as ``stc.attribution.Options(n_steps=50)``.
    cache
        Compute every latent dimension at once and keep the result in memory (at most 256 MiB, never in ``adata``), so
        that another vector for the same spots, of another estimator say, costs a matrix product. What is kept belongs
        to model, counts, spots, baseline, method and options; a change in any of them computes anew. The first call
        takes about four times as long as with `False`, which computes the concepts alone and keeps nothing (integrated
        gradients, 5 concepts, 20 latent dimensions, 20,000 spots x 5,000 genes: 1.5 against 0.4 s, later calls
        0.05 s). ``"auto"`` is `True` for counts in memory of at most 200,000 spots: beyond, the first call would be
        long, and counts on the disk would be read twice. Never for methods that are not linear in the concept vector,
        nor where several processes compute together.
    layer
        Layer with the counts; by default that of the model.
    concepts_key, key_added
        Where to read and write. Another set of concepts has slots of its own: ``concepts_key="seeds"`` writes
        ``varm["seeds_saliency"]``.
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
        Unknown method or baseline (the names are listed), a method that needs ReLUs and a model without; concepts of
        another model.
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
    check_copy(adata, copy)
    check_filled(concepts=concepts)
    section = Section.open(adata, model, layer=layer, key=concepts_key)
    record, options = get_method(method), options or Options()
    chosen, made = section.chosen(concepts), section.concepts
    key_added = key_added or concept_slot(KEYS.SALIENCY, concepts_key)
    if cache == "auto":
        cache = adata.n_obs <= _CACHE_BELOW and in_memory(count_matrix(adata, section.layer))
    if cache and record.linear_in_concept and size() == 1:
        result = cached_attributions(section, chosen, method=record, baseline=baseline, options=options)
    else:
        result = section.attributions(
            chosen, method=record, baseline=baseline, options=options, directions=made.directions[chosen]
        )
    values = result.values[:, 0]
    labels = [made.labels[j] for j in chosen]
    report: dict[str, Any] = {
        "params": parameters(section, record, baseline, options, result.path),
        "names": np.array([made.names[j] for j in chosen], dtype=object),
        "attribution_sum": values.sum(1),
    }
    if result.score_difference is not None:
        report["score_difference"] = result.score_difference[:, 0]
    out = adata.copy() if copy else adata
    out.varm[key_added] = gene_frame(values, section.encoder.var_names, adata.var_names, labels)
    out.uns[key_added] = report
    return out if copy else None


def parameters(section: Section, method: Method, baseline: Baseline, options: Options, path: str) -> dict[str, Any]:
    """What produced a result, in a form that files keep."""
    used = {k: v for k, v in options.used_by(method).items() if v is not None}
    if method.needs_baseline:
        used["baseline"] = baseline if isinstance(baseline, str) else "profile"
    return {"method": method.name, "model": section.encoder.fingerprint, "path": path} | used
