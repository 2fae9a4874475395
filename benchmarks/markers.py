"""Marker recovery on any section with labels: ours beside scanpy's tests, scvi-tools and a linear latent space.

The molecules of a section are split in two halves by binomial thinning. Methods see one half; the truth is the top 50
genes of each label by Wilcoxon, with the true labels, on the *other* half, or on a second section (``--reference``, on
the genes of both). Recovery is the share of these in the top 50 of a method, averaged over labels; reported are mean
and standard error over splits. Rows of the table are methods, columns what they were given: all labels, a few labelled
spots per label (all of a label with fewer), wrong labels, or all labels and a tenth of the molecules of the section.

    python -m benchmarks.markers [--data F.h5ad] [--label layer] [--reference G.h5ad] [--layer counts] [--repeats 3]
        [--scvi-epochs 100] [--json out.json]

``F.h5ad`` holds raw counts in ``X`` (or ``--layer``), labels in ``obs`` (missing where not known) and
``obsm["spatial"]``. Without it the bulb, replicate 11, is taken where its files are at hand, else a simulated one.
SCVI and LinearSCVI are fitted to all spots of the half, with a negative binomial likelihood and their own defaults
otherwise; ``--scvi-epochs 0`` leaves them out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import st_concepts as stc
from benchmarks import recovery as pieces
from benchmarks._common import OUT, environment, table, write_json
from benchmarks._sections import prepare, read, seen
from benchmarks.recovery import recovery, statistic, top, wilcoxon, wrong
from st_concepts._counts.features import log_normalize
from st_concepts._counts.split import thin
from st_concepts._slots import KEYS, safe_labels

FEW = (20, 10, 5, 3)
WRONG = (0.2, 0.4)
THINNED = "10% counts"

# statistics (n_vars, n_labels) by name of the method, given labels with None where unlabelled
Methods = Callable[[np.ndarray], Iterator[tuple[str, np.ndarray]]]


def load(path: Path | None, label: str, layer: str | None) -> tuple[str, AnnData]:
    """Name and section of a file, or else of what is at hand."""
    if path is not None:
        name, adata = path.name, read(path)
    elif stc.datasets.bulb_at_hand(11):
        name, adata = "bulb, replicate 11", stc.datasets.mouse_olfactory_bulb(11)
    else:
        name, adata = "simulated bulb", stc.datasets.simulated_bulb(n_obs=600, n_vars=1500, unlabelled=0.05)
    return name, prepare(name, adata, label, layer)


def normalized(counts: sp.csr_matrix) -> sp.csr_matrix:
    totals = np.asarray(counts.sum(1)).ravel()
    return log_normalize(counts, float(np.median(totals[totals > 0])))


def few_or_all(labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """``k`` labelled spots per label, or all where there are not as many."""
    out = np.full(len(labels), None, dtype=object)
    for name in pieces.LAYERS:
        spots = np.flatnonzero(labels == name)
        out[rng.choice(spots, min(k, len(spots)), replace=False)] = name
    return out


def some_wrong(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Wrong labels in a share of the spots; drawn again should a label be left with fewer than two spots."""
    for _ in range(1000):
        out = wrong(labels, share, rng)
        if min((out == name).sum() for name in pieces.LAYERS) >= 2:
            return out
    raise SystemExit("Too few labelled spots for wrong labels.")


# ------------------------------------------------------------------------------------------------------------ methods


