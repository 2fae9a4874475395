"""Marker recovery on the real bulb: ours, PCA with the same statistics, and Wilcoxon, with all, few and wrong labels.

The counts of a section are split in two halves by binomial thinning. Methods see one half; the truth is the top 50
genes of each layer by Wilcoxon on the *other* half with the true labels. Recovery is the share of them in the top 50 of
a method, averaged over layers and draws. A second table gives AUROC of concepts scored on sections never seen.

    python -m benchmarks.recovery [--replicates 1 2 11] [--draws 5] [--fit]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import rankdata

import st_concepts as stc
from benchmarks._common import write_json
from st_concepts._counts.features import log_normalize
from st_concepts._counts.split import thin

TOP = 50
LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]


def wilcoxon(x: sp.csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Rank-sum z of each gene for each layer against the other labelled spots, ``(n_vars, n_layers)``."""
    known = np.array([v in LAYERS for v in labels])
    dense = x[known].toarray()
    labels = labels[known]
    ranks = rankdata(dense, axis=0)
    n = len(labels)
    centered = ranks - ranks.mean(0)
    variance = (centered**2).sum(0) / (n - 1)
    out = np.zeros((x.shape[1], len(LAYERS)))
    for j, layer in enumerate(LAYERS):
        inside = labels == layer
        n_in = inside.sum()
        sd = np.sqrt(variance * n_in * (n - n_in) / n)
        out[:, j] = np.divide(centered[inside].sum(0), sd, out=np.zeros_like(sd), where=sd > 0)
    return out


def top(statistic: np.ndarray) -> list[set[int]]:
    return [set(np.argsort(-s, kind="stable")[:TOP]) for s in statistic.T]


def recovery(statistic: np.ndarray, truth: list[set[int]]) -> float:
    return float(np.mean([len(a & b) / TOP for a, b in zip(top(statistic), truth, strict=True)]))


def few(labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    out = np.full(len(labels), None, dtype=object)
    for layer in LAYERS:
        out[rng.choice(np.flatnonzero(labels == layer), k, replace=False)] = layer
    return out


def wrong(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    out = labels.copy()
    for i in np.flatnonzero(rng.random(len(out)) < share):
        if out[i] in LAYERS:
            out[i] = rng.choice([v for v in LAYERS if v != out[i]])
    return out


def statistic(adata: AnnData, model: stc.SpotVAE, labels: np.ndarray, target: str) -> np.ndarray:
    adata.obs["given"] = pd.Categorical(labels, categories=LAYERS, ordered=True)
    stc.tl.concepts(adata, model, groupby="given")
    stc.tl.rank_genes_concepts(adata, n_null=0, null="none", target=target)
    names = adata.uns["rank_genes_concepts"]["names"]
    scores = adata.uns["rank_genes_concepts"]["scores"]
    return np.stack([pd.Series(scores[v], index=names[v])[adata.var_names].to_numpy() for v in LAYERS], axis=1)


def auroc(score: np.ndarray, inside: np.ndarray) -> float:
    ranks = rankdata(score)
    n = inside.sum()
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * (~inside).sum()))


def mean_auroc(adata: AnnData) -> float:
    labels = adata.obs["layer"].astype(object).to_numpy()
    known = np.array([v in LAYERS for v in labels])
    frame = adata.obsm["concept_score"]
    return float(np.mean([auroc(frame[v].to_numpy()[known], labels[known] == v) for v in LAYERS]))


def section(replicate: int) -> AnnData:
    adata = stc.datasets.mouse_olfactory_bulb(replicate=replicate)
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 20].copy()


def recover(adata: AnnData, draws: int, n_latent: int | None, fit: bool) -> list[dict[str, object]]:
    rows = []
    labels = adata.obs["layer"].astype(object).to_numpy()
    for share in (0.5, 0.1):
        for draw in range(draws):
            rest, seen = thin(adata.X, share, seed=draw)
            truth = top(wilcoxon(log_normalize(rest, float(np.median(np.asarray(rest.sum(1))))), labels))
            half = AnnData(seen, obs=adata.obs.copy(), var=adata.var.copy(), obsm={"spatial": adata.obsm["spatial"]})
            options = {} if n_latent is None else {"n_latent": n_latent}
            models = {"ours": stc.SpotVAE(half, **options).fit(progress=False, **({} if fit else {"max_epochs": 0}))}
            if fit:
                models["PCA"] = stc.SpotVAE(half, **options).fit(progress=False, max_epochs=0)
            x = log_normalize(seen, models["ours"].target_sum)
            rng = np.random.default_rng(draw)
            cells = (
                {"all": labels}
                if share == 0.1
                else {"all": labels, "five": few(labels, 5, rng), "wrong40": wrong(labels, 0.4, rng)}
            )
            for cell, given in cells.items():
                cell = cell if share == 0.5 else "all, 10% counts"
                for name, model in models.items():
                    for target in ("auto", "score", "both", "label"):
                        value = recovery(statistic(half, model, given, target), truth)
                        rows.append({"cell": cell, "method": f"{name} ({target})", "recovery": value})
                rows.append({"cell": cell, "method": "Wilcoxon", "recovery": recovery(wilcoxon(x, given), truth)})
    return rows


def transfer(sections: dict[int, AnnData], draws: int, n_latent: int | None, fit: bool) -> list[dict[str, object]]:
    rows = []
    for source, adata in sections.items():
        options = {} if n_latent is None else {"n_latent": n_latent}
        model = stc.SpotVAE(adata, **options).fit(progress=False, **({} if fit else {"max_epochs": 0}))
        labels = adata.obs["layer"].astype(object).to_numpy()
        for draw in range(draws + 1):
            given = labels if draw == 0 else few(labels, 5, np.random.default_rng(draw))
            adata.obs["given"] = pd.Categorical(given, categories=LAYERS)
            stc.tl.concepts(adata, model, groupby="given")
            kind = "all" if draw == 0 else "five"
            rows.append({"labels": kind, "from": source, "to": source, "auroc": mean_auroc(adata)})
            for other, target in sections.items():
                if other != source:
                    stc.tl.score_concepts(target, model, concepts=adata)
                    rows.append({"labels": kind, "from": source, "to": other, "auroc": mean_auroc(target)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, nargs="+", default=[1, 2, 11])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--n-latent", type=int, default=None)
    parser.add_argument("--start-only", action="store_true", help="look at the warm start, without training")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    sections = {r: section(r) for r in args.replicates}
    rows = [
        {"replicate": r, **row}
        for r, a in sections.items()
        for row in recover(a, args.draws, args.n_latent, not args.start_only)
    ]
    table = pd.DataFrame(rows).groupby(["method", "cell"], sort=False)["recovery"].mean().unstack()
    print("\nRecovery of the top 50, mean over layers, replicates and draws\n" + table.round(3).to_string())
    moved = pd.DataFrame(transfer(sections, max(args.draws, 10), args.n_latent, not args.start_only))
    auc = moved.groupby(["labels", "from", "to"])["auroc"].mean().unstack()
    print("\nMean AUROC of concepts, fitted on a row's section, scored on a column's\n" + auc.round(4).to_string())
    print("written to", write_json("recovery", {"recovery": rows, "auroc": moved.to_dict("records")}))


if __name__ == "__main__":
    main()
