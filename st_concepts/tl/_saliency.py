"""`stc.tl.saliency`: genes x concepts, what the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from st_concepts._names import check_filled
from st_concepts._results import Result, gene_frame, writes
from st_concepts._slots import KEYS, concept_slot, surroundings_slot
from st_concepts.attribution import Baseline, Explained, Method, Options, get_method


@writes
def saliency(
    adata: AnnData,
    model: Any,
    *,
    method: str | Method = "integrated_gradients",
    concepts: Sequence[str] | str | None = None,
    baseline: Baseline = "others",
    options: Options | None = None,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    key_added: str | None = None,
    copy: bool = False,
) -> Result:
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
    ``varm["concept_saliency_context"]``
        Only for concepts that see the surroundings: the share of these in the table above. The rest is what is read in
        the spots of the concept themselves; so the split is exact. What a spot has around it is the weighted mean of
        other spots, so their attributions are added up, each spot as often as the spots of the concept look at it.
        The baseline stands for a spot and for all around it.
    ``uns["concept_saliency"]``
        dict: parameters, and per concept the attribution sum and score difference (completeness), and of both the
        share of the surroundings (``"score_difference_surroundings"``).

    Raises
    ------
    ValueError
        Unknown method or baseline (the names are listed), a method that needs ReLUs and a model without; concepts of
        another model.
    KeyError
        No concepts yet; unknown concept.

    Warns
    -----
    UserWarning
        The concepts see the surroundings, and these are not known here: what is read in the spots alone is explained.

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
    check_filled(concepts=concepts)
    section = Explained.read(adata, model, layer=layer, key=concepts_key)
    record, options = get_method(method), options or Options()
    chosen, made = section.chosen(concepts), section.concepts
    key_added = key_added or concept_slot(KEYS.SALIENCY, concepts_key)
    found = section.attributions(chosen, method=record, baseline=baseline, options=options)
    tables = {key_added: found.values}
    report: dict[str, Any] = {
        "params": parameters(section, record, baseline, options, found.path),
        "names": np.array([made.names[j] for j in chosen], dtype=object),
        "attribution_sum": found.values.sum(1),
    }
    if found.score_difference is not None:
        report["score_difference"] = found.score_difference
    context = surroundings_slot(key_added)
    if found.surroundings is not None:
        tables[context] = found.surroundings
        report["attribution_sum_surroundings"] = found.surroundings.sum(1)
        if found.differences is not None:
            report["score_difference_surroundings"] = found.differences[1]
    labels = [made.labels[j] for j in chosen]
    return Result(
        varm={
            slot: gene_frame(values, section.encoder.var_names, adata.var_names, labels)
            for slot, values in tables.items()
        },
        uns={key_added: report},
        stale=[] if context in tables else [("varm", context)],
    )


def parameters(section: Explained, method: Method, baseline: Baseline, options: Options, path: str) -> dict[str, Any]:
    """What produced a result, in a form that files keep."""
    used = {k: v for k, v in options.used_by(method).items() if v is not None}
    if method.needs_baseline:
        used["baseline"] = baseline if isinstance(baseline, str) else "profile"
    return {"method": method.name, "model": section.encoder.fingerprint, "path": path} | used
