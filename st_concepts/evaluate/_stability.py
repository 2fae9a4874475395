"""Whether another fit would have named the same genes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._names import as_names
from st_concepts._slots import KEYS
from st_concepts.attribution import Baseline, Explained, Options, get_method
from st_concepts.concepts import (
    ConceptSet,
    Masks,
    Seen,
    get_estimator,
    kept_neighbours,
    membership,
    read_concepts,
)
from st_concepts.models import Section, SpotVAE
from st_concepts.stats import spearman, top_overlap


def stability(
    adata: AnnData,
    models: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    fit: Callable[[int], Any] | None = None,
    concept: str | Sequence[str] | None = None,
    method: str = "integrated_gradients",
    n_top: int = 50,
    baseline: Baseline = "others",
    options: Options | None = None,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
) -> pd.DataFrame:
    """Agreement of saliency between models fitted with other seeds, or by other means.

    Every model gets its own concept vectors, estimated from the spots that are inside and outside each concept of
    ``adata``, and its own saliency; concepts look as far around as those of ``adata``. Vectors of different models
    cannot be compared, rankings of genes can.

    Parameters
    ----------
    adata
        With concepts; only read.
    models
        Fitted models, by name or in order; they may be of different kinds. `None` fits one per seed.
    seeds
        Seeds to fit with where no models are given.
    fit
        ``seed -> fitted model``; by default a `SpotVAE` of ``adata`` with default settings.
    concept
        Name or names; by default all.
    method, baseline, options
        As in ``stc.tl.saliency``.
    n_top
        Genes whose overlap is counted.
    layer
        Layer with the counts; by default that of each model.
    concepts_key
        Entry of ``uns`` with the concepts, whose estimator is used again.

    Returns
    -------
    DataFrame, one row per concept and pair of models:

    - ``concept``, ``model_a``, ``model_b`` (names, positions or ``"seed 0"``);
    - ``spearman``: rank correlation of saliency over the genes that both models have;
    - ``spearman_score``: rank correlation of the concept scores over the spots;
    - ``overlap``: share of the ``n_top`` most salient genes of one that are among those of the other; ``expected`` is
      that of random genes.

    Raises
    ------
    KeyError
        No concepts, or no such one.
    ValueError
        Fewer than two models or seeds; unknown method; ``n_top`` beyond the number of genes.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> fit = lambda seed: stc.SpotVAE(adata, n_latent=5, seed=seed).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, fit(0), groupby="layer")
    >>> table = stc.evaluate.stability(adata, seeds=(0, 1), fit=fit, concept="GCL", n_top=10)
    >>> bool(table["overlap"][0] > 0.5)
    True
    """
    made = read_concepts(adata, concepts_key)
    record = get_method(method)
    named = _models(adata, models, seeds, fit, layer)
    names = made.names if concept is None else as_names(concept)
    chosen = [made.index(n) for n in names]
    saliency: list[pd.DataFrame] = []
    scores: list[np.ndarray] = []
    for model in named.values():
        section, score = _refit(adata, model, made, layer)
        found = section.attributions(chosen, method=record, baseline=baseline, options=options)
        saliency.append(pd.DataFrame(found.values.T, index=section.encoder.var_names))
        scores.append(score)
    labels = list(named)
    rows = []
    for a, b in combinations(range(len(labels)), 2):
        first, second = saliency[a].align(saliency[b], join="inner", axis=0)
        if not 1 <= n_top <= len(first):
            raise ValueError(f"n_top={n_top} must lie between 1 and {len(first)}, the genes that both models have.")
        for i, j in enumerate(chosen):
            x, y = first[i].to_numpy(), second[i].to_numpy()
            rows.append(
                {
                    "concept": made.names[j],
                    "model_a": labels[a],
                    "model_b": labels[b],
                    "spearman": spearman(x, y),
                    "spearman_score": spearman(scores[a][:, j], scores[b][:, j]),
                    "overlap": top_overlap(x, y, n_top),
                    "expected": n_top / len(first),
                }
            )
    return pd.DataFrame(rows)


def _models(
    adata: AnnData,
    models: Sequence[Any] | Mapping[str, Any] | None,
    seeds: Sequence[int],
    fit: Callable[[int], Any] | None,
    layer: str | None,
) -> dict[str, Any]:
    if isinstance(models, Mapping):
        named = {str(k): v for k, v in models.items()}
    elif models is not None:
        if not isinstance(models, Sequence):
            raise TypeError("models must be a list of fitted models, or a dict of them by name.")
        named = {f"model {i}": m for i, m in enumerate(models)}
    else:
        if len(set(seeds)) < 2:
            raise ValueError(f"seeds={tuple(seeds)}: at least two different seeds are needed.")
        make = fit or (lambda seed: SpotVAE(adata, layer=layer, seed=seed).fit(progress=False))
        named = {f"seed {seed}": make(seed) for seed in dict.fromkeys(seeds)}
    if len(named) < 2:
        raise ValueError("Agreement needs at least two models.")
    return named


def _refit(adata: AnnData, model: Any, made: ConceptSet, layer: str | None) -> tuple[Explained, np.ndarray]:
    """The same concepts in the latent space of another model, and their scores ``(n_obs, n_concepts)``."""
    section = Section.open(adata, model, layer=layer or made.layer)
    members, found = membership(adata, made), section.embedding
    estimator = get_estimator(str(made.params.get("estimator") or "discriminant"))
    around = kept_neighbours(section, made)
    width = 0.0 if made.context is None or around is None else made.context.width
    rows = np.flatnonzero(found.usable)
    seen = Seen(found.latent[rows].astype(np.float64), found.usable, None if around is None else around.subset(rows))
    defined = Masks(members).define(section, estimator, seen, width)
    own = ConceptSet.of(
        made.names,
        defined.vectors,
        found.latent[rows],
        around=seen.average(width) if width else None,
        alone=defined.alone,
        width=width,
        model=section.encoder.fingerprint,
        params=made.params,
    )
    return Explained.of(section, own, members, around), own.score(found.latent, around)
