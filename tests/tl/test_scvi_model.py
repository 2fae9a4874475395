"""A model of scvi-tools in place of ours."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import st_concepts as stc

pytest.importorskip("scvi")
pytestmark = [pytest.mark.filterwarnings("ignore")]  # what lightning and scvi-tools say about themselves


@pytest.fixture(scope="module")
def fitted():
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    adata = stc.datasets.simulated_bulb(n_obs=250, n_vars=120, n_markers=10, effect=1.5, density=0.5, seed=0)
    scvi.settings.seed = 0
    scvi.settings.verbosity = logging.ERROR
    prepared = adata.copy()
    scvi.model.SCVI.setup_anndata(prepared)
    model = scvi.model.SCVI(prepared, n_latent=6, n_hidden=32, n_layers=1, gene_likelihood="nb")
    model.train(max_epochs=30, accelerator="cpu", enable_progress_bar=False, logger=False)
    return adata, prepared, model


def test_scvi_model_is_taken_as_it_is(fitted) -> None:
    adata, prepared, model = fitted
    adata = adata.copy()
    stc.tl.embed(adata, model)
    np.testing.assert_allclose(adata.obsm["X_stc"], model.get_latent_representation(prepared), rtol=1e-3, atol=1e-4)
    stc.tl.concepts(adata, model, groupby="layer")
    for name in ("ONL", "GCL"):
        assert roc_auc_score(adata.obs["layer"] == name, adata.obsm["concept_score"][name]) > 0.85
    stc.tl.saliency(adata, model)
    report = adata.uns["concept_saliency"]
    np.testing.assert_allclose(report["attribution_sum"], report["score_difference"], atol=0.05)
    stc.tl.rank_genes_concepts(adata, n_null=0)
    planted = set(adata.var_names[adata.var["marker_of"].astype(str) == "GCL"])
    assert len(planted & set(stc.get.markers(adata, "GCL", n=10)["names"])) >= 6


def test_concepts_of_scvi_and_of_ours_are_not_mixed_up(fitted) -> None:
    adata, _, model = fitted
    adata = adata.copy()
    stc.tl.concepts(adata, model, groupby="layer")
    ours = stc.SpotVAE(adata, n_latent=6).fit(max_epochs=0, progress=False)
    with pytest.raises(ValueError, match="The concepts were made with model"):
        stc.tl.saliency(adata, ours)
