"""Settings, the table of markers, the fingerprint of the data."""

from __future__ import annotations

import re
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.concepts import read_concepts
from st_concepts.report import _markers, _tables
from tests.report.pages import page_of, table_of

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")


def test_every_gene_can_be_searched(
    result: tuple[AnnData, stc.SpotVAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata, _ = result
    page = page_of(adata, tmp_path / "a.html")
    table = table_of(page)
    assert page.data["markers"]["held"] == adata.n_vars
    assert f"holds all {adata.n_vars} genes" in page.text
    truth = stc.get.markers(adata)
    merged = table.merge(truth, on=["concept", "names"], suffixes=("", "_true"))
    assert len(merged) == len(table) == len(truth) == 5 * adata.n_vars
    for name in ("scores", "logfoldchanges", "pvals", "pvals_adj", "saliency", "pct_in"):
        np.testing.assert_allclose(merged[name].to_numpy(float), merged[f"{name}_true"], rtol=1e-5)
    # it opens on the best gene of every layer
    assert table["concept"].tolist()[:5] == ["ONL", "GL", "OPL", "MCL", "GCL"]
    assert table["rank"].tolist()[:6] == [1] * 5 + [2]
    # too many for a page: the best are held, and the page says so
    monkeypatch.setattr(_markers, "MOST_ROWS", 64)
    page = page_of(adata, tmp_path / "a.html")
    assert table_of(page).groupby("concept").size().tolist() == [12] * 5
    assert f"best 12 of {adata.n_vars} genes of each layer" in page.text
    assert len(table_of(page_of(adata, tmp_path / "a.html", n_rows=20))) == 100


def test_the_model_is_described_without_it(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, model = result
    stc.io.write(adata, tmp_path / "a.h5ad")
    stored = anndata.read_h5ad(tmp_path / "a.h5ad")
    without = _tables.settings(stored, read_concepts(stored), None)
    assert without == _tables.settings(adata, read_concepts(adata), model)
    described = dict(dict(without)["Model"])
    assert described["Kind"] == "SpotVAE"
    assert described["Latent dimensions"] == "5"
    assert described["Held-out negative log likelihood per spot"] == f"{model.history['validation_nll'].min():.6g}"
    del stored.uns["concepts"]["model_info"]  # a result of an earlier version
    assert dict(_tables.settings(stored, read_concepts(stored), None))["Model"] == [("Fingerprint", model.fingerprint)]
    assert dict(dict(_tables.settings(stored, read_concepts(stored), model))["Model"]) == described


def test_fingerprint(simulated: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse as sp

    first = _tables.fingerprint(simulated, None)
    assert re.fullmatch("[0-9a-f]{64}", first)
    other = simulated.copy()
    other.X = sp.csc_matrix(simulated.X.astype(np.int32))
    assert _tables.fingerprint(other, None) == first
    other.X = simulated.X.toarray()
    assert _tables.fingerprint(other, None) == first
    other.X[0, 0] += 1
    assert _tables.fingerprint(other, None) != first
    assert _tables.fingerprint(simulated[::-1].copy(), None) != first
    renamed = simulated.copy()
    renamed.var_names = [f"{name}x" for name in renamed.var_names]
    assert _tables.fingerprint(renamed, None) != first
    # neither the size of a block nor where the counts are plays a part
    monkeypatch.setattr(_tables, "_ROWS", 7)
    assert _tables.fingerprint(simulated, None) == first
    simulated.write_h5ad(tmp_path / "a.h5ad")
    on_disk = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert _tables.fingerprint(on_disk, None) == first
    on_disk.file.close()
