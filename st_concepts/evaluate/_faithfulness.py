"""Whether the score follows the genes that saliency names: deletion and insertion curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.kind import is_sparse
from st_concepts._slots import KEYS, concept_slot
from st_concepts.attribution import Baseline, Explained, Runner
from st_concepts.models import FeatureMatrix

# share of a concept's spots in which a gene must be seen to count as expressed there
MIN_SHARE = 0.1


def faithfulness(
    adata: AnnData,
    model: Any,
    *,
    concept: str | Sequence[str] | None = None,
    saliency_key: str | None = None,
    n_top: Sequence[int] = (10, 20, 50, 100),
    n_random: int = 20,
    baseline: Baseline = "others",
    min_share: float = MIN_SHARE,
    seed: int = 0,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
) -> pd.DataFrame:
    """How the mean concept score changes as the most salient genes are taken away, or given alone.

    Deletion replaces the top genes of every spot of the concept by the baseline and follows the mean score; insertion
    starts at the baseline and puts the top genes in. Where concepts see the surroundings, the same is done to the spots
    that those of the concept look at, too. Both are compared with as many random genes out of those expressed
    in the concept's spots. Saliency that is faithful to the model moves the score far more than random genes do.

    Parameters
    ----------
    adata
        With concepts and saliency; only read.
    model
        The model that they were made with.
    concept
        Name or names; by default all concepts that have saliency.
    saliency_key
        Table in ``varm``, genes x concepts. Genes count from the largest signed value down.
    n_top
        Numbers of genes.
    n_random
        Draws of random genes; each draw is one random order, of which the first ``n`` are taken.
    baseline
        What a gene is set to: as in ``stc.tl.saliency``.
    min_share
        Share of the concept's spots in which a gene must be seen to be drawn.
    seed
        Of the draws.
    layer
        Layer with the counts; by default that of the model.
    concepts_key
        Entry of ``uns`` with the concepts.

    Returns
    -------
    DataFrame, one row per concept, curve and number of genes, 0 included, in units of the concept score:

    - ``concept``, ``curve`` (``"deletion"`` or ``"insertion"``), ``n_genes``;
    - ``score``: mean score over the concept's spots with the top genes replaced;
    - ``score_random``, ``score_random_sd``: mean and standard deviation over the random draws;
    - ``effect``, ``effect_random``: fall of the score since 0 genes (deletion), or its rise (insertion);
    - ``ratio``: ``effect / effect_random``; infinite where random genes do nothing or the opposite;
    - ``area``: mean vertical distance of the two curves from 0 to the largest number of genes (trapezoids), as a share
      of the score difference between the spots and the baseline; positive where salient genes matter more.

    Raises
    ------
    KeyError
        No saliency yet, or not of that concept.
    ValueError
        Fewer genes, or fewer expressed genes, than ``n_top`` asks for; ``n_top`` or ``n_random`` below 1.

    References
    ----------
    Samek et al. 2017, IEEE Trans Neural Netw Learn Syst 28:2660; Petsiuk, Das & Saenko 2018, arXiv 1806.07421.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.saliency(adata, model)
    >>> table = stc.evaluate.faithfulness(adata, model, concept="GCL", n_top=(5, 10))
    >>> bool((table.loc[table["n_genes"] == 10, "ratio"] > 2).all())
    True
    """
    section = Explained.read(adata, model, layer=layer, key=concepts_key)
    steps = np.unique(np.asarray(n_top, dtype=np.int64))
    if not steps.size or steps[0] < 1 or n_random < 1:
        raise ValueError(f"n_top and n_random must be at least 1; got n_top={tuple(n_top)}, n_random={n_random}.")
    saliency = _saliency(section, saliency_key or concept_slot(KEYS.SALIENCY, concepts_key))
    if concept is None:
        chosen = [j for j, label in enumerate(section.concepts.labels) if label in saliency]
    else:
        chosen = section.chosen(concept)
    expressed = expressed_genes(section, chosen, min_share)
    rng = np.random.default_rng(seed)
    orders = []
    for i, j in enumerate(chosen):
        ranked = _ranked(section, saliency, j, int(steps[-1]))
        pool = np.flatnonzero(expressed[i])
        if len(pool) < steps[-1]:
            raise ValueError(
                f"Only {len(pool)} genes are expressed in at least {min_share:.0%} of the spots of "
                f"{section.concepts.names[j]!r}, but n_top asks for {steps[-1]}. Lower n_top or min_share."
            )
        random = [rng.choice(pool, steps[-1], replace=False) for _ in range(n_random)]
        orders.append(np.stack([ranked, *random]))
    base = section.baselines(chosen, baseline)
    scores = np.stack([curves(section, j, o, steps, b) for j, o, b in zip(chosen, orders, base, strict=True)])
    return pd.concat(
        [_table(section.concepts.names[j], found, steps) for j, found in zip(chosen, scores, strict=True)],
        ignore_index=True,
    )


def curves(section: Explained, j: int, orders: np.ndarray, steps: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Mean score of concept ``j`` over its spots with the first genes of each order deleted, and inserted.

    ``orders`` are columns of the model ``(n_orders, >= steps[-1])``, ``steps`` increasing numbers of genes. Float64
    ``(2, n_orders, 1 + len(steps))``: deletion, insertion; the first column is for no gene.
    """
    weights, directions = section.weights([j]), section.directions([j])
    total = np.zeros((2, len(orders), 1 + len(steps)))
    with Runner(section.encoder) as run:
        start = run.project(baseline[None])
        cuts = np.concatenate([[0], steps])
        for rows, features, _, codes in section.batches():
            used = np.flatnonzero(weights[rows].any(1))
            if not used.size:
                continue
            block = features[used]
            block = block.tocsc() if is_sparse(block) else block
            code = None if codes is None else codes[used]
            bias, tensor, weight = run.bias_of(code), run.codes(code), weights[rows][used]
            whole = run.project(features[used]) + bias
            nothing = np.broadcast_to(start + bias, whole.shape)
            for o, order in enumerate(orders):
                moved = np.zeros_like(whole)
                for s in range(len(cuts)):
                    if s:
                        moved += _gap(run, block, baseline, order[cuts[s - 1] : cuts[s]])
                    for side, a in enumerate((whole - moved, nothing + moved)):
                        latent = weight.T @ run.latent(run.tensor(a), tensor)
                        total[side, o, s] += (latent * directions).sum()
    made = section.concepts
    return total / section.members.inside[:, j].sum() - made.center[j] / made.scale[j]


