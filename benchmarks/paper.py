"""The paper's olfactory bulb, replicate 1: do genes as images give back its layers?

    python -m benchmarks.paper [--seeds 0 1 2] [--recipe fast paper] [--threads 2] [--spot-epochs 0]

Prints the figures of each seed and writes ``build/benchmarks/paper.json``. Needs the real section
(``ST_CONCEPTS_DATA`` or the cache).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import st_concepts as stc
from benchmarks._common import environment, table, write_json
from st_concepts.models import GeneVAE

# seed gene -> layers of its concept in the paper
SEEDS = {"Penk": ["GCL"], "Doc2g": ["MCL", "OPL"], "Kctd12": ["ONL"]}
# the genes that the paper's notebook lists first for Penk
FIRST_OF_PENK = ["Kcnh3", "Nrgn", "Epha4", "Tenm3"]


def evaluate(adata: AnnData, model: GeneVAE) -> dict[str, Any]:
    """Figures of one fitted model; the slots of the gene view are written into ``adata``."""
    stc.tl.gene_concepts(adata, model, seeds=list(SEEDS))
    stc.tl.spatial_saliency(adata, model, method="rectgrad", q=95)
    order = adata.uns["gene_concepts"]["tables"]["Penk-like"]["names"].tolist()
    found: dict[str, Any] = {f"rank {g}": order.index(g) for g in FIRST_OF_PENK}
    found["in top 50"] = sum(g in order[:50] for g in FIRST_OF_PENK)
    for seed, layers in SEEDS.items():
        inside = adata.obs["layer"].isin(layers).to_numpy()
        picture = adata.obsm["concept_pattern"][f"{seed}-like"].to_numpy()
        where = adata.obsm["spatial_saliency"][f"{seed}-like"].to_numpy()
        name = "+".join(layers)
        found[f"AUROC {name}"] = float(roc_auc_score(inside, picture))
        found[f"saliency in/out {name}"] = float(where[inside].mean() / where[~inside].mean())
        positive = np.clip(where, 0, None)
        found[f"positive saliency in/out {name}"] = float(positive[inside].mean() / positive[~inside].mean())
        found[f"saliency in {name}"] = float(where[inside].mean())
        found[f"saliency out {name}"] = float(where[~inside].mean())
    return found


def agreement(adata: AnnData, seed: int, max_epochs: int | None) -> dict[str, float]:
    """Spearman correlation over all spots of the spot view's concept score with the gene view's decoded concept."""
    spots = adata.copy()
    model = stc.SpotVAE(spots, seed=seed).fit(max_epochs=max_epochs, progress=False)
    ways: dict[str, dict[str, Any]] = {
        "same seed genes": {"genes": ["Penk", "Kctd12"]},
        "layers, mean difference": {"groupby": "layer", "estimator": "mean_difference"},
        "layers, discriminant": {"groupby": "layer", "estimator": "discriminant"},
    }
    found = {}
    for way, options in ways.items():
        stc.tl.concepts(spots, model, **options)
        for gene, layer in (("Penk", "GCL"), ("Kctd12", "ONL")):
            score = spots.obsm["concept_score"][f"{gene}-like" if "genes" in options else layer]
            picture = adata.obsm["concept_pattern"][f"{gene}-like"]
            found[f"Spearman {layer}, {way}"] = float(spearmanr(score.to_numpy(), picture.to_numpy()).statistic)
    return found


def run(
    seeds: list[int], recipe: str, *, spot_view: bool = True, spot_epochs: int | None = None
) -> list[dict[str, Any]]:
    """One row of figures a seed."""
    adata = stc.datasets.mouse_olfactory_bulb(replicate=1)
    rows = []
    for seed in seeds:
        model = GeneVAE(adata, recipe=recipe, seed=seed)
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(progress=False)
        row = {
            "recipe": recipe,
            "seed": seed,
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "epochs": int(model.history.index[-1]),
            **evaluate(adata, model),
        }
        if spot_view:
            row |= agreement(adata, seed, spot_epochs)
        print(
            "\n".join(f"{k:48s} {v if isinstance(v, str) else round(v, 3)}" for k, v in row.items()), "\n", flush=True
        )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", nargs="+", default=["fast"], choices=["fast", "paper"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-spot-view", action="store_true")
    parser.add_argument("--spot-epochs", type=int, help="0 leaves the SpotVAE at its warm start")
    parser.add_argument("--out", default="paper", help="name of the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for recipe in options.recipe:
        rows += run(options.seeds, recipe, spot_view=not options.no_spot_view, spot_epochs=options.spot_epochs)
    print(table(rows))
    write_json(options.out, {"rows": rows, "environment": environment("st_concepts", "torch", "numpy")})


if __name__ == "__main__":
    main()
