"""Fits of a SpotVAE: where they start, what they improve, and what breaks none of them."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc
from st_concepts._counts.features import log_normalize
from st_concepts._counts.split import thin
from st_concepts.models import SpotVAE
from st_concepts.models._spot import fit as _fit
from tests.models._spot.toys import fit_toy, toy


def test_start_is_pca(fitted) -> None:
    adata = toy()
    model = SpotVAE(adata, n_latent=3).fit(max_epochs=0, validation_fraction=0, progress=False)
    x = log_normalize(adata.X, model.target_sum).toarray().astype(np.float64)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    scores = u[:, :3] * s[:3]
    scores /= np.sqrt(scores.var(0).mean())
    z = model.embed()
    np.testing.assert_allclose(np.abs(z), np.abs(scores), atol=1e-3)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["csr", "csc", "dense", "view", "layer", "csr_array"]),
    dtype=st.sampled_from(["float32", "float64", "int32", "int64", "uint16"]),
)
def test_any_container_and_type_gives_the_same_model(kind, dtype) -> None:
    base = toy(n=30, g=12)
    want = fit_toy(base, max_epochs=1)
    values = base.X.toarray().astype(dtype)
    convert = {"csc": sp.csc_matrix, "dense": np.asarray, "csr_array": sp.csr_array}.get(kind, sp.csr_matrix)
    adata = AnnData(convert(values), obs=base.obs.copy(), var=base.var.copy())
    options = {}
    if kind == "view":
        twice = AnnData(sp.csr_matrix(np.repeat(values, 2, axis=0)), var=base.var.copy())
        twice.obs_names = [f"x{i}" for i in range(60)]
        adata = twice[::2]
        assert adata.is_view
    if kind == "layer":
        adata.layers["counts"] = adata.X
        adata.X = adata.X * 0.5
        options["layer"] = "counts"
    got = fit_toy(adata, max_epochs=1, **options)
    assert got.fingerprint == want.fingerprint
    assert np.array_equal(got.embed(), want.embed())
    if kind == "view":
        assert adata.is_view


def test_bit_for_bit_and_seeded() -> None:
    adata = toy()
    first, second = fit_toy(adata), fit_toy(adata)
    assert first.fingerprint == second.fingerprint
    pd.testing.assert_frame_equal(first.history, second.history)
    assert fit_toy(adata, seed=1).fingerprint != first.fingerprint
    assert first.fit(max_epochs=2, progress=False, device="cpu").fingerprint == second.fingerprint


def test_input_is_left_alone() -> None:
    adata = toy(sections=2)
    before = adata.copy()
    model = fit_toy(adata, batch_key="slide")
    model.embed()
    model.get_likelihood()
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert not adata.obsm
    assert not adata.uns


@pytest.mark.parametrize("init", ["svd", "random"])
def test_fit_improves_held_out_molecules(init) -> None:
    train, held = thin(toy(n=300, g=40).X, 0.5, 0)
    adata, other = AnnData(train), AnnData(held)
    start = SpotVAE(adata, n_latent=3, init=init).fit(max_epochs=0, progress=False, device="cpu")
    model = SpotVAE(adata, n_latent=3, init=init).fit(max_epochs=40, progress=False, device="cpu")
    before = start.get_likelihood(adata, target=other).mean()
    assert model.get_likelihood(adata, target=other).mean() > before
    history = model.history
    assert history["validation_nll"].min() <= history["validation_nll"].iloc[0]
    assert history.index.tolist() == list(range(len(history)))


def test_empty_and_nearly_empty_spots() -> None:
    adata = toy(n=80)
    rows = adata.X.tolil()
    rows[3], rows[4] = 0, 0
    rows[4, 0] = 1
    adata.X = rows.tocsr()
    with pytest.warns(UserWarning, match="1 of 80 spots have no counts"):
        model = fit_toy(adata)
    z = model.embed()
    assert np.isfinite(z).all()
    assert (z[3] == 0).all()
    assert np.isfinite(model.history["validation_nll"]).all()
    assert model.get_likelihood().iloc[3] == 0
    # the empty spot changes nothing: neither features nor weights of a model without it
    rest = fit_toy(adata[np.arange(80) != 3].copy())
    start = [m.fit(max_epochs=0, validation_fraction=0, progress=False) for m in (model, rest)]
    assert start[0].fingerprint == start[1].fingerprint


def test_a_gene_without_counts_breaks_nothing() -> None:
    adata = toy()
    X = adata.X.toarray()
    X[:, 5] = 0
    adata.X = sp.csr_matrix(X)
    model = fit_toy(adata, max_epochs=4)
    assert all(torch.isfinite(p).all() for p in model.module.parameters())
    assert model.get_normalized_expression()["g5"].max() < 0.05 * 1e4 / 25


@pytest.mark.parametrize("n_different", [1, 2])
def test_spots_that_do_not_differ(n_different) -> None:
    adata = toy(n=n_different)
    adata = AnnData(sp.csr_matrix(np.repeat(adata.X.toarray(), 40 // n_different, axis=0)), var=adata.var)
    model = SpotVAE(adata, n_latent=3)
    with pytest.warns(UserWarning, match=f"vary along {n_different - 1} directions only"):
        model.fit(max_epochs=1, validation_fraction=0, progress=False, device="cpu")
    assert np.isfinite(model.embed()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_fit_gives_the_same_model() -> None:
    adata = toy()
    here = fit_toy(adata)
    there = SpotVAE(adata, n_latent=3, n_hidden=8).fit(max_epochs=2, progress=False, device="cuda")
    np.testing.assert_allclose(there.embed(), here.embed(), atol=1e-2)
    np.testing.assert_allclose(there.to("cpu").embed(), there.to("cuda").embed(), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"validation_fraction": 1.0}, {"batch_size": 0}, {"patience": 0}, {"max_epochs": -1}, {"lr": 0.0}]
)
def test_wrong_fit_options(options) -> None:
    with pytest.raises(ValueError, match="must be"):
        SpotVAE(toy(), n_latent=3).fit(progress=False, **options)


def test_counts_changed_between_construction_and_fit() -> None:
    adata = toy()
    model = SpotVAE(adata, n_latent=3)
    adata.X = adata.X.log1p()
    with pytest.raises(ValueError, match="non-integer"):
        model.fit(progress=False)
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]
    with pytest.raises(ValueError, match="var_names changed"):
        model.fit(progress=False)


def test_a_failed_fit_leaves_the_model_as_it_was(monkeypatch) -> None:
    adata = toy()
    model = fit_toy(adata)
    before, history = model.fingerprint, model.history
    monkeypatch.setattr(_fit, "elbo_loss", lambda module, *_, **__: module.weight.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="smaller lr"):
        model.fit(max_epochs=2, progress=False)
    model._fingerprint = None
    assert model.fingerprint == before
    pd.testing.assert_frame_equal(model.history, history)


def test_interrupted_fit_is_usable(monkeypatch) -> None:
    adata = toy(n=100)
    real, calls = _fit.elbo_loss, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(_fit, "elbo_loss", interrupted)
    model = SpotVAE(adata, n_latent=3)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(progress=False, device="cpu")
    assert np.isfinite(model.embed()).all()
    assert 1 <= len(model.history) <= 4


def test_progress_bar_on_a_terminal_and_nowhere_else(capsys, monkeypatch) -> None:
    model = SpotVAE(toy(), n_latent=3)
    model.fit(max_epochs=1, device="cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model.fit(max_epochs=1, device="cpu")
    assert "SpotVAE" in capsys.readouterr().err


@pytest.mark.real_data
def test_real_section_ends_below_its_start(mob11) -> None:
    adata = mob11[np.asarray(mob11.X.sum(1)).ravel() >= 100]
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 130].copy()  # half of the spots: quick
    train, held = (AnnData(half, obs=adata.obs[[]], var=adata.var[[]]) for half in thin(adata.X, 0.5, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = stc.SpotVAE(train).fit(max_epochs=0, validation_fraction=0, progress=False)
        model = stc.SpotVAE(train).fit(progress=False)
    before = -start.get_likelihood(train, target=held).mean()
    assert -model.get_likelihood(train, target=held).mean() < before - 5


@pytest.mark.real_data
def test_the_nearly_empty_spots_of_real_sections_claim_no_component(mob11) -> None:
    mob11 = mob11[:, np.asarray((mob11.X > 0).sum(0)).ravel() >= 130]
    full = np.asarray(mob11.X.sum(1)).ravel() >= 100
    assert (~full).any()
    models = [
        stc.SpotVAE(a.copy(), n_latent=8).fit(max_epochs=0, validation_fraction=0, progress=False)
        for a in (mob11, mob11[full])
    ]
    a, b = (m.first_layer.weight[:8].numpy().astype(np.float64) for m in models)
    a, b = (np.linalg.qr(w.T)[0] for w in (a, b))
    assert np.linalg.svd(a.T @ b)[1].min() > 0.999
