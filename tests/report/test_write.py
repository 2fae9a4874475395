"""What the page holds, and what is refused. How it behaves is in test_chromium."""

from __future__ import annotations

import base64
import inspect
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts import report
from st_concepts.pl._groups import colors_of
from st_concepts.pl._tissue import symmetric
from st_concepts.report import _tables
from tests.report.pages import analysed, page_of, table_of, unpack

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")


def test_contents(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, model = result
    before = adata.copy()
    page = page_of(adata, tmp_path / "a.html", model=model, n_genes=4, n_rows=30)
    assert list(adata.layers) == list(before.layers)
    assert set(adata.uns) == set(before.uns)
    data = page.data
    assert data["spots"] == adata.obs_names.tolist()
    scores = {o["concept"]: o for o in data["overlays"] if o["kind"] == "score"}
    truth = stc.get.concept_scores(adata)
    assert list(scores) == list(truth.columns)
    for name, overlay in scores.items():
        np.testing.assert_allclose(unpack(overlay["values"]), truth[name], atol=1e-3)
    # every gene that can be chosen has an expression, and a saliency for its layer
    import scanpy as sc

    normal = adata.copy()
    target = float(adata.uns["concepts"]["params"]["target_sum"])
    sc.pp.normalize_total(normal, target_sum=target)
    sc.pp.log1p(normal)
    maps = {(o["concept"], o["gene"]): o for o in data["overlays"] if o["kind"] == "saliency"}
    for overlay in data["overlays"]:
        if overlay["kind"] == "expression":
            expected = normal[:, overlay["gene"]].X.toarray().ravel()
            np.testing.assert_allclose(unpack(overlay["values"]), expected, atol=0.003 * expected.max())
    for concept, genes in data["genes"].items():
        assert len(genes) >= 4
        assert {g for c, g in maps if c == concept} == set(genes)
    fresh = adata.copy()
    gene = data["genes"]["GCL"][0]
    stc.tl.saliency_map(fresh, model, concept="GCL", genes=[gene])
    expected = fresh.layers["concept_saliency_GCL"][:, [fresh.var_names.get_loc(gene)]].toarray().ravel()
    np.testing.assert_allclose(unpack(maps["GCL", gene]["values"]), expected, atol=0.005 * np.ptp(expected))
    # tables
    table = table_of(page)
    assert table.groupby("concept").size().unique().tolist() == [30]
    assert table.query("concept == 'GCL'")["names"].tolist() == stc.get.markers(adata, "GCL", n=30)["names"].tolist()
    assert {"scores", "logfoldchanges", "pvals", "pvals_adj", "saliency"} <= set(table)
    for text in ("Brocki", "arXiv:1910.13140", "Moran", stc.__version__, adata.uns["concepts"]["model"]):
        assert text in page.text
    assert _tables.fingerprint(adata, None) in page.text


def test_colours_are_those_of_the_pictures(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    adata, model = result
    data = page_of(adata, tmp_path / "a.html", model=model).data
    maps = {
        kind: inspect.signature(draw).parameters["cmap"].default
        for kind, draw in (("score", stc.pl.concept_scores), ("saliency", stc.pl.saliency_map))
    }
    for overlay in data["overlays"]:
        if overlay["kind"] not in maps:
            continue
        assert overlay["scale"] == maps[overlay["kind"]]
        low, high = overlay["limits"]
        assert low == -high < 0
        drawn = symmetric(pd.Series(unpack(overlay["values"])))
        assert high == pytest.approx(drawn.vmax, rel=0.02)
        steps = dict(data["scales"][overlay["scale"]])
        for at in (0.0, 0.5, 1.0):
            assert steps[at] == to_hex(colormaps[overlay["scale"]](at))
    annotated, best = (o for o in data["overlays"] if o["kind"] == "layers" and o["gene"] in ("layer", data["best"]))
    assert dict(zip(annotated["categories"], annotated["colors"], strict=True)) == colors_of(adata, "layer")
    assert dict(zip(best["categories"], best["colors"], strict=True)) == colors_of(adata, "layer")
    assert data["overlays"][0] == annotated  # what the page opens on


def test_one_auroc_a_layer(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    page = page_of(result[0], tmp_path / "a.html")
    assert "auroc:" not in page.text.lower()
    assert "score auroc" not in page.text.lower()
    assert [h["name"] for h in page.data["histograms"]] == ["ONL", "GL", "OPL", "MCL", "GCL"]


def test_nothing_is_loaded_from_elsewhere(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    page = page_of(result[0], tmp_path / "a.html")
    for tag, attributes in page.tags:
        if tag != "a":
            for name in ("src", "href"):
                assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_with_less(simulated: AnnData, tmp_path: Path) -> None:
    """Concepts alone will do: no ranking, no saliency, no coordinates, no counts."""
    model = stc.SpotVAE(simulated, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    with pytest.raises(KeyError, match=r"run stc\.tl\.concepts"):
        report.write(simulated, tmp_path / "a.html")
    stc.tl.concepts(simulated, model, groupby="layer")
    page = page_of(simulated, tmp_path / "a.html")
    assert page.data["markers"] is None
    assert "run stc.tl.rank_genes_concepts(adata) first" in page.text
    del simulated.obsm["spatial"]
    simulated.X = simulated.X * 0.5
    page = page_of(simulated, tmp_path / "a.html")
    assert page.data["sections"] == []
    assert {o["kind"] for o in page.data["overlays"]} <= {"layers", "score", "doubt"}


def test_opens_on_layers_without_labels(simulated: AnnData, tmp_path: Path) -> None:
    """Where no column of obs made the concepts, on the layer of the highest score."""
    model = stc.SpotVAE(simulated, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    simulated.obs = simulated.obs[["section"]]
    stc.tl.concepts(simulated, model, genes={"a": simulated.var_names[:3], "b": simulated.var_names[3:6]})
    first = page_of(simulated, tmp_path / "a.html").data["overlays"][0]
    assert first["kind"] == "layers"
    assert first["categories"] == ["a", "b"]
    codes = np.frombuffer(base64.b64decode(first["codes"]), dtype="<i2")
    np.testing.assert_array_equal(codes, stc.get.concept_scores(simulated).to_numpy().argmax(1))


def test_doubtful_labels(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, _ = result
    doubt = np.zeros(adata.n_obs, dtype=np.float32)
    doubt[[3, 7]] = [0.7, 0.9]
    doubt[10] = np.nan
    adata.obs["concept_disagreement"] = doubt
    data = page_of(adata, tmp_path / "a.html").data
    assert [row[0] for row in data["doubtful"]["rows"]] == adata.obs_names[[7, 3]].tolist()
    assert all(row[1] == adata.obs.loc[row[0], "layer"] != row[2] for row in data["doubtful"]["rows"])
    assert data["doubtful"]["n_labelled"] == adata.n_obs - 1


def test_counts_on_the_disk(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, model = result
    adata.write_h5ad(tmp_path / "a.h5ad")
    in_memory, on_disk = (anndata.read_h5ad(tmp_path / "a.h5ad", backed=b) for b in (None, "r"))
    here, there = (page_of(a, tmp_path / "a.html", model=model) for a in (in_memory, on_disk))
    assert here.data == there.data
    assert here.text == there.text
    on_disk.file.close()


def test_refuses(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, model = result
    with pytest.raises(ValueError, match=r"must end in \.html"):
        report.write(adata, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="at least 1"):
        report.write(adata, tmp_path / "a.html", n_genes=0)
    other = stc.SpotVAE(adata, n_latent=4, seed=1).fit(max_epochs=0, progress=False)
    with pytest.raises(ValueError, match=f"{model.fingerprint}.*{other.fingerprint}"):
        report.write(adata, tmp_path / "a.html", model=other)
    assert list(tmp_path.iterdir()) == []


def test_size_of_5000_spots(tmp_path: Path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=5000, n_vars=300, n_markers=20, seed=0)
    model = analysed(adata)
    # as unruly as histology: noise of all sizes
    rng = np.random.default_rng(0)
    noise = sum(np.kron(rng.integers(0, 40, (2000 // k, 2000 // k, 3)), np.ones((k, k, 1))) for k in (1, 4, 10, 50))
    section = adata.obs["section"].iloc[0]
    factor = 2000 / float(adata.obsm["spatial"].max())
    adata.uns["spatial"] = {
        section: {
            "images": {"hires": (255 - noise).astype(np.uint8)},
            "scalefactors": {"tissue_hires_scalef": factor, "spot_diameter_fullres": 0.6},
        }
    }
    report.write(adata, tmp_path / "a.html", model=model)
    size = (tmp_path / "a.html").stat().st_size
    assert size < 10e6, f"{size / 1e6:.1f} MB"


def test_concepts_of_seed_genes(simulated: AnnData, tmp_path: Path) -> None:
    model = stc.SpotVAE(simulated, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    seeds = {"a <set>": simulated.var_names[:3].tolist(), "b": simulated.var_names[3:6].tolist()}
    stc.tl.concepts(simulated, model, genes=seeds)
    stc.tl.rank_genes_concepts(simulated, n_null=0, null="none")
    page = page_of(simulated, tmp_path / "a.html", model=model)
    assert page.data["concepts"] == list(seeds)
    # the spots inside are those that score highest, so an AUROC would always be 1
    assert [h["auroc"] for h in page.data["histograms"]] == [None, None]
    assert "no AUROC to give" in page.text
    assert page.data["doubtful"] is None
    assert {o["concept"] for o in page.data["overlays"] if o["kind"] == "saliency"} == set(seeds)
