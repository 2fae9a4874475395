"""Checks of a result: deletion, stability, halves of a section, sections as replicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.concepts import read_concepts
from st_concepts.report import _checks, _write
from tests.report.pages import analysed, page_of, table_of, unpack

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")


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
    analysed(adata, n_null=0)
    page = page_of(adata, tmp_path / "a.html")
    columns = {c["name"]: c["title"] for c in page.data["markers"]["columns"]}
    assert {"Weakest section", "Same sign", "Combined z", "Sections"} <= set(columns.values())
    assert "Do the sections agree?" in page.text
    # a layer that one section lacks cannot be compared, the others can
    first = adata.obs["section"].cat.categories[0]
    adata.obs.loc[(adata.obs["section"] == first) & (adata.obs["layer"] == "OPL"), "layer"] = np.nan
    analysed(adata, n_null=0)
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


def test_what_is_read_around_the_spots(simulated: AnnData, tmp_path: Path) -> None:
    model = stc.SpotVAE(simulated, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    stc.tl.concepts(simulated, model, groupby="layer", context=3, n_null=0)
    stc.tl.saliency(simulated, model)
    parts = stc.get.saliency_parts(simulated)
    check = _checks.around(simulated)
    assert check.table["Layer"].tolist() == parts["concept"].tolist()
    np.testing.assert_allclose(check.table["read around it"], parts["surroundings"])
    shown = check.table["share of the surroundings"].tolist()
    assert [text.split()[0] for text in shown] == [f"{share:.0%}" for share in parts["share"]]
    assert all(len(text.split()[1]) == 10 for text in shown)

    page = page_of(simulated, tmp_path / "a.html", model=model, n_genes=2, stability=False)
    assert check.heading in page.text
    kinds = {kind: [o for o in page.data["overlays"] if o["kind"] == kind] for kind in ("saliency", "own", "around")}
    both, own, around = ({(o["concept"], o["gene"]): o for o in found} for found in kinds.values())
    assert len(both) == 10
    assert own.keys() == around.keys() == both.keys()
    for key, overlay in both.items():
        assert overlay["limits"] == own[key]["limits"] == around[key]["limits"]
        whole, inner, outer = (unpack(o["values"]) for o in (overlay, own[key], around[key]))
        np.testing.assert_allclose(whole, inner + outer, atol=0.02 * np.abs(whole).max() + 0.02 * np.abs(outer).max())

    stc.tl.concepts(simulated, model, groupby="layer", context=0, n_null=0)
    stc.tl.saliency(simulated, model)
    page = page_of(simulated, tmp_path / "a.html", model=model, n_genes=2, stability=False)
    assert check.heading not in page.text
    assert not {"own", "around"} & {o["kind"] for o in page.data["overlays"]}


def test_parts_are_compared_by_what_was_tested(simulated: AnnData) -> None:
    model = stc.SpotVAE(simulated, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    stc.tl.concepts(simulated, model, groupby="layer", n_null=0)
    made, scores = read_concepts(simulated), simulated.obsm["concept_score"].to_numpy()
    members = simulated.obsm["concept_members"].to_numpy()
    stc.tl.rank_genes_concepts(simulated, n_null=0, target="score")
    np.testing.assert_array_equal(_checks._targets(simulated, made), scores)
    stc.tl.rank_genes_concepts(simulated, n_null=0, target="label")
    np.testing.assert_array_equal(_checks._targets(simulated, made), np.where(members < 0, np.nan, members))
    # as results of 0.1 have it, a word for each concept
    del simulated.uns["rank_genes_concepts"]["params"]["ranked_by"]
    simulated.uns["rank_genes_concepts"]["params"]["target"] = np.array(["score"] + ["label"] * 4, dtype=object)
    found = _checks._targets(simulated, made)
    np.testing.assert_array_equal(found[:, 0], scores[:, 0])
    np.testing.assert_array_equal(found[:, 1], np.where(members[:, 1] < 0, np.nan, members[:, 1]))
    # by both: labels, unless most spots have none
    stc.tl.rank_genes_concepts(simulated, n_null=0)
    np.testing.assert_array_equal(_checks._targets(simulated, made), np.where(members < 0, np.nan, members))
    simulated.obsm["concept_members"].iloc[40:] = -1
    np.testing.assert_array_equal(_checks._targets(simulated, made), scores)
