"""Tables of the report: score histograms, doubtful labels, how the result was made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts import __version__, get
from st_concepts._counts.rows import iter_rows
from st_concepts._slots import KEYS
from st_concepts.attribution import METHODS
from st_concepts.concepts import ConceptSet, defining_labels, membership
from st_concepts.models import as_encoder, model_info, titled
from st_concepts.stats import NULLS, auroc

_BINS = 36
_ROWS = 4096
# "score_auroc" leaves out near-empty spots: beside the AUROC of the histograms it would be a second one
_INTERNAL = ("reference_labels", "key", "score_key", "kind", "use_raw", "concepts", "model", "score_auroc")
_BEFORE = ("groupby", "method", "reference")
PACKAGES = ("anndata", "captum", "numpy", "scanpy", "scipy", "squidpy", "torch")


def histograms(adata: AnnData, made: ConceptSet) -> list[dict[str, Any]]:
    """Score inside and outside of each concept: bin centres and shares of spots.

    No AUROC where no labels made the concepts: the spots inside are then those that score highest.
    """
    labelled = made.params.get("kind") in ("groupby", "mask")
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
                "auroc": auroc(*sides) if labelled and all(s.size for s in sides) else None,
            }
        )
    return out


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
    if KEYS.DISAGREEMENT not in adata.obs or made.groupby not in adata.obs:
        return None
    doubt = adata.obs[KEYS.DISAGREEMENT].to_numpy(dtype=np.float64)
    scores = get.concept_scores(adata)
    order = np.argsort(-np.nan_to_num(doubt, nan=-1.0), kind="stable")
    order = order[doubt[order] > 0.5]
    labels = defining_labels(adata.obs[made.groupby], made.names, made.params).values.astype(str)
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


def settings(adata: AnnData, made: ConceptSet, model: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """How the result was made: part, and what was set in it as name and value."""
    info = made.model_info or (model_info(as_encoder(model)) if model is not None else {})
    out = [("Model", titled(info or {"fingerprint": made.model})), ("Concepts", _flat(made.params, made.names))]
    for title, key in (("Saliency", KEYS.SALIENCY), ("Markers", KEYS.RANK)):
        stored = adata.uns.get(key, {})
        params = stored.get("params", {}) if isinstance(stored, Mapping) else {}
        out.append((title, _flat(params, list(map(str, params.get("concepts", made.names))))))
    return [(title, rows) for title, rows in out if rows]


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
        # by blocks, so that counts on the disk stay there; what is hashed does not depend on the size of a block
        parts = [hashlib.sha256() for _ in range(3)]
        for _, block in iter_rows(x, _ROWS):
            for part, values in zip(parts, (np.diff(block.indptr), block.indices, block.data), strict=True):
                part.update(np.ascontiguousarray(values, dtype="<f8" if values is block.data else "<i8").tobytes())
        for part in parts:
            digest.update(part.digest())
    return digest.hexdigest()


def citations(adata: AnnData) -> list[str]:
    """What to cite for what was done."""
    out = [
        "Concept saliency: Brocki, L. & Chung, N. C. Concept Saliency Maps to Visualize Relevant Features in Deep "
        "Generative Models. arXiv:1910.13140 (2019)."
    ]
    if (method := METHODS.get(saliency_method(adata, ""))) is not None:
        out.append(f"Attribution ({method.name}): {method.citation}.")
    ranking = adata.uns.get(KEYS.RANK, {}).get("params", {})
    if ranking.get("method") == "pattern":
        out.append(
            "Pattern statistic: Haufe, S. et al. On the interpretation of weight vectors of linear models in "
            "multivariate neuroimaging. NeuroImage 87, 96-110 (2014)."
        )
    null = NULLS.get(str(ranking.get("null")))
    if null is not None and null.citation:
        out.append(f"Null model ({null.name}): {null.citation}.")
    return out


def saliency_method(adata: AnnData, default: str = "integrated_gradients") -> str:
    """Method of the saliency that is kept, for more of it."""
    stored = adata.uns.get(KEYS.SALIENCY, {})
    return str(stored.get("params", stored).get("method", default))


def _flat(params: Mapping[str, Any], names: list[str]) -> list[tuple[str, str]]:
    """Parameters as text, without those that only say where something is stored."""
    out = []
    # a file gives them back in another order than they were written
    for key, value in sorted(params.items(), key=lambda item: (item[0] not in _BEFORE, item[0])):
        if key in _INTERNAL or isinstance(value, Mapping):
            continue
        if isinstance(value, np.ndarray):
            shown = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in value.ravel().tolist()]
            if len(shown) == len(names):
                shown = [f"{name}: {v}" for name, v in zip(names, shown, strict=True)]
            text = ", ".join(shown)
        elif isinstance(value, (float, np.floating)):
            text = f"{value:.6g}"
        else:
            text = str(value)
        if text not in ("", "[]"):
            out.append((str(key).replace("_", " "), text))
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
