"""Tables of the report: markers, score histograms, doubtful labels, how the result was made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts import __version__, evaluate, get
from st_concepts._keys import KEYS
from st_concepts.attribution import METHODS
from st_concepts.concepts import ConceptSet
from st_concepts.pl._histograms import auroc
from st_concepts.tl._common import membership

_BINS = 36
_TITLES = {
    "concept": "Layer",
    "names": "Gene",
    "scores": "Effect",
    "logfoldchanges": "log2 FC",
    "pct_in": "Seen inside",
    "pct_out": "Seen outside",
    "saliency": "Saliency",
    "pvals": "p",
    "pvals_adj": "FDR",
}
PACKAGES = ("anndata", "captum", "numpy", "scanpy", "scipy", "squidpy", "torch")


def markers(adata: AnnData, made: ConceptSet, n_rows: int) -> dict[str, Any] | None:
    """Titles and rows of the marker table, the ``n_rows`` best genes of each concept; `None` without a ranking."""
    if KEYS.RANK not in adata.uns:
        return None
    ranked = adata.uns[KEYS.RANK]["names"].dtype.names
    frame = pd.concat(
        [
            get.markers(adata, name, n=n_rows).assign(concept=name, rank=lambda f: np.arange(1, len(f) + 1))
            for name in made.names
            if name in ranked
        ],
        ignore_index=True,
    )
    first = ["concept", "rank", "names", "scores", "logfoldchanges", "pct_in", "pct_out", "saliency"]
    last = ["pvals", "pvals_adj"]
    columns = [c for c in first if c in frame]
    columns += [c for c in frame.columns if c not in (*first, *last)] + [c for c in last if c in frame]
    return {
        "columns": [{"name": c, "title": _TITLES.get(c, c.replace("_", " ").capitalize())} for c in columns],
        "text": [c in ("concept", "names") or not pd.api.types.is_numeric_dtype(frame[c]) for c in columns],
        "rows": [[_cell(v) for v in row] for row in frame[columns].itertuples(index=False)],
        "null": str(adata.uns[KEYS.RANK]["params"].get("null", "")),
        "method": str(adata.uns[KEYS.RANK]["params"].get("method", "")),
        "n_vars": adata.n_vars,
    }


def histograms(adata: AnnData, made: ConceptSet) -> list[dict[str, Any]]:
    """Score inside and outside of each concept: bin centres and shares of spots."""
    members, scores = membership(adata, made), get.concept_scores(adata)
    out = []
    for j, name in enumerate(made.names):
        values = scores[name].to_numpy(dtype=np.float64)
        good = np.isfinite(values)
        sides = [values[members.inside[:, j] & good], values[members.outside[:, j] & good]]
        if not sum(s.size for s in sides):
            continue
        edges = np.histogram_bin_edges(np.concatenate(sides), bins=_BINS)
        shares = [np.histogram(s, edges)[0] / max(s.size, 1) for s in sides]
        out.append(
            {
                "name": name,
                "centers": (0.5 * (edges[1:] + edges[:-1])).tolist(),
                "inside": shares[0].tolist(),
                "outside": shares[1].tolist(),
                "n": [int(s.size) for s in sides],
                "auroc": auroc(*sides) if all(s.size for s in sides) else None,
            }
        )
    return out


def faithful(adata: AnnData, model: Any, seed: int, n_genes: int = 20) -> pd.DataFrame:
    """Mean score of the spots of each concept before and after its most salient genes, or random ones, are taken.

    At most a quarter of the genes are taken: of a small panel, fewer than ``n_genes``.
    """
    n_genes = max(1, min(n_genes, int(adata.varm[KEYS.SALIENCY].notna().any(axis=1).sum()) // 4))
    found = evaluate.faithfulness(adata, model, n_top=(n_genes,), n_random=10, seed=seed).query("curve == 'deletion'")
    before, after = (found.query(f"n_genes == {n}").set_index("concept") for n in (0, n_genes))
    return pd.DataFrame(
        {
            "Layer": after.index,
            "Mean score": before.loc[after.index, "score"].to_numpy(),
            f"without the {n_genes} most salient genes": after["score"].to_numpy(),
            f"without {n_genes} random genes": after["score_random"].to_numpy(),
            "times the fall of random genes": after["ratio"].to_numpy(),
        }
    )


def plain(frame: pd.DataFrame, n_rows: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table as text."""
    rows = frame.head(n_rows).itertuples(index=False)
    return [str(c) for c in frame.columns], [[_short(_cell(v)) for v in row] for row in rows]


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def doubtful(adata: AnnData, made: ConceptSet, n_rows: int) -> dict[str, Any] | None:
    """Spots whose label the model finds less likely than not, most doubtful first; `None` where that is not known."""
    groupby = str(made.params.get("groupby") or "")
    if KEYS.DISAGREEMENT not in adata.obs or groupby not in adata.obs:
        return None
    doubt = adata.obs[KEYS.DISAGREEMENT].to_numpy(dtype=np.float64)
    scores = get.concept_scores(adata)
    order = np.argsort(-np.nan_to_num(doubt, nan=-1.0), kind="stable")
    order = order[doubt[order] > 0.5]
    labels = adata.obs[groupby].astype(str).to_numpy()
    others = np.where(labels[:, None] == np.array(made.names, dtype=object)[None, :], -np.inf, scores.to_numpy())
    best = others.argmax(1)
    return {
        "n": int(order.size),
        "n_labelled": int(np.isfinite(doubt).sum()),
        "rows": [
            [str(adata.obs_names[i]), labels[i], str(scores.columns[best[i]]), _cell(float(doubt[i]))]
            for i in order[:n_rows]
        ],
    }


