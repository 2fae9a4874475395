"""Calibration of the whole path, from counts to markers, on simulated sections with planted truth.

Each section is fitted, concepts are made from all labels or from five a layer, and genes are ranked with the defaults,
under the Moran null and under shuffled spots; Wilcoxon stands beside them. Reported are the share of smooth and of iid
genes, unrelated to any layer, with p < 0.05, the share of these in lists at BH 5%, and the share of markers found.

    python -m benchmarks.path_calibration [--seeds 5] [--smooth 200]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import mannwhitneyu

import st_concepts as stc
from benchmarks._common import write_json
from st_concepts._counts.features import log_normalize
from st_concepts.stats import fdr_bh

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]


def wilcoxon(adata: AnnData, labels: pd.Series) -> np.ndarray:
    """Two-sided p of each gene for each layer, ``(n_vars, n_layers)``."""
    known = labels.notna().to_numpy()
    x = log_normalize(adata.X, float(np.median(np.asarray(adata.X.sum(1)))))[known].toarray()
    labels = labels[known]
    return np.stack(
        [mannwhitneyu(x[labels == v], x[labels != v], axis=0, method="asymptotic").pvalue for v in LAYERS], axis=1
    )


def figures(adata: AnnData, p: np.ndarray) -> list[dict[str, float]]:
    kind, marker = adata.var["kind"].astype(str).to_numpy(), adata.var["marker_of"].astype(str).to_numpy()
    q = fdr_bh(p, axis=0)
    rows = []
    for j, layer in enumerate(LAYERS):
        found = q[:, j] < 0.05
        rows.append(
            {
                "type I smooth": float((p[kind == "smooth", j] < 0.05).mean()),
                "type I iid": float((p[kind == "iid", j] < 0.05).mean()),
                "false share at BH 5%": float((found & (kind != "marker")).sum() / max(found.sum(), 1)),
                "power": float(found[marker == layer].mean()),
            }
        )
    return rows


def one_section(seed: int, n_smooth: int, n_obs: int) -> list[dict[str, object]]:
    adata = stc.datasets.simulated_bulb(n_obs=n_obs, n_vars=1500, n_smooth=n_smooth, seed=seed)
    model = stc.SpotVAE(adata).fit(progress=False)
    rng = np.random.default_rng(seed)
    few = np.zeros(adata.n_obs, dtype=bool)
    for layer in LAYERS:
        few[rng.choice(np.flatnonzero(adata.obs["layer"] == layer), 5, replace=False)] = True
    rows: list[dict[str, object]] = []
    for cell, keep in (("all labels", np.ones(adata.n_obs, dtype=bool)), ("five a layer", few)):
        adata.obs["given"] = adata.obs["layer"].where(keep)
        stc.tl.concepts(adata, model, groupby="given")
        for null in ("moran", "permutation"):
            stc.tl.rank_genes_concepts(adata, null=null, n_null=0)
            p = adata.varm["rank_genes_concepts_pval"].to_numpy()
            rows += [{"labels": cell, "test": null, **row} for row in figures(adata, p)]
        rows += [
            {"labels": cell, "test": "Wilcoxon", **row} for row in figures(adata, wilcoxon(adata, adata.obs["given"]))
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smooth", type=int, default=200, help="smooth nuisance genes among 1,500")
    parser.add_argument("--n-obs", type=int, default=600)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row for seed in range(args.seeds) for row in one_section(seed, args.smooth, args.n_obs)]
    table = pd.DataFrame(rows).groupby(["labels", "test"], sort=False).mean()
    print(table.round(3).to_string())
    print("written to", write_json("path_calibration", {"arguments": vars(args), "rows": rows}))


if __name__ == "__main__":
    main()
