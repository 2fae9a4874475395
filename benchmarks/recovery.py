"""Which of the markers that other data would name does a ranking find? All, few and wrong labels, thin counts.

The counts of a section are split in two by binomial thinning. Methods see one half and the labels of a cell; the truth
is the top 50 genes of each label in the *other* half with all labels as they are, by Wilcoxon and by Welch's t (the
mean of both). Recovery is the share of them in a method's top 50. A third truth, where there are other sections of the
tissue, is their mean rank in these. The peers: Wilcoxon, t-test and logistic regression of scanpy, and the best that a
few lines make: PCA of log counts, a shrunk discriminant, correlation with its score.

    python -m benchmarks.recovery [--sections F.h5ad ... | FOLDER] [--only MOB_rep11] [--seeds 3] [--cells all 5]
        [--start-only] [--json out.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import st_concepts as stc
from benchmarks._common import OUT, environment, write_json
from benchmarks._sections import Section, add_arguments, quiet, sections
from st_concepts._counts.features import log_normalize
from st_concepts._counts.split import thin
from st_concepts._slots import KEYS

TOP = 50
CELLS = ("all", "20", "5", "3", "20% wrong", "40% wrong", "10% of counts")
PEERS = ("Wilcoxon", "t-test", "logistic", "PCA + discriminant")
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, spot alone": {"context": 0},
}


def given(labels: np.ndarray, names: Sequence[str], cell: str, rng: np.random.Generator) -> np.ndarray:
    """The labels that a method sees in a cell; `None` where it sees none."""
    if cell.endswith("wrong"):
        out = labels.copy()
        for i in np.flatnonzero([v in names for v in labels]):
            if rng.random() < float(cell.split("%")[0]) / 100:
                out[i] = rng.choice([v for v in names if v != labels[i]])
        return out
    if not cell.isdigit():
        return np.array([v if v in names else None for v in labels], dtype=object)
    out = np.full(len(labels), None, dtype=object)
    for name in names:
        spots = np.flatnonzero(labels == name)
        out[rng.choice(spots, min(int(cell), len(spots)), replace=False)] = name
    return out


def scanpys(x: sp.csr_matrix, var: pd.DataFrame, labels: np.ndarray, names: Sequence[str], method: str) -> np.ndarray:
    """Scores of scanpy, each label against the other labelled spots, ``(n_vars, n_labels)``."""
    known = np.array([v is not None for v in labels])
    part = AnnData(x[known], var=pd.DataFrame(index=var.index))
    part.obs["given"] = pd.Categorical(labels[known], categories=list(names))
    part.uns["log1p"] = {"base": None}
    options = {"max_iter": 200} if method == "logreg" else {}
    with quiet():
        sc.tl.rank_genes_groups(part, "given", method=method, **options)
    found = part.uns["rank_genes_groups"]
    if method == "logreg" and len(found["names"].dtype.names) < len(names):  # two classes have one coefficient
        first = found["names"].dtype.names[0]
        one = pd.Series(found["scores"][first], index=found["names"][first])[var.index].to_numpy()
        return np.nan_to_num(np.stack([one if v == first else -one for v in names], axis=1))
    columns = [pd.Series(found["scores"][v], index=found["names"][v])[var.index].to_numpy() for v in names]
    return np.nan_to_num(np.stack(columns, axis=1))


def discriminant(x: sp.csr_matrix, labels: np.ndarray, names: Sequence[str], seed: int) -> np.ndarray:
    """Correlation of log counts with the score of a shrunk discriminant on 20 principal components."""
    mean = np.asarray(x.mean(axis=0))
    z = PCA(20, svd_solver="arpack", random_state=seed).fit_transform(x)
    known = np.array([v is not None for v in labels])
    out = []
    for name in names:
        rule = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
        rule.fit(z[known], labels[known] == name)
        score = z @ rule.coef_[0]
        score -= score.mean()
        out.append(score / max(np.linalg.norm(score), 1e-12))
    second = np.asarray(x.multiply(x).mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(second - mean.ravel() ** 2, 1e-12) * x.shape[0])
    return (x.T @ np.stack(out, axis=1)) / sd[:, None]


def ours(adata: AnnData, model: stc.SpotVAE, labels: np.ndarray, names: Sequence[str], **options: Any) -> np.ndarray:
    """Scores of our ranking by defaults, ``(n_vars, n_labels)``."""
    adata.obs["given"] = pd.Categorical(labels, categories=list(names))
    with quiet():
        stc.tl.concepts(adata, model, groupby="given", **options)
        stc.tl.rank_genes_concepts(adata, n_null=0, null="none")
    made = adata.uns[KEYS.RANK]
    columns = [pd.Series(made["scores"][v], index=made["names"][v])[adata.var_names].to_numpy() for v in names]
    return np.stack(columns, axis=1)


def methods(
    seen: AnnData, x: sp.csr_matrix, models: dict[str, stc.SpotVAE], known: np.ndarray, names: Sequence[str], seed: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Peers and ours, each still to be run."""
    out: dict[str, Callable[[], np.ndarray]] = {
        "Wilcoxon": lambda: scanpys(x, seen.var, known, names, "wilcoxon"),
        "t-test": lambda: scanpys(x, seen.var, known, names, "t-test"),
        "logistic": lambda: scanpys(x, seen.var, known, names, "logreg"),
        "PCA + discriminant": lambda: discriminant(x, known, names, seed),
    }
    for trained, model in models.items():
        for name, options in OURS.items():
            out[name + trained] = partial(ours, seen, model, known, names, **options)
    return out


