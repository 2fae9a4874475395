"""The marker table of the report: every gene of every layer, packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts import get
from st_concepts._slots import KEYS
from st_concepts.concepts import ConceptSet
from st_concepts.report import _pack
from st_concepts.report._checks import Agreement
from st_concepts.stats import NULLS

MOST_ROWS = 100_000  # about 3 MB of the page; more genes would make it slow to open
_TITLES = {
    "concept": "Layer",
    "names": "Gene",
    "scores": "Effect",
    "logfoldchanges": "log2 FC",
    "pct_in": "Seen inside",
    "pct_out": "Seen outside",
    "n_sections": "Sections",
    "sign_consistency": "Same sign",
    "z_combined": "Combined z",
    "saliency": "Saliency",
    "saliency_surroundings": "of it around",
    "pvals": "p",
    "pvals_adj": "FDR",
}
_KINDS = {
    "concept": "text",
    "names": "text",
    "rank": "whole",
    "n_sections": "whole",
    "pct_in": "share",
    "pct_out": "share",
    "sign_consistency": "share",
}
_FIRST = (
    "concept",
    "rank",
    "names",
    "scores",
    "logfoldchanges",
    "pct_in",
    "pct_out",
    "saliency",
    "saliency_surroundings",
)
_LAST = ("pvals", "pvals_adj")


@dataclass(frozen=True)
class MarkerTable:
    """Markers of all layers.

    Attributes
    ----------
    frame
        One row per gene and layer that is held: the best of every layer first, then the second best, and so on.
    held, n_vars
        Genes held of each layer, and all there are.
    null
        What the p-values are against.
    method
        Of the ranking.
    agreement
        Title of the column with the correlation in the weakest part, where there is one.
    """

    frame: pd.DataFrame
    held: int
    n_vars: int
    null: str
    method: str
    agreement: str | None

    def top(self, n: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """The best genes of each layer, for print and for readers without scripts."""
        best = self.frame[self.frame["rank"] <= n]
        out: dict[str, list[dict[str, Any]]] = {}
        for record in best.to_dict("records"):
            shown = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in record.items()}
            out.setdefault(record["concept"], []).append(shown)
        return list(out.items())

    def packed(self) -> dict[str, Any]:
        """What the page reads: titles, and values column by column, text as numbers of a list."""
        columns: list[dict[str, str]] = []
        values: list[Any] = []
        for name in self.frame.columns:
            kind = _KINDS.get(name, "number")
            columns.append(
                {"name": name, "title": _TITLES.get(name, name.replace("_", " ").capitalize()), "kind": kind}
            )
            if kind == "text":
                codes, words = pd.factorize(self.frame[name])
                values.append({"codes": codes.tolist(), "words": [str(w) for w in words]})
            else:
                values.append(_digits(self.frame[name]))
        return {"columns": columns, "values": _pack.compressed(values), "held": self.held, "n_vars": self.n_vars}


def markers(
    adata: AnnData, made: ConceptSet, n_rows: int | None, agreed: Agreement | None = None
) -> MarkerTable | None:
    """The ``n_rows`` best genes of each concept, by default all up to `MOST_ROWS` rows; `None` without a ranking."""
    if KEYS.RANK not in adata.uns:
        return None
    stored = adata.uns[KEYS.RANK]
    ranked = [name for name in made.names if name in stored["names"].dtype.names]
    if not ranked:
        return None
    held = min(n_rows or max(MOST_ROWS // len(ranked), 1), adata.n_vars)
    parts = []
    for order, name in enumerate(ranked):
        part = get.markers(adata, name, n=held)
        parts.append(part.assign(concept=name, rank=np.arange(1, len(part) + 1), order=order))
    frame = pd.concat(parts, ignore_index=True).sort_values(["rank", "order"], kind="stable", ignore_index=True)
    frame["names"] = frame["names"].astype(str)
    if agreed is not None:
        at = adata.var_names.astype(str).get_indexer(frame["names"]), [made.names.index(c) for c in frame["concept"]]
        frame[agreed.title] = agreed.weakest.to_numpy()[at]
    columns = [c for c in _FIRST if c in frame]
    columns += [c for c in frame.columns if c not in (*_FIRST, *_LAST, "order")] + [c for c in _LAST if c in frame]
    params = stored.get("params", {})
    return MarkerTable(
        frame[columns],
        held,
        adata.n_vars,
        null.what if (null := NULLS.get(str(params.get("null")))) else str(params.get("null", "")),
        str(params.get("method", "")),
        None if agreed is None else agreed.title,
    )


def _digits(values: pd.Series) -> list[float | int | None]:
    """Numbers that JSON has, to six digits as in ``markers.csv``; `None` for missing."""
    numbers = values.to_numpy(dtype=np.float64)
    return [
        None if not np.isfinite(v) else int(v) if v == int(v) and abs(v) < 1e15 else float(f"{v:.6g}")
        for v in numbers.tolist()
    ]