def _gap(run: Runner, block: FeatureMatrix, baseline: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Share of some genes in the pre-activations, over that of the baseline, ``(n, n_hidden)``."""
    part = block[:, genes]
    gap = (part.toarray() if is_sparse(part) else part).astype(run.numpy_dtype) - baseline[genes]
    if run.transposed is not None:
        return (gap @ run.transposed[genes]).astype(run.numpy_dtype)
    out = np.zeros((len(gap), run.n_hidden), dtype=run.numpy_dtype)
    out[:, genes] = gap
    return out


def expressed_genes(section: Explained, chosen: Sequence[int], min_share: float) -> np.ndarray:
    """Boolean ``(len(chosen), n_vars)``: genes seen in at least ``min_share`` of the spots of each concept."""
    inside = section.members.inside[:, list(chosen)].astype(np.float64)
    seen = np.zeros((len(section.encoder.var_names), len(chosen)))
    for rows, features, _, _ in section.batches():
        present = features != 0
        seen += present.T.astype(np.float64) @ inside[rows]
    return np.maximum(min_share * inside.sum(0), 1.0)[:, None] <= seen.T


def _saliency(section: Explained, key: str) -> pd.DataFrame:
    if key not in section.adata.varm:
        raise KeyError(f"adata.varm[{key!r}] is missing: run stc.tl.saliency(adata, model) first.")
    frame = section.adata.varm[key]
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"adata.varm[{key!r}] is not a table of genes x concepts; run stc.tl.saliency again.")
    return frame


def _ranked(section: Explained, saliency: pd.DataFrame, j: int, n: int) -> np.ndarray:
    """Columns of the model, the most salient first."""
    label = section.concepts.labels[j]
    if label not in saliency:
        raise KeyError(
            f"There is no saliency of concept {section.concepts.names[j]!r}, only of {', '.join(saliency)}. "
            "Run stc.tl.saliency for it."
        )
    values = saliency[label].dropna().sort_values(ascending=False, kind="stable")
    columns = section.encoder.var_names.get_indexer(values.index.astype(str))
    columns = columns[columns >= 0]
    if len(columns) < n:
        raise ValueError(f"n_top asks for {n} genes, but only {len(columns)} have saliency; lower n_top.")
    return columns[:n]


def _table(name: str, found: np.ndarray, steps: np.ndarray) -> pd.DataFrame:
    n_genes = np.concatenate([[0], steps])
    # first rows: all of the spots, and nothing but the baseline
    difference = found[0, 0, 0] - found[1, 0, 0]
    parts = []
    for curve, sign, values in (("deletion", -1.0, found[0]), ("insertion", 1.0, found[1])):
        score, random = values[0], values[1:].mean(0)
        # the added zero turns -0.0 into 0.0
        effect, effect_random = (sign * (v - v[0]) + 0.0 for v in (score, random))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(effect_random > 0, effect / effect_random, np.sign(effect) * np.inf)
        ratio[0] = np.nan
        gap = effect - effect_random
        between = ((gap[1:] + gap[:-1]) / 2 * np.diff(n_genes)).sum() / n_genes[-1]
        parts.append(
            pd.DataFrame(
                {
                    "concept": name,
                    "curve": curve,
                    "n_genes": n_genes,
                    "score": score,
                    "score_random": random,
                    "score_random_sd": values[1:].std(0),
                    "effect": effect,
                    "effect_random": effect_random,
                    "ratio": ratio,
                    "area": between / abs(difference) if difference else np.nan,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
