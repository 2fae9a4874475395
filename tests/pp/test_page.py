"""The page about labels made from counts: its code runs, and its figures are those that it gives."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from sklearn.cluster import KMeans

PAGE = Path(__file__).parents[2] / "docs" / "labels_from_counts.md"


def kmeans(adata: AnnData, **options: object) -> None:
    """In place of Leiden where its package is not there."""
    found = KMeans(3, n_init=3, random_state=0).fit_predict(adata.obsm["X_pca"])
    adata.obs["leiden"] = pd.Categorical(found.astype(str))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_page_runs_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("igraph") is None:
        monkeypatch.setattr(sc.tl, "leiden", kmeans)
        monkeypatch.setattr(sc.pp, "neighbors", lambda adata: None)  # a graph for Leiden alone
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    space: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        block = block.replace("fit(", "fit(max_epochs=1, ")
        exec(compile(block, str(PAGE), "exec"), space)  # the page is ours
    adata = space["adata"]
    assert adata.uns["concepts"]["params"]["layer"] == "counts_test"
    assert list(adata.uns["rank_genes_concepts"]["names"].dtype.names) == list(adata.obs["cluster"].cat.categories)
    assert space["held_out"] == pytest.approx(0.05, abs=0.025)
    assert space["same"] > 3 * space["held_out"]