def settings(adata: AnnData, made: ConceptSet) -> list[tuple[str, str]]:
    """How the result was made, as name and value."""
    out = [("Model", made.model)]
    out += _flat("Concepts", made.params)
    for title, key in (("Saliency", KEYS.SALIENCY), ("Markers", KEYS.RANK)):
        stored = adata.uns.get(key, {})
        out += _flat(title, stored.get("params", {}) if isinstance(stored, Mapping) else {})
    return [(name, value) for name, value in out if value not in ("", "[]")]


def versions() -> list[tuple[str, str]]:
    """Versions of what wrote the report."""
    out = [("st_concepts", __version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            out.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def fingerprint(adata: AnnData, layer: str | None) -> str:
    """sha256 of counts, spot and gene names: the same for the same data, however it is stored."""
    digest = hashlib.sha256()
    for names in (adata.obs_names, adata.var_names):
        digest.update("\0".join(map(str, names)).encode())
        digest.update(b"\1")
    x = adata.layers[layer] if layer else adata.X
    if x is not None:
        rows = sp.csr_matrix(x if sp.issparse(x) else np.asarray(x), dtype=np.float64, copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        for part in (rows.indptr, rows.indices):
            digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(rows.data, dtype="<f8").tobytes())
    return digest.hexdigest()


def citations(adata: AnnData) -> list[str]:
    """What to cite for what was done."""
    out = [
        "Concept saliency: Brocki, L. & Chung, N. C. Concept Saliency Maps to Visualize Relevant Features in Deep "
        "Generative Models. arXiv:1910.13140 (2019)."
    ]
    saliency = adata.uns.get(KEYS.SALIENCY, {})
    method = METHODS.get(str(saliency.get("params", saliency).get("method", "")))
    if method is not None:
        out.append(f"Attribution ({method.name}): {method.citation}.")
    ranking = adata.uns.get(KEYS.RANK, {}).get("params", {})
    if ranking.get("method") == "pattern":
        out.append(
            "Pattern statistic: Haufe, S. et al. On the interpretation of weight vectors of linear models in "
            "multivariate neuroimaging. NeuroImage 87, 96-110 (2014)."
        )
    if ranking.get("null") == "moran":
        out.append(
            "Spatial null: Wagner, H. H. & Dray, S. Generating spatially constrained null models for irregularly "
            "spaced data using Moran spectral randomization methods. Methods Ecol. Evol. 6, 1169-1178 (2015)."
        )
    return out


def _flat(title: str, params: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = []
    for key, value in params.items():
        if isinstance(value, np.ndarray):
            value = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value.ravel().tolist())
        elif isinstance(value, (float, np.floating)):
            value = f"{value:.6g}"
        elif isinstance(value, Mapping):
            continue
        out.append((f"{title}: {str(key).replace('_', ' ')}", str(value)))
    return out


def _cell(value: Any) -> Any:
    """A number that JSON has, to six digits; text as it is; `None` for missing."""
    if isinstance(value, (bool, np.bool_)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return str(value)
