"""Does each null hold its level in every layer of real sections?

Coordinates and layers of three olfactory bulbs and, where ``ST_CONCEPTS_DATA`` has it, a breast tumour; genes are
independent random fields of several kernels and lengths, half of them with as much noise, and have nothing to do with
the layers. Table: share of genes with p < 0.05 by layer, and over layers and kernels the mean, the standard deviation
and the extremes. With 600 genes a share of .05 has a standard error of .009.

    python -m benchmarks.layer_level [--genes 600] [--json build/benchmarks/layer_level.json]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import norm

import st_concepts as stc
from benchmarks.calibration import ALPHA, write_json
from st_concepts.stats import association_test, distance_null, dutilleul_test, moran_null

KERNELS = {
    "gauss 2": lambda d: np.exp(-0.5 * (d / 2.0) ** 2),
    "gauss 3.5": lambda d: np.exp(-0.5 * (d / 3.5) ** 2),
    "gauss 6": lambda d: np.exp(-0.5 * (d / 6.0) ** 2),
    "exp 3": lambda d: np.exp(-d / 3.0),
    "exp 6": lambda d: np.exp(-d / 6.0),
}
SHARES = (1.0, 0.5)  # of the field in the variance of a gene
COPIES = 499


def sections() -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.str_]]]:
    """Name, coordinates in median distances between neighbours, and layer of the labelled spots."""
    found = {f"bulb {r}": stc.datasets.mouse_olfactory_bulb(replicate=r) for r in (1, 2, 11)}
    tumour = Path(os.environ.get("ST_CONCEPTS_DATA", "")) / "sections" / "her2st_D1.h5ad"
    if tumour.is_file():
        found["breast D1"] = ad.read_h5ad(tumour)
    for name, adata in found.items():
        layer = adata.obs["layer"].astype(object).to_numpy()
        known = np.array([isinstance(v, str) and v != "" for v in layer])
        xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)[known]
        yield name, xy / np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]), layer[known].astype(str)


def fields(xy: NDArray[np.float64], n_genes: int, seed: int) -> Iterator[tuple[str, float, NDArray[np.float64]]]:
    """Kernel, share and genes ``(n_obs, n_genes)``."""
    rng, distance = np.random.default_rng(seed), cdist(xy, xy)
    for kernel, covariance in KERNELS.items():
        root = np.linalg.cholesky(covariance(distance) + 1e-6 * np.eye(len(xy)))
        for share in SHARES:
            field, noise = root @ rng.normal(size=(len(xy), n_genes)), rng.normal(size=(len(xy), n_genes))
            yield kernel, share, np.sqrt(share) * field + np.sqrt(1 - share) * noise


def p_values(
    genes: NDArray[np.float64], labels: NDArray[np.float64], xy: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Two-sided p-values ``(n_genes, n_layers)`` of each test."""
    nulls = {
        "graph": moran_null(xy),
        "graph, wide": moran_null(xy, scheme="wide"),
        "graph, singleton": moran_null(xy, scheme="singleton"),
        "distance": distance_null(xy),
        "distance, wide": distance_null(xy, scheme="wide"),
    }
    out, z = {}, {}
    for name, null in nulls.items():
        counted = COPIES if name in ("graph", "distance") else 0
        result = association_test(genes, labels, null, n_null=counted)
        out[name], z[name] = result.pval, result.z
        if result.pval_empirical is not None:
            out[f"{name}, counted"] = result.pval_empirical
    modified = dutilleul_test(genes, labels, xy)
    out["Dutilleul"] = modified.pval
    out["mean z of graph and Dutilleul"] = 2 * norm.sf(np.abs(z["graph"] + modified.z) / 2)
    return out


def run(n_genes: int) -> pd.DataFrame:
    """One row per section, layer, kernel, share and test."""
    rows = []
    for number, (section, xy, layer) in enumerate(sections()):
        names = sorted(set(layer))
        labels = np.stack([layer == name for name in names], axis=1).astype(float)
        for kernel, share, genes in fields(xy, n_genes, number):
            for test, pval in p_values(genes, labels, xy).items():
                called = (pval < ALPHA).mean(axis=0)
                rows += [
                    {"section": section, "layer": n, "kernel": kernel, "share": share, "test": test, "called": float(c)}
                    for n, c in zip(names, called, strict=True)
                ]
    return pd.DataFrame(rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=600, help="genes per kernel and share")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks/layer_level.json"))
    args = parser.parse_args(argv)
    start = time.perf_counter()
    found = run(args.genes)
    tests = list(dict.fromkeys(found["test"]))
    by_layer = found.pivot_table(index=["section", "layer"], columns="test", values="called", sort=False)[tests]
    spread = found.groupby("test", sort=False)["called"].agg(["mean", "std", "min", "max"])
    spread["layers within .035-.065"] = ((by_layer > 0.035) & (by_layer < 0.065)).mean()
    print(by_layer.round(3).to_string(), "", spread.round(3).to_string(), sep="\n")
    write_json(args.json, {"alpha": ALPHA, "genes": args.genes, "records": found.to_dict("records")})
    print(f"\n{time.perf_counter() - start:.0f} s; written to {args.json}")


if __name__ == "__main__":
    main()
