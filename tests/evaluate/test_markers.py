from __future__ import annotations

from math import comb

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import st_concepts as stc


@pytest.fixture
def ranked() -> ad.AnnData:
    """Twenty genes, g0 the best; g19 is not ranked for the second concept."""
    names = [f"g{i}" for i in range(20)]
    adata = ad.AnnData(np.zeros((2, 20), dtype=np.float32), var=pd.DataFrame(index=names))
    down = np.arange(20, 0, -1).astype(np.float32)
    adata.varm["concept_saliency"] = pd.DataFrame({"A": down, "B_C": np.r_[down[:-1], np.nan]}, index=names)
    return adata


def test_counts_by_hand(ranked):
    table = stc.evaluate.marker_recovery(ranked, {"A": ["g0", "g3", "g10", "absent"], "B_C": ["g18", "g19"]}, n_top=5)
    first, second = (row for _, row in table.iterrows())
    assert (first["n_markers"], first["n_found"], first["share"]) == (3, 2, 2 / 3)
    assert (first["expected"], first["fold"]) == (0.25, pytest.approx(8 / 3))
    # at least 2 of 3 markers among 5 of 20 genes
    ways = comb(5, 2) * comb(15, 1) + comb(5, 3)
    assert first["pval"] == pytest.approx(ways / comb(20, 3))
    # pairs of marker and other gene in which the marker is above: 17 + 15 + 9 of 51
    below = sum(sum(g not in (0, 3, 10) for g in range(m + 1, 20)) for m in (0, 3, 10))
    assert first["auroc"] == pytest.approx(below / 51)
    assert (second["n_markers"], second["n_found"], second["pval"], second["auroc"]) == (1, 0, 1.0, 0.0)


def test_tables_true_names_and_rankings(ranked):
    ranked.uns["concepts"] = {
        "names": np.array(["A", "B/C"], dtype=object),
        "vectors": np.eye(2, dtype=np.float32),
        "center": np.zeros(2),
        "scale": np.ones(2),
        "model": "x",
    }
    markers = pd.DataFrame({"gene": ["g0", "g1", "g2", None], "layer": ["A", "B/C", None, "A"]})
    table = stc.evaluate.marker_recovery(ranked, markers, n_top=2)
    assert table["concept"].tolist() == ["A", "B/C"]
    assert table["n_markers"].tolist() == [1, 1]
    order = ["g19", "g0"]
    ranked.uns["rank_genes_concepts"] = {
        "names": np.rec.fromarrays([np.array(order, dtype=object)], names=["A"]),
        "scores": np.rec.fromarrays([np.array([2.0, 1.0], dtype="f4")], names=["A"]),
    }
    table = stc.evaluate.marker_recovery(ranked, {"A": ["g0"]}, key="rank_genes_concepts", n_top=1)
    assert table[["n_found", "auroc"]].to_numpy().tolist() == [[0, 0]]


def test_bulb_markers_are_the_default(ranked):
    genes = stc.datasets.bulb_markers().dropna(subset=["layer"])
    one = genes.loc[genes["layer"] == "GCL", "gene"].iloc[0]
    ranked.var_names = [one, *ranked.var_names[1:]]
    ranked.varm["concept_saliency"] = ranked.varm["concept_saliency"].rename(columns={"A": "GCL"})
    table = stc.evaluate.marker_recovery(ranked, n_top=1)
    assert table.loc[table["concept"] == "GCL", ["n_markers", "n_found"]].to_numpy().tolist() == [[1, 1]]


def test_wrong_use(ranked):
    with pytest.raises(ValueError, match=r"No known marker of A, B_C is among the ranked genes.*given for: Z"):
        stc.evaluate.marker_recovery(ranked, {"Z": ["g0"]})
    with pytest.raises(KeyError, match="lacks the column 'layer'"):
        stc.evaluate.marker_recovery(ranked, pd.DataFrame({"gene": ["g0"]}))
    with pytest.raises(KeyError, match=r"Neither adata\.varm nor adata\.uns has 'nothing'"):
        stc.evaluate.marker_recovery(ranked, {"A": ["g0"]}, key="nothing")
    with pytest.raises(ValueError, match="n_top=0"):
        stc.evaluate.marker_recovery(ranked, {"A": ["g0"]}, n_top=0)
