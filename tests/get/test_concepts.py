from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

import st_concepts as stc


@pytest.fixture(scope="module")
def done() -> AnnData:
    adata = stc.datasets.simulated_bulb(n_obs=250, n_vars=200, n_markers=10, unlabelled=0.3, seed=3)
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    model = stc.SpotVAE(adata, n_latent=8).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", context=3, n_null=99)
    stc.tl.concepts(adata, model, genes=[str(adata.var_names[0])], key_added="seeds")
    stc.tl.predict_labels(adata, model)
    return adata


def test_one_row_a_concept(done) -> None:
    table = stc.get.concepts(done)
    stored = done.uns["concepts"]
    assert table["name"].tolist() == ["ONL", "GL", "OPL", "L2/3", "GCL"]
    assert table["n_labelled"].tolist() == [int((done.obs["layer"] == n).sum()) for n in table["name"]]
    np.testing.assert_array_equal(table["auroc"], stored["params"]["auroc"])
    assert (table["context"] == 3).all()
    assert (table["label_trust"] == stored["params"]["label_trust"]).all()
    for name in ("statistic", "pval"):
        np.testing.assert_array_equal(table[name], stored["test"][name])
    assert (table["joint_pval"] == stored["test"]["joint_pval"]).all()


def test_concepts_without_labels_and_without_a_test(done) -> None:
    table = stc.get.concepts(done, key="seeds")
    assert table["n_labelled"].tolist() == [0]
    assert table["context"].tolist() == [0]
    assert table[["auroc", "label_trust"]].isna().all(axis=None)
    assert "pval" not in table
    with pytest.raises(KeyError, match="'nothing'"):
        stc.get.concepts(done, key="nothing")


def test_predicted_labels_with_their_probability(done) -> None:
    table = stc.get.concept_labels(done)
    assert table["spot"].tolist() == done.obs_names.tolist()
    names = np.array(["ONL", "GL", "OPL", "L2/3", "GCL"])
    told = (table["label"] != "none of these").to_numpy()
    values = done.obsm["concept_probability"].to_numpy()
    assert (table["label"][told].astype(str).to_numpy() == names[values[told].argmax(1)]).all()
    np.testing.assert_array_equal(table["probability"][told], values[told].max(1))
    assert table["probability"][~told].isna().all()
    with pytest.raises(KeyError, match="predict_labels"):
        stc.get.concept_labels(done, key="seeds")