def top(scores: np.ndarray) -> list[set[int]]:
    return [set(np.argsort(-s, kind="stable")[:TOP]) for s in scores.T]


def recovered(scores: np.ndarray, truths: Sequence[list[set[int]]]) -> float:
    found = top(scores)
    return float(np.mean([len(a & b) / TOP for truth in truths for a, b in zip(found, truth, strict=True)]))


def log_counts(counts: sp.csr_matrix) -> sp.csr_matrix:
    totals = np.asarray(counts.sum(axis=1)).ravel()
    return log_normalize(counts, float(np.median(totals[totals > 0])))


def elsewhere(section: Section, others: Sequence[Section], names: Sequence[str]) -> list[list[set[int]]]:
    """Top genes of the same labels in the other sections of the tissue (mean rank of Welch's t); none without any."""
    ranks = []
    for other in others:
        if other.tissue != section.tissue or other.name == section.name or set(other.labels) != set(names):
            continue
        a = other.adata
        scores = scanpys(log_counts(a.X), a.var, given(a.obs["label"].to_numpy(), names, "all", None), names, "t-test")
        frame = pd.DataFrame(-scores, index=a.var_names).rank().reindex(section.adata.var_names)
        ranks.append(frame.fillna(a.n_vars).to_numpy())
    return [top(-np.mean(ranks, axis=0))] if ranks else []


def recover(
    section: Section,
    others: Sequence[Section],
    cells: Sequence[str],
    seeds: int,
    peers: Sequence[str] = PEERS,
    *,
    start_only: bool,
) -> list[dict[str, Any]]:
    """One row for a seed, a cell and a method."""
    adata, names, rows = section.adata, section.labels, []
    labels = np.array([v if v in names else None for v in adata.obs["label"]], dtype=object)
    abroad = elsewhere(section, others, names)
    fit = {"max_epochs": 0} if start_only else {}
    for seed in range(seeds):
        for share, wanted in ((0.5, [c for c in cells if c != CELLS[-1]]), (0.1, [c for c in cells if c == CELLS[-1]])):
            if not wanted:
                continue
            rest, half = thin(adata.X, share, seed=seed)
            x = log_counts(rest)
            truths = [top(scanpys(x, adata.var, labels, names, m)) for m in ("wilcoxon", "t-test")]
            seen = AnnData(half, var=adata.var.copy(), obs=pd.DataFrame(index=adata.obs_names), obsm=dict(adata.obsm))
            x = log_counts(half)
            with quiet():
                models = {"": stc.SpotVAE(seen, seed=seed).fit(progress=False, **fit)}
                if not start_only:
                    models[", before training"] = stc.SpotVAE(seen, seed=seed).fit(progress=False, max_epochs=0)
            for cell in wanted:
                known = given(labels, names, cell, np.random.default_rng([seed, CELLS.index(cell)]))
                for method, run in methods(seen, x, models, known, names, seed).items():
                    if method in PEERS and method not in peers:
                        continue
                    start = time.perf_counter()
                    scores = run()
                    row = {"section": section.name, "seed": seed, "cell": cell, "method": method}
                    row |= {"recovery": recovered(scores, truths), "seconds": time.perf_counter() - start}
                    rows.append(row | ({"elsewhere": recovered(scores, abroad)} if abroad else {}))
    return rows


def tables(rows: list[dict[str, Any]], cells: Sequence[str]) -> str:
    """Means over sections, margins over the best peer, and each section."""
    frame = pd.DataFrame(rows)
    parts = []
    for value in ("recovery", *(["elsewhere"] if "elsewhere" in frame else [])):
        mean = frame.groupby(["method", "cell", "section"], sort=False)[value].mean().dropna()
        mean = mean.groupby(["method", "cell"], sort=False).mean().unstack()[list(cells)]
        best = mean.loc[[p for p in PEERS if p in mean.index]].max()
        mean.loc["ours less the best peer"] = mean.loc["ours"] - best
        parts.append(f"\n{value}, mean over sections and seeds\n{mean.round(3).to_string()}")
    by = frame.groupby(["section", "cell", "method"], sort=False)["recovery"].mean().unstack()
    margin = (by["ours"] - by[[p for p in PEERS if p in by]].max(axis=1)).unstack()[list(cells)]
    parts.append("\nours less the section's best peer\n" + margin.round(3).to_string())
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="logistic regression takes longest")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--start-only", action="store_true", help="look at the warm start, without training")
    parser.add_argument("--json", type=Path, default=OUT / "recovery.json")
    args = parser.parse_args(argv)
    chosen, every = sections(args)
    rows: list[dict[str, Any]] = []
    for section in chosen:
        rows += recover(section, every, args.cells, args.seeds, args.peers, start_only=args.start_only)
        print(tables([r for r in rows if r["section"] == section.name], args.cells), flush=True)
    print(tables(rows, args.cells))
    content = {"environment": environment("st_concepts", "scanpy", "torch"), "rows": rows}
    print("written to", write_json(args.json.stem, content, out=args.json.parent))


if __name__ == "__main__":
    main()
