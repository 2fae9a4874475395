"""What the package shows on the mouse olfactory bulb (Ståhl et al. 2016) with layers drawn on the H&E."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from sklearn.metrics import roc_auc_score

import st_concepts as stc

pytestmark = [pytest.mark.real_data, pytest.mark.xdist_group("bulb")]

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]
# genes of which at least so many are among the ten with the highest integrated gradients
KNOWN = {
    "GCL": (2, {"Penk", "Nrgn", "Gpsm1", "Gng4", "Pcp4", "Meis2", "Kcnh3"}),
    "MCL": (2, {"Slc17a7", "Reln", "Cdhr1", "Tbx21", "Nmb", "Doc2g"}),
    "ONL": (3, {"Omp", "S100a5", "Kctd12", "Fabp7", "Frzb", "Apod", "Gng13"}),
    "GL": (1, {"Th", "Calb2", "Nrsn1", "Trh", "Id3"}),
}


@pytest.fixture
def bulb(fitted_bulb: tuple[AnnData, stc.SpotVAE]) -> tuple[AnnData, stc.SpotVAE]:
    return fitted_bulb[0].copy(), fitted_bulb[1]


def _aurocs(adata: AnnData) -> np.ndarray:
    known = adata[adata.obs["layer"].notna()]
    scores = stc.get.concept_scores(known)
    return np.array([roc_auc_score(known.obs["layer"] == name, scores[name]) for name in LAYERS])


def test_scores_tell_the_layers_apart(bulb) -> None:
    adata, _ = bulb
    areas = _aurocs(adata)
    assert areas.mean() >= 0.965
    assert areas.min() >= 0.93


@pytest.mark.parametrize("replicate", [1, 2])
@pytest.mark.filterwarnings("ignore:.*genes of the model are missing:UserWarning")
def test_concepts_transfer_to_sections_never_seen(bulb, replicate, request) -> None:
    adata, model = bulb
    section = request.getfixturevalue(f"mob{replicate}")
    stc.tl.score_concepts(section, model, concepts=adata)
    assert _aurocs(section).mean() >= 0.96


def test_integrated_gradients_name_known_genes(bulb) -> None:
    adata, model = bulb
    stc.tl.saliency(adata, model, method="integrated_gradients")
    for layer, (least, genes) in KNOWN.items():
        top = set(adata.varm["concept_saliency"][layer].nlargest(10).index)
        assert len(top & genes) >= least, (layer, top)
    report = adata.uns["concept_saliency"]
    np.testing.assert_allclose(report["attribution_sum"], report["score_difference"], atol=1e-3)


def test_published_markers_are_among_the_first_hundred(bulb) -> None:
    adata, _ = bulb
    stc.tl.rank_genes_concepts(adata, n_null=0)
    published = stc.datasets.bulb_markers().drop_duplicates(["gene", "layer"])
    # the outer plexiform layer is left out: its published genes are those of interneurons that a spot hardly sees
    for layer in ("ONL", "GL", "MCL", "GCL"):
        genes = set(published.loc[published["layer"] == layer, "gene"]) & set(adata.var_names)
        table = stc.get.markers(adata, layer, n=100)
        assert len(genes & set(table["names"])) >= len(genes) / 2, layer
        assert (table["logfoldchanges"] > 0).mean() >= 0.99  # a gene of the layer next to it may follow the score


def test_five_spots_a_layer_transfer(bulb, mob1) -> None:
    """Mean of ten draws."""
    adata, model = bulb
    truth, areas = adata.obs["layer"].copy(), []
    genes = adata.var_names.isin(mob1.var_names)
    adata, mob1 = adata[:, genes].copy(), mob1[:, adata.var_names[genes]].copy()
    model = stc.SpotVAE(adata, seed=0).fit(max_epochs=0, progress=False)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        picked = np.concatenate([rng.choice(np.flatnonzero(truth == name), 5, replace=False) for name in LAYERS])
        adata.obs["layer"] = truth.where(np.isin(np.arange(adata.n_obs), picked))
        stc.tl.concepts(adata, model, groupby="layer", n_null=0)
        stc.tl.score_concepts(mob1, model, concepts=adata)
        areas.append(_aurocs(mob1).mean())
    assert np.mean(areas) >= 0.94


def test_wrong_labels_are_noticed(bulb) -> None:
    adata, model = bulb
    codes = adata.obs["layer"].cat.codes.to_numpy()
    rng = np.random.default_rng(0)
    wrong = np.isin(np.arange(adata.n_obs), rng.permutation(adata.n_obs)[: int(0.4 * adata.n_obs)])
    adata.obs["noisy"] = pd.Categorical.from_codes(
        np.where(wrong, (codes + rng.integers(1, 5, len(codes))) % 5, codes), LAYERS
    )
    right = adata.uns["concepts"]["params"]["label_trust"]
    stc.tl.concepts(adata, model, groupby="noisy", n_null=0)
    assert adata.uns["concepts"]["params"]["label_trust"] < 0.5 * right
    given = adata.obs["noisy"].cat.codes.to_numpy()
    known = codes >= 0
    as_given = adata.obsm["concept_weight"].to_numpy()[np.arange(adata.n_obs), given]
    assert roc_auc_score(wrong[known], 1 - as_given[known]) > 0.85


def test_one_seed_gives_the_same_bits(mob11) -> None:
    sc.pp.filter_genes(mob11, min_cells=50)
    results = []
    for _ in range(2):
        model = stc.SpotVAE(mob11, seed=3).fit(max_epochs=2, progress=False)
        stc.tl.concepts(mob11, model, groupby="layer")
        stc.tl.saliency(mob11, model)
        stc.tl.rank_genes_concepts(mob11, n_null=20)
        results.append((model.fingerprint, model.embed(), *(mob11.varm[k].to_numpy() for k in sorted(mob11.varm))))
    assert results[0][0] == results[1][0]
    for a, b in zip(*(r[1:] for r in results), strict=True):
        np.testing.assert_array_equal(a, b)
