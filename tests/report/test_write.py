"""What the report holds, that text from the data is text, and what is refused. How it behaves is in test_chromium."""

from __future__ import annotations

import base64
import gzip
import html.parser
import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import st_concepts as stc
from st_concepts import report
from st_concepts.concepts import read_concepts
from st_concepts.pl._groups import colors_of
from st_concepts.pl._tissue import symmetric
from st_concepts.report import _checks, _markers, _pack, _tables, _write

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")

EVIL_GENE, EVIL_LAYER, EVIL_SPOT = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "</title><b>&amp;"


def analysed(adata: AnnData) -> stc.SpotVAE:
    model = stc.SpotVAE(adata, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, n_null=0, null="moran" if adata.n_obs < 1000 else "none")
    return model


@pytest.fixture
def result(simulated: AnnData) -> tuple[AnnData, stc.SpotVAE]:
    return simulated, analysed(simulated)


class Page(html.parser.HTMLParser):
    """Elements of a page, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])


def page_of(adata: AnnData, path: Path, **kwargs: Any) -> Page:
    report.write(adata, path, **({"stability": False} | kwargs))  # two more fits a report take their time
    return Page(path.read_text(encoding="utf-8"))


def inflate(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def table_of(page: Page) -> pd.DataFrame:
    """The marker table, as the page unpacks it."""
    packed = page.data["markers"]
    values = [
        v if isinstance(v, list) else [v["words"][c] for c in v["codes"]] for v in json.loads(inflate(packed["values"]))
    ]
    return pd.DataFrame(dict(zip([c["name"] for c in packed["columns"]], values, strict=True)))


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """As the page does it."""
    bits = packed["bits"]
    steps = np.frombuffer(base64.b64decode(packed["b64"]), dtype=f"<u{bits // 8}").astype(float)
    values = packed["low"] + (packed["high"] - packed["low"]) * steps / (2**bits - 2)
    return np.where(steps == 2**bits - 1, np.nan, values)


@given(
    hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6) | st.just(np.nan)),
    st.sampled_from([8, 16]),
)
def test_numbers_come_back(values: np.ndarray, bits: int) -> None:
    packed = _pack.numbers(values, bits)
    back = unpack(packed)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    step = (packed["high"] - packed["low"]) / (2**bits - 2)
    np.testing.assert_allclose(back, values, atol=0.5001 * step + 1e-9)


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


def test_many_spots_and_sections(tmp_path: Path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=400, n_vars=150, n_markers=5, n_sections=2, seed=0)
    analysed(adata)
    for name in adata.obs["section"].cat.categories:
        adata.uns.setdefault("spatial", {})[name] = {
            "images": {"hires": np.full((30, 60, 3), 200, dtype=np.uint8)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 0.6},
        }
    page = page_of(adata, tmp_path / "a.html", max_spots=150)
    data = page.data
    assert [s["name"] for s in data["sections"]] == adata.obs["section"].cat.categories.tolist()
    at = np.concatenate([s["spots"] for s in data["sections"]])
    assert sorted(at) == list(range(150))
    for section in data["sections"]:
        names = [data["spots"][i] for i in section["spots"]]
        assert (adata.obs.loc[names, "section"] == section["name"]).all()
        truth = adata[names].obsm["spatial"]
        np.testing.assert_allclose(np.column_stack([unpack(section["x"]), unpack(section["y"])]), truth, atol=1e-3)
    assert "150 of 400" in page.text
    assert report.write(adata, tmp_path / "b.html", max_spots=150) is None
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_an_image_lies_under_its_own_spots_only(tmp_path: Path, caplog: Any) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=300, n_vars=120, n_markers=5, n_sections=2, seed=0)
    adata.obs["slide"] = adata.obs.pop("section").cat.rename_categories(["A", "B"])
    factor = 190 / float(adata.obsm["spatial"].max())
    small = {"lowres": np.full((200, 200, 3), 200, dtype=np.uint8)}
    adata.uns["spatial"] = {"A": {"images": small, "scalefactors": {"tissue_lowres_scalef": factor}}, "junk": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysed(adata)
    page = page_of(adata, tmp_path / "a.html", section_key="slide")
    first, second = page.data["sections"]
    assert (first["name"], second["name"]) == ("A", "B")
    assert first["image"].startswith("data:image/jpeg")
    assert second["image"] is None
    assert len(first["spots"]) == (adata.obs["slide"] == "A").sum()
    assert "Do the sections agree?" in page.text
    assert "2 sections by obs['slide']" in page.text
    assert "'junk'" in caplog.text
    with pytest.raises(KeyError, match="section_key='slid' is not a column"):
        page_of(adata, tmp_path / "b.html", section_key="slid")
    # sections on top of each other that nothing tells apart
    stacked = adata.copy()
    del stacked.uns["spatial"]
    for name in ("A", "B"):
        rows = np.flatnonzero(stacked.obs["slide"] == name)[:140]
        stacked.obsm["spatial"][rows] = np.column_stack([np.arange(140.0), np.arange(140.0) % 7])
    with pytest.raises(ValueError, match="section_key="):
        page_of(stacked, tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()


def test_odd_names_of_layers(simulated: AnnData, tmp_path: Path) -> None:
    names = ["L2/3", "<b>x</b>", "=1+1", 'a"b $\\foo$', "outer\nlayer"]
    simulated.obs["layer"] = simulated.obs["layer"].cat.rename_categories(names)
    model = analysed(simulated)
    page = page_of(simulated, tmp_path / "a.html", model=model)
    assert set(table_of(page)["concept"]) == set(page.data["concepts"]) == set(names)
    assert next(t for t, a in page.tags if t == "img" and a["alt"])  # the picture is drawn, dollars and all
    assert not [t for t, _ in page.tags if t == "b"]


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


def test_checks_and_further_tables(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, model = result
    extra = pd.DataFrame({"pair <b>": ["a", "<i>b</i>"], "agreement": [0.123456, np.nan]})
    page = page_of(adata, tmp_path / "a.html", model=model, tables={"Stability <u>": extra})
    truth = stc.evaluate.faithfulness(adata, model, n_top=(20,), n_random=10, seed=0)
    for concept in ("ONL", "GCL"):
        row = truth.query(f"concept == '{concept}' and curve == 'deletion' and n_genes == 20").iloc[0]
        for value in (row["score"], row["score_random"]):
            assert f"{value:.3g}" in page.text
    for text in ("Stability <u>", "pair <b>", "<i>b</i>", "0.123", "–"):
        assert text in page.text
    assert not [t for t, _ in page.tags if t in ("u", "b", "i")]
    without = page_of(adata, tmp_path / "b.html")
    assert "Does the model read" not in without.text
    assert "Would another fit" not in without.text


def test_stability(
    result: tuple[AnnData, stc.SpotVAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    adata, model = result
    page = page_of(adata, tmp_path / "a.html", model=model, stability=None)
    fit = {k: stc.SpotVAE(adata, n_latent=5, seed=k).fit(max_epochs=0, progress=False) for k in (1, 2)}  # as the model
    truth = stc.evaluate.stability(adata, [model, *fit.values()], n_top=50).query("concept == 'GCL'")
    for value in truth[["spearman_score", "spearman", "overlap"]].mean():
        assert f"{value:.3g}" in page.text
    off = page_of(adata, tmp_path / "b.html", model=model, stability=False)
    assert "Would another fit" not in off.text
    monkeypatch.setattr(_write, "_REFIT_WORK", adata.n_obs * adata.n_vars - 1)
    off = page_of(adata, tmp_path / "b.html", model=model, stability=None)
    assert "Would another fit" not in off.text
    real = stc.SpotVAE.fit
    monkeypatch.setattr(stc.SpotVAE, "fit", lambda self, **options: real(self, **options | {"max_epochs": 1}))
    asked = page_of(adata, tmp_path / "b.html", stability=True)  # no model: three with default settings
    assert "Means over the pairs of 3 models" in asked.text

    # a check that fails leaves the rest of the report
    def fails(*_: Any) -> None:
        raise ValueError("too few")

    monkeypatch.setattr(_checks, "stable", fails)
    rest = page_of(adata, tmp_path / "b.html", model=model, stability=True)
    assert "Would another fit" not in rest.text
    assert "stability is left out of the report: too few" in caplog.text


def test_halves_of_one_section(result: tuple[AnnData, stc.SpotVAE], tmp_path: Path) -> None:
    adata, _ = result
    made = read_concepts(adata)
    found = _checks.agreement(adata, made, seed=0)
    parts, halves = _checks._parts(adata, _checks._targets(adata, made), 0)
    assert halves
    assert set(parts) == {0, 1}
    inside = adata.obs["layer"] == "GCL"
    # the slow way: dense, one gene after the other
    x = adata.X.toarray()
    normal = np.log1p(x / x.sum(1, keepdims=True) * float(made.params["target_sum"]))
    gene = int(np.nan_to_num(found.weakest["GCL"].to_numpy()).argmax())
    slow = [np.corrcoef(normal[parts == p, gene], inside[parts == p])[0, 1] for p in (0, 1)]
    assert found.weakest["GCL"].iloc[gene] == pytest.approx(min(slow), abs=1e-5)
    table = found.check.table.set_index("Layer")
    assert table["50 best genes shared"].between(table["by chance"], 1).all()
    # markers hold in both halves, genes that were drawn at random do not
    planted = adata.var["marker_of"].astype(str).eq("GCL").to_numpy()
    assert found.weakest["GCL"][planted].median() > 0.1 > found.weakest["GCL"][~planted].median()
    page = page_of(adata, tmp_path / "a.html")
    row = table_of(page).query("concept == 'GCL'").iloc[0]
    assert row["Weaker half"] == pytest.approx(found.weakest.loc[row["names"], "GCL"], rel=1e-5)
    assert "Halves of one section are no replicates" in page.text


def test_sections_as_replicates(tmp_path: Path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=400, n_vars=150, n_markers=5, n_sections=2, seed=0)
    analysed(adata)
    page = page_of(adata, tmp_path / "a.html")
    columns = {c["name"]: c["title"] for c in page.data["markers"]["columns"]}
    assert {"Weakest section", "Same sign", "Combined z", "Sections"} <= set(columns.values())
    assert "Do the sections agree?" in page.text
    # a layer that one section lacks cannot be compared, the others can
    first = adata.obs["section"].cat.categories[0]
    adata.obs.loc[(adata.obs["section"] == first) & (adata.obs["layer"] == "OPL"), "layer"] = np.nan
    analysed(adata)
    found = _checks.agreement(adata, read_concepts(adata), 0)
    assert found.check.table["Layer"].tolist() == ["ONL", "GL", "MCL", "GCL"]
    assert found.weakest["OPL"].isna().all()


def test_too_little_for_halves(simulated: AnnData) -> None:
    analysed(simulated)
    made = read_concepts(simulated)
    few = simulated[np.random.default_rng(0).permutation(simulated.n_obs)[:31]].copy()
    assert _checks.agreement(few, made, 0) is None
    del simulated.obsm["spatial"]  # spots are then dealt out one by one
    assert _checks.agreement(simulated, made, 0).title == "Weaker half"
