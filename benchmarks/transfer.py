"""How well do predicted labels of one section hold on another of the tissue, and how well do they know it?

The labels of a section are transferred to every other section of its tissue (names that begin with the same word), as
far as both have them: by ``stc.tl.predict_labels``, by ``scanpy.tl.ingest`` (PCA and neighbours on the genes that both
have; without a probability; where its own index fails, the same with exact neighbours) and, where scvi-tools is
installed, by scANVI trained on both sections with the labels of one. Accuracy and macro F1 over the spots whose label
both sections have; expected calibration error of the label given, in ten bins of equal size.

    python -m benchmarks.transfer [--sections F.h5ad ... | FOLDER] [--only MOB_rep11] [--label layer] [--start-only]
        [--epochs 100] [--json out.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import st_concepts as stc
from benchmarks._common import OUT, environment, write_json
from benchmarks._sections import Section, add_arguments, fitted, quiet, sections

BINS = 10
# label of each spot, and its probability where there is one
Prediction = tuple[np.ndarray, np.ndarray | None]


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean of |share right - mean probability| over ten bins of equal size.

    >>> round(calibration_error(np.full(10, 0.75), np.arange(10) < 5), 2)
    0.55
    """
    bins = np.array_split(np.argsort(probability, kind="stable"), BINS)
    return float(sum(len(b) * abs(probability[b].mean() - right[b].mean()) for b in bins if len(b)) / len(right))


def common(section: Section, other: Section) -> list[str]:
    """Labels that both sections have, in the order of the first."""
    return [name for name in section.labels if name in other.labels]


def labelled(section: Section, names: list[str]) -> np.ndarray:
    labels = section.adata.obs["label"].to_numpy()
    return np.array([v if v in names else None for v in labels], dtype=object)


def ours(section: Section, other: Section, names: list[str], *, start_only: bool, context: Any = "auto") -> Prediction:
    """What the package predicts, with a model of the first section."""
    adata, target = section.adata.copy(), other.adata.copy()
    adata.obs["given"] = pd.Categorical(labelled(section, names), categories=names)
    model = fitted(section, start_only=start_only)
    with quiet():
        stc.tl.concepts(adata, model, groupby="given", context=context, n_null=0)
        stc.tl.predict_labels(target, model, concepts=adata)
    found = target.obsm["concept_probability"].to_numpy()
    best = np.nan_to_num(found).argmax(axis=1)
    told = target.obs["concept_label"].astype(object).where(target.obs["concept_label"].notna(), None).to_numpy()
    return told, np.where(told == np.array(names, dtype=object)[best], found.max(axis=1), 0.0)


def ingest(section: Section, other: Section, names: list[str]) -> Prediction:
    """Labels of the nearest spots in the PCA of the first section, on log counts of the genes that both have."""
    genes = section.adata.var_names.intersection(other.adata.var_names)
    reference, query = section.adata[:, genes].copy(), other.adata[:, genes].copy()
    reference.obs["given"] = labelled(section, names)
    reference = reference[reference.obs["given"].notna()].copy()
    reference.obs["given"] = pd.Categorical(reference.obs["given"], categories=names)
    with quiet():
        for part in (reference, query):
            sc.pp.normalize_total(part)
            sc.pp.log1p(part)
        sc.pp.pca(reference, n_comps=20)
        sc.pp.neighbors(reference)
        try:
            sc.tl.ingest(query, reference, obs="given", embedding_method="pca")
        except TypeError:  # its index of neighbours does not go with every pynndescent
            mean = np.asarray(reference.X.mean(axis=0)).ravel()
            z = (query.X.toarray() - mean) @ reference.varm["PCs"]
            nearest = KNeighborsClassifier(15).fit(reference.obsm["X_pca"], reference.obs["given"].astype(str))
            query.obs["given"] = nearest.predict(z)
    return query.obs["given"].astype(str).to_numpy(dtype=object), None