def scanpy_methods(half: AnnData) -> Methods:
    """`scanpy.tl.rank_genes_groups` on the labelled spots alone, genes that are constant there at zero."""
    x = normalized(half.X)
    names = pieces.LAYERS

    def rank(given: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        known = np.array([v is not None for v in given])
        here = x[known].tocsc()
        # sparse: constant means no nonzero at all, or the same value everywhere
        varies = np.asarray((here.max(0) - here.min(0)).todense()).ravel() > 0
        sub = AnnData(here[:, varies].tocsr(), var=pd.DataFrame(index=half.var_names[varies]))
        sub.obs["given"] = pd.Categorical(given[known], categories=names)
        sub.uns["log1p"] = {"base": None}
        for title, method, options in (
            ("Wilcoxon", "wilcoxon", {"tie_correct": True}),
            ("t-test", "t-test", {}),
            ("logreg", "logreg", {"max_iter": 1000}),
        ):
            sc.tl.rank_genes_groups(sub, "given", method=method, **options)
            made = sub.uns["rank_genes_groups"]
            out = np.zeros((half.n_vars, len(names)))
            columns = made["names"].dtype.names
            for j, v in enumerate(names):
                if v in columns:
                    out[varies, j] = pd.Series(made["scores"][v], index=made["names"][v])[sub.var_names]
            if len(columns) == 1:  # of two labels, the regression reports one
                out[:, 1 - names.index(columns[0])] = -out[:, names.index(columns[0])]
            yield title, np.nan_to_num(out)

    return rank


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def scvi_methods(half: AnnData, epochs: int, seed: int) -> Methods:
    """Differential expression of SCVI (change mode, label against the other labelled spots), loadings of LinearSCVI."""
    import scvi

    adata = AnnData(half.X.copy(), obs=half.obs[[]].copy(), var=half.var.copy())
    models = []
    with quiet():
        for kind in (scvi.model.SCVI, scvi.model.LinearSCVI):
            scvi.settings.seed = seed
            kind.setup_anndata(adata)
            model = kind(adata, gene_likelihood="nb")
            model.train(max_epochs=epochs, train_size=1.0, enable_progress_bar=False, logger=False)
            models.append(model)
        deep, linear = models
        z = linear.get_latent_representation()
        loadings = linear.get_loadings().to_numpy()

    def rank(given: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        known = np.array([v is not None for v in given])
        changed, weighted, single = [], [], []
        for name in pieces.LAYERS:
            inside, outside = given == name, known & (given != name)
            with quiet():
                found = deep.differential_expression(
                    adata, idx1=inside, idx2=outside, mode="change", all_stats=False, silent=True
                ).loc[adata.var_names]
            # posterior probability of a change, upwards first; ties, of which there are many at 1, by its size
            up = found["proba_de"].to_numpy() * np.sign(found["lfc_mean"].to_numpy())
            place = np.empty(half.n_vars)
            place[np.lexsort((found["lfc_mean"].to_numpy(), up))] = np.arange(half.n_vars)
            changed.append(place)
            difference = z[inside].mean(0) - z[outside].mean(0)
            factor = int(np.abs(difference / z.std(0)).argmax())
            weighted.append(loadings @ difference)
            single.append(loadings[:, factor] * np.sign(difference[factor]))
        yield "SCVI, change mode", np.stack(changed, axis=1)
        yield "LinearSCVI, one factor", np.stack(single, axis=1)
        yield "LinearSCVI, mean difference", np.stack(weighted, axis=1)

    return rank


def our_methods(half: AnnData, seed: int) -> Methods:
    linear = stc.SpotVAE(half, seed=seed).fit(max_epochs=0, progress=False)
    model = stc.SpotVAE(half, seed=seed).fit(progress=False)

    def rank(given: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield "PCA + pattern", statistic(half, linear, given, "auto")
        yield "ours, pattern", statistic(half, model, given, "auto")
        for title, method in (("ours, integrated gradients", "integrated_gradients"), ("ours, gradient", "gradient")):
            stc.tl.saliency(half, model, method=method)
            yield title, half.varm[KEYS.SALIENCY][safe_labels(pieces.LAYERS)].to_numpy(dtype=np.float64)

    return rank


# --------------------------------------------------------------------------------------------------------------- runs


def one_split(adata: AnnData, reference: AnnData | None, repeat: int, epochs: int) -> list[dict[str, Any]]:
    """Recovery of every method in every cell for one split of the molecules."""
    rest, seen = thin(adata.X, 0.5, seed=repeat)
    truth_from = (rest, adata) if reference is None else (reference.X, reference)
    truth = top(wilcoxon(normalized(truth_from[0]), truth_from[1].obs["label"].to_numpy()))
    rng = np.random.default_rng(repeat)
    rows = []
    for share in (0.5, 0.1):
        counts = seen if share == 0.5 else thin(seen, 0.2, seed=repeat + 1000)[1]
        keep = np.asarray(counts.sum(1)).ravel() > 0  # scvi-tools takes the logarithm of the total
        half = AnnData(
            counts[keep], obs=adata.obs[[]][keep], var=adata.var, obsm={KEYS.SPATIAL: adata.obsm["spatial"][keep]}
        )
        labels = adata.obs["label"].to_numpy()[keep]
        labels = np.array([v if v in pieces.LAYERS else None for v in labels], dtype=object)
        cells = {"all labels" if share == 0.5 else THINNED: labels}
        if share == 0.5:
            cells |= {f"{k} spots": few_or_all(labels, k, rng) for k in FEW}
            cells |= {f"{w:.0%} wrong": some_wrong(labels, w, rng) for w in WRONG}
        makers: list[Callable[[], Methods]] = [lambda half=half: scanpy_methods(half)]
        if epochs:
            makers.append(lambda half=half: scvi_methods(half, epochs, repeat))
        makers.append(lambda half=half: our_methods(half, repeat))
        for make in makers:
            begin = time.perf_counter()
            rank = make()
            for cell, given in cells.items():
                for name, values in rank(given):
                    rows.append({"repeat": repeat, "cell": cell, "method": name, "recovery": recovery(values, truth)})
            what = f"{rows[-1]['method'].split(',')[0]} and the like"
            print(
                f"  split {repeat}, {share:.0%} of the molecules, {what}: {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per method and cell: mean, standard error over splits (`None` for one), number of splits."""
    grouped = pd.DataFrame(rows).groupby(["method", "cell"], sort=False)["recovery"]
    return [
        {
            "method": method,
            "cell": cell,
            "mean": float(values.mean()),
            "standard_error": float(values.sem()) if len(values) > 1 else None,
            "n": len(values),
        }
        for (method, cell), values in grouped
    ]


def shown(cells: list[dict[str, Any]]) -> str:
    lines: dict[str, dict[str, Any]] = {}
    for c in cells:
        error = "" if c["standard_error"] is None else f" ± {c['standard_error']:.3f}"
        lines.setdefault(c["method"], {"method": c["method"]})[c["cell"]] = f"{c['mean']:.3f}{error}"
    return table(list(lines.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="h5ad with raw counts, labels and positions")
    parser.add_argument("--label", default="layer", help="column of obs with the labels")
    parser.add_argument("--layer", help="layer with the raw counts, X by default")
    parser.add_argument("--reference", type=Path, help="h5ad of a second section, for the truth")
    parser.add_argument("--repeats", type=int, default=3, help="splits of the molecules")
    parser.add_argument("--scvi-epochs", type=int, default=100, help="0 leaves SCVI and LinearSCVI out")
    parser.add_argument("--json", type=Path, default=OUT / "markers.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    name, adata = load(args.data, args.label, args.layer)
    adata = seen(adata)
    names, reference = list(adata.uns["labels"]), None
    if args.reference is not None:
        other, reference = load(args.reference, args.label, args.layer)
        shared = adata.var_names[adata.var_names.isin(reference.var_names)]
        adata, reference = adata[:, shared].copy(), reference[:, shared].copy()
        names = [v for v in names if v in reference.uns["labels"]]
        name += f", truth from {other}"
    if len(names) < 2 or adata.n_vars < 2 * pieces.TOP:
        raise SystemExit(f"{name}: {adata.n_vars} genes and labels {names} are too few to compare methods on.")
    # what is imported from benchmarks.recovery goes by this list
    pieces.LAYERS = names
    print(f"{name}: {adata.n_obs} spots x {adata.n_vars} genes; labels {', '.join(names)}", flush=True)

    rows = [row for r in range(args.repeats) for row in one_split(adata, reference, r, args.scvi_epochs)]
    cells = summary(rows)
    print(f"\nRecovery of the top {pieces.TOP}, mean over {len(names)} labels, {args.repeats} splits\n" + shown(cells))
    content = {
        "data": {"name": name, "n_obs": adata.n_obs, "n_vars": adata.n_vars, "labels": names},
        "settings": {"label": args.label, "repeats": args.repeats, "scvi_epochs": args.scvi_epochs, "top": pieces.TOP},
        "summary": cells,
        "rows": rows,
        "environment": environment("st-concepts", "torch", "scvi-tools", "scanpy", "numpy", "scipy"),
    }
    print("written to", write_json(args.json.stem, content, out=args.json.parent))


if __name__ == "__main__":
    main()
