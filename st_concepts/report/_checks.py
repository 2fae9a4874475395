"""Checks that stand in the report: do parts of the data agree, do other fits, is saliency faithful to the model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts import evaluate, get
from st_concepts._counts.expression import Expression
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import sections_of
from st_concepts._slots import KEYS
from st_concepts.concepts import ConceptSet, membership
from st_concepts.models import SpotVAE
from st_concepts.report._tables import saliency_method
from st_concepts.stats import RANKED, association_test, balanced_tiles, p_text, spearman, top_overlap

N_TOP = 50
_N_TILES = 16
_N_DEALS = 200
_LEAST = 3  # spots inside and outside that a part needs


@dataclass(frozen=True)
class Check:
    """A table with its heading and what it says."""

    heading: str
    caption: str
    table: pd.DataFrame


@dataclass(frozen=True)
class Agreement:
    """Between parts of the data.

    Attributes
    ----------
    check
        One row per concept.
    weakest
        Correlation of each gene with each concept in the part where it is weakest, genes x concepts by true name.
    title
        Of a column with ``weakest``.
    """

    check: Check
    weakest: pd.DataFrame
    title: str


def faithful(adata: AnnData, model: Any, seed: int, n_genes: int = 20) -> Check:
    """Mean score of the spots of each concept before and after its most salient genes, or random ones, are taken.

    At most a quarter of the genes are taken: of a small panel, fewer than ``n_genes``.
    """
    n_genes = max(1, min(n_genes, int(adata.varm[KEYS.SALIENCY].notna().any(axis=1).sum()) // 4))
    found = evaluate.faithfulness(adata, model, n_top=(n_genes,), n_random=10, seed=seed).query("curve == 'deletion'")
    before, after = (found.query(f"n_genes == {n}").set_index("concept") for n in (0, n_genes))
    table = pd.DataFrame(
        {
            "Layer": after.index,
            "Mean score": before.loc[after.index, "score"].to_numpy(),
            f"without the {n_genes} most salient genes": after["score"].to_numpy(),
            f"without {n_genes} random genes": after["score_random"].to_numpy(),
            "fall, times that of random genes": after["ratio"].to_numpy(),
        }
    )
    caption = (
        "Mean concept score over the spots of a layer, and what is left of it when genes are set to their mean in the "
        "other layers, in these spots and where concepts see it around them. Saliency that is faithful to the model "
        "moves the score far more than random genes do. This says nothing about whether the genes matter to the tissue."
    )
    return Check("Does the model read what saliency names?", caption, table)


def there(adata: AnnData) -> Check | None:
    """Whether expression tells each layer at all; `None` where that was not tested."""
    found = get.concepts(adata)
    if "pval" not in found:
        return None
    table = pd.DataFrame(
        {
            "Layer": found["name"],
            "labelled spots": found["n_labelled"],
            "AUROC of held-out spots": found["auroc"],
            "p of the layer": [p_text(p) for p in found["pval"]],
        }
    )
    joint = float(found["joint_pval"].iloc[0])
    whole = "" if np.isnan(joint) else f" All layers together: p {'' if joint <= 1e-5 else '= '}{p_text(joint)}."
    caption = (
        "Each labelling was compared with labels of the same pattern on the tissue that mean nothing. Where p is not "
        "small, the genes of that layer are a ranking, not a finding." + whole
    )
    return Check("Does expression tell the layers?", caption, table)


def around(adata: AnnData) -> Check:
    """How much of the saliency is read around the spots of each concept."""
    found = get.saliency_parts(adata)
    table = pd.DataFrame(
        {
            "Layer": found["concept"],
            "Read in the spot": found["own"],
            "read around it": found["surroundings"],
            "share of the surroundings": [f"{s:.0%} {_bar(s)}" for s in found["share"]],
        }
    )
    caption = (
        "Concepts see a spot and the tissue around it. Sums of the saliency of all genes, in units of the concept "
        "score: what the genes in the spots of a layer add to their score, and what those around them add. The share "
        "counts genes that speak against the layer as much as those that speak for it."
    )
    return Check("In the spot, or around it?", caption, table)


def _bar(share: float) -> str:
    filled = round(10 * share)
    return "\u2588" * filled + "\u2591" * (10 - filled)


def stable(adata: AnnData, model: Any, seed: int) -> Check:
    """Agreement of the model with two more, fitted with other seeds; a model that is no `SpotVAE` is left out of it."""
    options: dict[str, Any] = {}
    named: dict[str, Any] = {}
    if isinstance(model, SpotVAE):
        own = model._config
        options = {k: own[k] for k in ("layer", "n_latent", "n_hidden", "n_layers", "init")}
        options["section_key"] = model.section_key
        named["this model"] = model
        seed = int(own["seed"])
    # as many epochs as the model had at most: neither longer nor better trained than what it is compared with
    epochs = max(len(model.history) - 1, 0) if named else None
    for other in range(seed + 1, seed + (3 if named else 4)):
        named[f"seed {other}"] = SpotVAE(adata, **options, seed=other).fit(max_epochs=epochs, progress=False)
    n_top = _n_top(adata.n_vars)
    found = evaluate.stability(adata, named, n_top=n_top, method=saliency_method(adata))
    mean = found.groupby("concept", sort=False)[["spearman_score", "spearman", "overlap", "expected"]].mean()
    table = pd.DataFrame(
        {
            "Layer": mean.index,
            "Rank correlation of scores": mean["spearman_score"].to_numpy(),
            "of the saliency of all genes": mean["spearman"].to_numpy(),
            f"{n_top} most salient genes shared": mean["overlap"].to_numpy(),
            "by chance": mean["expected"].to_numpy(),
        }
    )
    caption = (
        f"Means over the pairs of {len(named)} models that differ in their seed only. Agreement says that the result "
        "does not hang on chance in training, not that it is right."
    )
    return Check("Would another fit say the same?", caption, table)


def agreement(adata: AnnData, made: ConceptSet, seed: int, section_key: str | None = None) -> Agreement | None:
    """Do sections, or halves of the only one, name the same genes; `None` where nothing can be compared."""
    x = Expression.open(adata, made.layer, float(made.params["target_sum"]), share=False).matrix()
    target = _targets(adata, made)
    parts, halves = _parts(adata, target, seed, section_key)
    if parts is None:
        return None
    effects = np.stack([_effects(x[parts == p], target[parts == p]) for p in range(parts.max() + 1)])
    known = np.isfinite(effects).any(1)  # parts x concepts
    n_top = _n_top(adata.n_vars)
    rows, weakest = [], np.full(effects.shape[1:], np.nan)
    for j, name in enumerate(made.names):
        there = np.flatnonzero(known[:, j])
        if len(there) < 2:
            continue
        pairs = list(combinations(effects[there, :, j], 2))
        weakest[:, j] = np.fmin.reduce(effects[there, :, j], axis=0)
        rows.append(
            {
                "Layer": name,
                "Halves" if halves else "Sections": len(there),
                "Rank correlation of the effects of all genes": np.mean([spearman(a, b) for a, b in pairs]),
                f"{n_top} best genes shared": np.mean([top_overlap(a, b, n_top) for a, b in pairs]),
                "by chance": n_top / adata.n_vars,
            }
        )
    if not rows:
        return None
    caption = "Genes ranked in each part on its own, by their correlation with the layer; means over pairs of parts. "
    caption += (
        "The parts are two halves of this one section, made of tiles dealt out at random. Halves of one section are no "
        "replicates: only other sections show what holds beyond it."
        if halves
        else "The parts are the sections."
    )
    heading = "Do halves of the section agree?" if halves else "Do the sections agree?"
    title = "Weaker half" if halves else "Weakest section"
    frame = pd.DataFrame(weakest, adata.var_names, pd.Index(made.names))
    return Agreement(Check(heading, caption, pd.DataFrame(rows)), frame, title)


def _targets(adata: AnnData, made: ConceptSet) -> np.ndarray:
    """Float ``(n_obs, n_concepts)``: inside or outside, NaN elsewhere; the score where genes were ranked by it alone.

    Ranked by both, it is the labels that parts can disagree on, unless most spots have none.
    """
    members = membership(adata, made)
    target = np.where(members.inside, 1.0, np.where(members.outside, 0.0, np.nan))
    params = adata.uns.get(KEYS.RANK, {}).get("params", {})
    default = "both" if made.params["kind"] in ("groupby", "mask") else "score"
    how = {words: kind for kind, words in RANKED.items()}.get(str(params.get("ranked_by")))
    ranked = list(map(str, params.get("concepts", ())))
    # results of 0.1 have a word for each concept
    each = np.resize(np.asarray(params.get("target", default) if how is None else how, dtype=object), len(ranked))
    used = dict(zip(ranked, map(str, each), strict=True))
    scores = get.concept_scores(adata)
    for j, name in enumerate(made.names):
        kind = used.get(name, default)
        if kind == "score" or (kind == "both" and np.isnan(target[:, j]).mean() > 0.5):
            target[:, j] = scores[name]
    return target


def _parts(
    adata: AnnData, target: np.ndarray, seed: int, section_key: str | None = None
) -> tuple[np.ndarray | None, bool]:
    """Code of the part of each spot, and whether the parts are halves of one section."""
    sections = sections_of(adata, section_key, warn=False)
    if sections.several:
        return sections.codes, False
    n = adata.n_obs
    if n < 2 * _N_TILES:
        return None, True
    tile = np.arange(n)  # without coordinates each spot is a tile
    if KEYS.SPATIAL in adata.obsm:
        tile = balanced_tiles(positions(adata), _N_TILES)
    # of many ways to deal out the tiles, the one in which the rarest layer is shared out best
    rng = np.random.default_rng(seed)
    high = _high(target)
    best, deal = -1, np.zeros(n, dtype=np.intp)
    for _ in range(_N_DEALS):
        second = rng.permutation(tile.max() + 1) % 2
        halves = second[tile]
        fewest = min(int(high[halves == side].sum(0).min()) for side in (0, 1))
        if fewest > best:
            best, deal = fewest, halves
    return (deal, True) if best >= _LEAST else (None, True)


def _effects(x: sp.csr_matrix, target: np.ndarray) -> np.ndarray:
    """Correlation of genes with concepts within a part, NaN for concepts that it cannot judge."""
    out = np.full((x.shape[1], target.shape[1]), np.nan)
    high = _high(target)
    usable = (high.sum(0) >= _LEAST) & ((np.isfinite(target) & ~high).sum(0) >= _LEAST)
    if usable.any():
        out[:, usable] = association_test(x, target[:, usable], "none", n_null=0).correlation
    return out


def _high(target: np.ndarray) -> np.ndarray:
    """Boolean: spots above the mean of the target; those without one are not."""
    known = np.isfinite(target)
    mean = np.where(known, target, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return known & (np.where(known, target, -np.inf) > mean)


def _n_top(n_vars: int) -> int:
    return max(1, min(N_TOP, n_vars // 4))
