"""A ranking of genes in the form that scanpy has, with tables beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._results import Result
from st_concepts._slots import KEYS, concept_slot, safe_labels
from st_concepts.concepts import ConceptView, Membership
from st_concepts.stats import AssociationResult, CombinedResult, fdr_bh

# of an earlier ranking, which they would outlive
OPTIONAL_TABLES = ("pval_empirical", "z_combined", "n_sections", "sign_consistency")


@dataclass(frozen=True)
class Ranking:
    """What was found of every gene and concept.

    Attributes
    ----------
    view
        The concepts.
    tested
        Their association test.
    statistic
        What genes are ranked by, ``(n_vars, n_concepts)``.
    sides
        log2 fold change, and share of spots inside and outside that see a gene, each ``(n_concepts, n_vars)``.
    agreed
        Agreement of the sections, where there are several.
    params
        How it was done.
    concept_pval
        That each concept is one, ``(n_concepts,)``, where genes are tested against its score; else `None`.
    """

    view: ConceptView
    tested: AssociationResult
    statistic: np.ndarray
    sides: tuple[np.ndarray, np.ndarray, np.ndarray]
    agreed: CombinedResult | None
    params: dict[str, Any]
    concept_pval: np.ndarray | None = None

    @property
    def pval(self) -> np.ndarray:
        """That the gene is a marker of the layer: the larger p of the concept and of the gene (intersection-union)."""
        return self.tested.pval if self.concept_pval is None else np.maximum(self.tested.pval, self.concept_pval)

    @property
    def qval(self) -> np.ndarray:
        """Benjamini-Hochberg of `pval` within the concept."""
        return self.tested.qval if self.concept_pval is None else fdr_bh(self.pval, axis=0)

    def tables(self) -> dict[str, np.ndarray]:
        """Genes x concepts, by name."""
        lfc, pct_in, pct_out = (v.T for v in self.sides)
        out = {"z": self.tested.z, "pval": self.pval, "pval_greater": self.tested.pval_greater}
        out |= {"qval": self.qval, "qval_all": fdr_bh(self.pval), "pval_programme": self.tested.pval}
        if self.concept_pval is not None:
            out["pval_greater"] = np.maximum(self.tested.pval_greater, self.concept_pval)
        out |= {"lfc": lfc, "pct_in": pct_in, "pct_out": pct_out}
        if self.tested.pval_empirical is not None:
            out["pval_empirical"] = self.tested.pval_empirical
        if self.agreed is not None:
            out["z_combined"] = self.agreed.z
            out["n_sections"] = self.agreed.n_sections.astype(np.float64)
            out["sign_consistency"] = self.agreed.sign_consistency
        return out

    def result(self, adata: AnnData, key: str) -> Result:
        """The slots."""
        made, tables = self.view.made, self.tables()
        group_key = concept_slot(KEYS.GROUP, str(self.params["concepts_key"]))
        groupby = made.params.get("groupby") or group_key
        params = {
            "groupby": groupby,
            "reference": made.params.get("reference", "rest"),
            "use_raw": False,
            "corr_method": "benjamini-hochberg",
            "concepts": np.array(self.view.names, dtype=object),
            "model": made.model,
        } | self.params
        frames = {
            f"{key}_{name}": pd.DataFrame(values, index=adata.var_names, columns=self.view.labels)
            for name, values in tables.items()
        }
        return Result(
            obs={group_key: group_column(self.view.members, adata.obs_names)} if groupby == group_key else {},
            varm=frames,
            uns={key: {"params": params} | self._records(adata.var_names)},
            stale=[("varm", f"{key}_{name}") for name in OPTIONAL_TABLES if name not in tables],
        )

    def _records(self, var_names: pd.Index) -> dict[str, np.ndarray]:
        """Record arrays as scanpy has them: each concept sorted by its statistic, ties by name order."""
        order = np.argsort(-np.nan_to_num(self.statistic, nan=-np.inf), axis=0, kind="stable")
        fields: dict[str, tuple[np.ndarray, str]] = {
            "names": (np.broadcast_to(np.asarray(var_names, dtype=object)[:, None], self.statistic.shape), "O"),
            "scores": (np.nan_to_num(self.statistic), "float32"),
            "logfoldchanges": (self.sides[0].T, "float32"),
            "pvals": (self.pval, "float64"),
            "pvals_adj": (self.qval, "float64"),
        }
        dtype = {key: [(name, kind) for name in self.view.names] for key, (_, kind) in fields.items()}
        return {
            key: np.rec.fromarrays(
                [column[rank].astype(kind) for column, rank in zip(values.T, order.T, strict=True)], dtype=dtype[key]
            )
            for key, (values, kind) in fields.items()
        }


def group_column(members: Membership, index: pd.Index) -> pd.Series:
    """Name of the first concept that a spot is inside, for plots of scanpy that need a column of groups."""
    inside = members.inside
    first = np.where(inside.any(1), inside.argmax(1), len(members.names))
    others = safe_labels([*members.names, "rest"])[-1]  # a concept may have that name
    categories = [*members.names, *([others] if (first == len(members.names)).any() else [])]
    return pd.Series(pd.Categorical.from_codes(first, categories), index=index)