def scanvi(section: Section, other: Section, names: list[str], *, epochs: int) -> Prediction:
    """scANVI on both sections, which corrects for the section, with the labels of the first."""
    import anndata as ad
    import scvi

    scvi.settings.seed = 0
    genes = section.adata.var_names.intersection(other.adata.var_names)
    both: AnnData = ad.concat(
        [section.adata[:, genes], other.adata[:, genes]], keys=["a", "b"], label="of", index_unique="-"
    )
    given = np.full(both.n_obs, "Unknown", dtype=object)
    known = labelled(section, names)
    given[: len(known)] = np.where(known == None, "Unknown", known)  # noqa: E711 (element by element)
    both.obs["given"] = pd.Categorical(given)
    with quiet():
        scvi.model.SCVI.setup_anndata(both, batch_key="of")
        start = scvi.model.SCVI(both, n_latent=20)
        start.train(max_epochs=epochs, enable_progress_bar=False, logger=False, accelerator="cpu")
        model = scvi.model.SCANVI.from_scvi_model(start, unlabeled_category="Unknown", labels_key="given")
        model.train(max_epochs=max(epochs // 5, 1), enable_progress_bar=False, logger=False, accelerator="cpu")
        found = model.predict(both[both.obs["of"] == "b"].copy(), soft=True)
    return found.columns.to_numpy()[found.to_numpy().argmax(axis=1)].astype(object), found.to_numpy().max(axis=1)


def compared(section: Section, other: Section, way: Callable[..., Prediction]) -> dict[str, float]:
    """Accuracy, macro F1, calibration error and seconds."""
    names = common(section, other)
    truth = labelled(other, names)
    known = truth != None  # noqa: E711 (element by element)
    start = time.perf_counter()
    told, probability = way(section, other, names)
    seconds = time.perf_counter() - start
    right = told[known] == truth[known]
    text = np.where(told[known] == None, "", told[known]).astype(str)  # noqa: E711
    return {
        "spots": float(known.sum()),
        "accuracy": float(right.mean()),
        "macro F1": float(f1_score(truth[known].astype(str), text, labels=names, average="macro", zero_division=0)),
        "ECE": float("nan") if probability is None else calibration_error(probability[known], right),
        "none": float(np.mean(told[known] == "none of these")),
        "seconds": seconds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--start-only", action="store_true", help="leave our model at its start")
    parser.add_argument("--epochs", type=int, default=100, help="of scVI, and a fifth of it for scANVI")
    parser.add_argument("--json", type=Path, default=OUT / "transfer.json")
    args = parser.parse_args(argv)
    chosen, every = sections(args)
    ways: dict[str, Callable[..., Prediction]] = {
        "ours": partial(ours, start_only=args.start_only),
        "ours, spot alone": partial(ours, start_only=args.start_only, context=0),
        "ingest": ingest,
    }
    if find_spec("scvi") is None:
        print("scANVI is left out: scvi-tools is not installed")
    else:
        ways["scANVI"] = partial(scanvi, epochs=args.epochs)
    rows = []
    for section in chosen:
        for other in every:
            if other.name == section.name or other.tissue != section.tissue or len(common(section, other)) < 2:
                continue
            for name, way in ways.items():
                rows.append({"from": section.name, "to": other.name, "method": name} | compared(section, other, way))
                print(
                    "  ".join(f"{v:.3f}" if isinstance(v, float) else f"{v:<17}" for v in rows[-1].values()), flush=True
                )
    if not rows:
        raise SystemExit("No two sections of one tissue have two labels in common.")
    table = pd.DataFrame(rows)
    mean = table.groupby("method", sort=False)[["accuracy", "macro F1", "ECE", "none", "seconds"]].mean()
    print(mean.round(3).to_string())
    content = {"environment": environment("st_concepts", "scanpy", "scvi-tools", "torch"), "rows": rows}
    print("written to", write_json(args.json.stem, content, out=args.json.parent))


if __name__ == "__main__":
    main()
