from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import st_concepts as stc
from st_concepts.attribution import Options, explain

SMALL = {"n_latent": 8, "channels": (8, 16), "hidden": (32,)}


@pytest.fixture(scope="module")
def fitted():
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=200, n_markers=15, n_smooth=10, seed=0)
    return adata, stc.GeneVAE(adata, **SMALL).fit(max_epochs=15, progress=False)


@pytest.fixture
def adata(fitted):
    return fitted[0].copy()


@pytest.fixture
def model(fitted):
    return fitted[1]


def test_layers_come_back_from_the_genes_that_load_on_them(adata, model) -> None:
    stc.tl.gene_concepts(adata, model, groupby="layer", n_top=10)
    found = [
        roc_auc_score(adata.obs["layer"] == layer, adata.obsm["concept_pattern"][layer])
        for layer in adata.obs["layer"].cat.categories
    ]
    assert min(found) > 0.6
    assert np.mean(found) > 0.75
    stored = adata.uns["gene_concepts"]
    z = model.embed(list(stored["genes"]["GCL"]))
    i = list(stored["names"]).index("GCL")
    np.testing.assert_allclose(stored["vectors"][i], z.mean(0), atol=1e-5)
    table = stored["tables"]["GCL"]
    assert table["r"].is_monotonic_decreasing
    np.testing.assert_allclose(table["score"][:10].mean(), stored["vectors"][i] @ z.mean(0), rtol=1e-4)


def test_a_seed_is_its_own_best_match(adata, model) -> None:
    seed = adata.var_names[np.asarray(adata.X.sum(0)).ravel().argmax()]
    stc.tl.gene_concepts(adata, model, seeds=seed, n_top=5)
    table = adata.uns["gene_concepts"]["tables"][f"{seed}-like"]
    assert table["names"].iloc[0] == seed
    assert table["r"].iloc[0] == pytest.approx(1)
    stc.tl.gene_concepts(adata, model, seeds={"mine/yours": [seed]}, n_top=5)
    assert list(adata.obsm["concept_pattern"]) == ["mine_yours"]


def test_spatial_saliency_is_the_mean_map_of_the_genes(adata, model) -> None:
    stc.tl.gene_concepts(adata, model, groupby="layer", n_top=6)
    stc.tl.spatial_saliency(adata, model, ["GCL"], q=90, per_gene=True)
    genes = list(adata.uns["gene_concepts"]["genes"]["GCL"])
    i = list(adata.uns["gene_concepts"]["labels"]).index("GCL")
    found = explain(
        model.encoder,
        model.images(genes)[:, None],
        adata.uns["gene_concepts"]["vectors"][i],
        method="rectgrad",
        options=Options(q=90),
    ).attributions[:, 0]
    maps = adata.obsm["spatial_saliency_GCL"]
    assert list(maps) == genes
    np.testing.assert_allclose(maps, found.reshape(6, -1)[:, model.raster.pixel].T, atol=1e-6)
    np.testing.assert_allclose(adata.obsm["spatial_saliency"]["GCL"], maps.mean(1), atol=1e-6)
    other = stc.tl.spatial_saliency(adata, model, "GCL", method="gradient", genes=genes[0], copy=True)
    assert not np.allclose(other.obsm["spatial_saliency"], adata.obsm["spatial_saliency"])
    assert adata.uns["spatial_saliency"]["method"] == "rectgrad"


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_what_is_written_survives_the_disk(adata, model, tmp_path, suffix) -> None:
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    stc.tl.gene_concepts(adata, model, groupby="layer", n_top=6)
    stc.tl.spatial_saliency(adata, model, "L2/3", per_gene=True)
    path = tmp_path / f"a.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of its own format's future
        getattr(adata, f"write_{suffix}")(path)
        again = getattr(ad, f"read_{suffix}")(path)
    for key in ("concept_pattern", "spatial_saliency", "spatial_saliency_L2_3"):
        pd.testing.assert_frame_equal(again.obsm[key], adata.obsm[key], check_index_type=False, check_names=False)
    stc.tl.spatial_saliency(again, model, "L2/3")
    np.testing.assert_allclose(again.obsm["spatial_saliency"], adata.obsm["spatial_saliency"], atol=1e-6)


def test_squidpy_finds_the_columns(adata, model) -> None:
    stc.tl.gene_concepts(adata, model, groupby="layer", n_top=6)
    stc.tl.spatial_saliency(adata, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own import
        import squidpy as sq
    extracted = sq.pl.extract(adata, "spatial_saliency")
    np.testing.assert_array_equal(extracted.obs["GCL"], adata.obsm["spatial_saliency"]["GCL"])


def test_unlabelled_spots_are_allowed(adata, model) -> None:
    labels = adata.obs["layer"].astype(object)
    labels.iloc[::3] = np.nan
    adata.obs["some"] = labels
    stc.tl.gene_concepts(adata, model, groupby="some", groups=["GCL"], n_top=6)
    assert list(adata.obsm["concept_pattern"]) == ["GCL"]


def test_errors_change_nothing_and_say_what_to_do(adata, model) -> None:
    keys = set(adata.uns), set(adata.obsm)
    cases = [
        (lambda: stc.tl.gene_concepts(adata, model), ValueError, "seeds"),
        (lambda: stc.tl.gene_concepts(adata, model, ["nonsense"]), KeyError, "nonsense"),
        (lambda: stc.tl.gene_concepts(adata, model, groupby="nonsense"), KeyError, "nonsense"),
        (lambda: stc.tl.gene_concepts(adata, model, groupby="layer", groups=["X"]), KeyError, "labelled X"),
        (lambda: stc.tl.gene_concepts(adata, model, groupby="layer", n_top=10_000), ValueError, "lower n_top"),
        (lambda: stc.tl.gene_concepts(adata, object(), ["a"]), TypeError, "GeneVAE"),
        (lambda: stc.tl.spatial_saliency(adata, model), KeyError, "gene_concepts"),
        (lambda: stc.tl.gene_concepts(adata[:50].copy(), model, groupby="layer"), ValueError, "whole section"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    assert keys == (set(adata.uns), set(adata.obsm))
    stc.tl.gene_concepts(adata, model, groupby="layer", n_top=6)
    adata.uns["gene_concepts"]["model"] = "0123456789abcdef"
    with pytest.raises(ValueError, match=f"0123456789abcdef.*{model.fingerprint}"):
        stc.tl.spatial_saliency(adata, model)
    adata.uns["gene_concepts"]["model"] = model.fingerprint
    with pytest.raises(KeyError, match="unknown; there are"):
        stc.tl.spatial_saliency(adata, model, "nonsense")
