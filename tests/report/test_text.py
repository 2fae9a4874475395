"""Text from the data is text, whatever it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from anndata import AnnData

import st_concepts as stc
from tests.report.pages import analysed, page_of, table_of

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")


EVIL_GENE, EVIL_LAYER, EVIL_SPOT = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "</title><b>&amp;"


def evil(adata: AnnData) -> AnnData:
    """Markup for names, in every place that a name can be."""
    best = stc.get.markers(adata, "GCL", n=1)["names"][0] if "rank_genes_concepts" in adata.uns else adata.var_names[0]
    adata.var_names = [EVIL_GENE if name == best else name for name in adata.var_names]
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"GCL": EVIL_LAYER, "MCL": "L2/3"})
    adata.obs_names = [EVIL_SPOT, *adata.obs_names[1:]]
    return adata


def test_text_from_the_data_is_escaped(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata = evil(result[0])
    for key in ("concepts", "rank_genes_concepts", "concept_saliency"):
        adata.uns.pop(key, None)
    model = analysed(adata)
    text_path = tmp_path / "a.html"
    page = page_of(adata, text_path, model=model, title="<i>title</i>")
    raw = text_path.read_text(encoding="utf-8")
    for bad in (EVIL_GENE, EVIL_LAYER, EVIL_SPOT, "<i>title"):
        assert bad not in raw
    assert not [t for t, a in page.tags if t in ("b", "i")]
    assert all((a["src"] or "").startswith("data:image/jpeg;") for t, a in page.tags if t == "img")
    assert len([t for t, _ in page.tags if t == "script"]) == 4
    assert EVIL_LAYER in page.text
    assert EVIL_GENE in page.data["genes"][EVIL_LAYER]
    assert page.data["spots"][0] == EVIL_SPOT
    assert "<i>title</i>" in page.text


def test_odd_names_of_layers(simulated: AnnData, tmp_path: Path) -> None:
    names = ["L2/3", "<b>x</b>", "=1+1", 'a"b $\\foo$', "outer\nlayer"]
    simulated.obs["layer"] = simulated.obs["layer"].cat.rename_categories(names)
    model = analysed(simulated)
    page = page_of(simulated, tmp_path / "a.html", model=model)
    assert set(table_of(page)["concept"]) == set(page.data["concepts"]) == set(names)
    assert next(t for t, a in page.tags if t == "img" and a["alt"])  # the picture is drawn, dollars and all
    assert not [t for t, _ in page.tags if t == "b"]
