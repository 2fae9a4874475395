"""Fits at the edge: fewer spots or genes than latent dimensions, and counts that are none."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import st_concepts as stc
from st_concepts._counts.check import align_genes


def _adata(n_obs: int = 30, n_vars: int = 25, n_counted: int | None = None, mean: float = 5.0) -> AnnData:
    counts = np.random.default_rng(0).poisson(mean, (n_obs, n_vars)).astype(np.float32)
    if n_counted is not None:
        counts[n_counted:] = 0
    return AnnData(counts, var=pd.DataFrame(index=[f"g{i}" for i in range(n_vars)]))


def _fitted(adata: AnnData, n_latent: int = 5, *, max_epochs: int = 1, validation_fraction: float = 0.05, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of spots without counts, of dimensions that stay unused
        model = stc.SpotVAE(adata, n_latent=n_latent, n_hidden=8, **options)
        model.fit(max_epochs=max_epochs, validation_fraction=validation_fraction, progress=False, device="cpu")
        latent = model.embed()
    assert latent.shape == (adata.n_obs, n_latent)
    assert np.isfinite(latent).all()
    return latent


@pytest.mark.parametrize("n_counted", [2, 3, 5, 6, 29])
def test_fewer_spots_with_counts_than_latent_dimensions(n_counted) -> None:
    latent = _fitted(_adata(n_counted=n_counted), n_latent=20)
    assert (latent[n_counted:] == 0).all()
    assert np.ptp(latent[:n_counted], axis=0).max() > 0  # the spots are told apart


@pytest.mark.parametrize("options", [{}, {"init": "random"}, {"batch_key": "slide"}])
def test_almost_all_molecules_held_out(options) -> None:
    adata = _adata(mean=0.5)
    adata.obs["slide"] = ["alone", *["many"] * 29]
    _fitted(adata, n_latent=20, validation_fraction=0.99, **options)


def test_small_data_and_small_panels() -> None:
    _fitted(_adata(n_obs=3, n_vars=30), n_latent=2)
    _fitted(_adata(n_obs=2, n_vars=30), n_latent=1)
    _fitted(_adata(n_obs=30, n_vars=2), n_latent=1)
    _fitted(_adata(n_obs=1600, n_vars=4, mean=1.0), n_latent=3, max_epochs=0)  # more spots than are decomposed exactly
    few = _adata(n_obs=1600, n_vars=8, n_counted=3)
    _fitted(few, n_latent=6, max_epochs=0)


@pytest.mark.parametrize(
    ("adata", "says"),
    [
        (_adata(n_vars=1), "30 spots with counts and 1 genes .* at least two of each"),
        (_adata(n_obs=1), "1 spots with counts and 25 genes .* at least two of each"),
        (_adata(n_counted=1), "1 spots with counts"),
        (_adata(n_counted=0), "no counts at all"),
        (_adata(n_vars=5), "pass n_latent below 5"),
        (_adata()[:0].copy(), "0 spots and 25 genes"),
        (_adata()[:, :0].copy(), "30 spots and 0 genes"),
    ],
)
def test_too_little_is_said_before_any_work_with_a_way_out(adata, says) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ValueError, match=says):
            stc.SpotVAE(adata, n_latent=5)


def test_no_molecule_left_to_train_on() -> None:
    adata = _adata(mean=0.03)
    adata.X[:2, 0] = 1
    with pytest.raises(ValueError, match=r"Lower validation_fraction=0\.9999"):
        _fitted(adata, n_latent=2, validation_fraction=0.9999)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("value", "says"),
    [(1e30, "1e.30 .*never counted"), (2.0**40, "never counted"), (1e300, "infinite"), (-1, "negative"),
     (np.nan, "NaN"), (np.inf, "infinite"), (0.5, "non-integer")],
)  # fmt: skip
def test_values_that_are_no_counts(value, says, container) -> None:
    counts = _adata().X.astype(np.float64)
    counts[3, 4] = value
    with pytest.raises(ValueError, match=says):
        stc.SpotVAE(AnnData(container(counts)), n_latent=5)


@pytest.mark.parametrize("dtype", [bool, complex])
def test_types_that_hold_no_counts(dtype) -> None:
    adata = _adata()
    adata.layers["odd"] = adata.X.astype(dtype)
    with pytest.raises(ValueError, match=r"layers\['odd'\] holds .* no counts"):
        stc.SpotVAE(adata, layer="odd", n_latent=5)


def test_a_seed_that_no_generator_takes() -> None:
    for seed in (-1, 2**70):
        with pytest.raises(ValueError, match="seed="):
            stc.SpotVAE(_adata(), n_latent=5, seed=seed)


def test_genes_that_differ_are_named() -> None:
    want = pd.Index([f"iid{i}" for i in range(10)])
    with pytest.raises(ValueError, match="the model has 'iid1', the data 'other'"):
        align_genes(pd.Index(["iid0", "other"]), want)
    with pytest.raises(ValueError, match="the model has 'iid1', the data have no others"):
        align_genes(pd.Index(["iid0"]), want)


@pytest.mark.parametrize("name", ["genes", "vectors", "mask", "groups"])
def test_arguments_that_name_nothing(name) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=130, n_markers=4, n_smooth=2, seed=0)
    model = stc.SpotVAE(adata, n_latent=3, n_hidden=4).fit(max_epochs=0, progress=False)
    more = {"groupby": "layer"} if name == "groups" else {}
    for nothing in ([], {}) if name != "groups" else ([], ""):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            stc.tl.concepts(adata, model, **{name: nothing}, **more)
    stc.tl.concepts(adata, model, groupby="layer", groups="GCL")
    assert list(adata.obsm["concept_score"]) == ["GCL"]
    for call in (
        lambda: stc.tl.rank_genes_concepts(adata, concepts=[]),
        lambda: stc.tl.saliency(adata, model, concepts=[]),
        lambda: stc.tl.saliency_map(adata, model, concept="GCL", genes=[]),
    ):
        with pytest.raises(ValueError, match="is empty"):
            call()


def test_backed_counts_are_checked_alike(tmp_path) -> None:
    adata = _adata()
    adata.X[3, 4] = 2.0**40
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="never counted"):
        stc.SpotVAE(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"), n_latent=5)
