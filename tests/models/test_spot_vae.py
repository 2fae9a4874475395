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
from scipy import stats

import st_concepts as stc
from st_concepts._counts.features import log_normalize
from st_concepts._counts.split import thin
from st_concepts.models import Encoder, NotFittedError, SpotVAE
from st_concepts.models._spot import fit as _fit


def _toy(n: int = 60, g: int = 25, seed: int = 0, sections: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 3.0, g) * np.exp(rng.normal(size=(n, 2)) @ rng.normal(0, 0.7, (2, g)))
    obs = pd.DataFrame(index=[f"s{i}" for i in range(n)])
    if sections:
        obs["slide"] = pd.Categorical([f"slide {i % sections}" for i in range(n)])
    counts = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(g)]))


def _fit_toy(adata: AnnData, *, max_epochs: int = 2, **options) -> SpotVAE:
    return SpotVAE(adata, **{"n_latent": 3, "n_hidden": 8, **options}).fit(
        max_epochs=max_epochs, progress=False, device="cpu"
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[AnnData, SpotVAE]:
    adata = _toy(sections=2)
    return adata, _fit_toy(adata, batch_key="slide")


def test_follows_the_protocol(fitted) -> None:
    adata, model = fitted
    assert isinstance(model, Encoder)
    assert model.var_names.equals(adata.var_names)
    assert model.n_latent == 3
    assert model.device == torch.device("cpu")
    assert model.target_sum == np.median(adata.X.toarray().sum(1))


def test_encode_is_the_first_layer_and_the_rest(fitted) -> None:
    adata, model = fitted
    x = torch.from_numpy(model.features(adata.X).toarray())
    codes = torch.from_numpy(model.codes(adata.obs))
    first = model.first_layer
    assert first.bias.shape[0] == 3  # two sections and the unseen one
    for c in (codes, torch.full_like(codes, 2)):
        by_hand = first.rest(x @ first.weight.T + first.bias[c])
        torch.testing.assert_close(model.encode(x, c), by_hand, rtol=0, atol=0)
    np.testing.assert_allclose(model.embed(), model.encode(x, codes).detach().numpy(), atol=1e-5)
    torch.testing.assert_close(model.encode(x), model.encode(x, torch.full_like(codes, 2)))


def test_encode_is_differentiable(fitted) -> None:
    adata, model = fitted
    x = torch.from_numpy(model.features(adata.X[:2]).toarray()).requires_grad_()
    (gradient,) = torch.autograd.grad(model.encode(x, torch.zeros(2, dtype=torch.long)).sum(), x)
    assert gradient.abs().sum() > 0


def test_start_is_pca(fitted) -> None:
    adata = _toy()
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
    base = _toy(n=30, g=12)
    want = _fit_toy(base, max_epochs=1)
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
    got = _fit_toy(adata, max_epochs=1, **options)
    assert got.fingerprint == want.fingerprint
    assert np.array_equal(got.embed(), want.embed())
    if kind == "view":
        assert adata.is_view


def test_bit_for_bit_and_seeded() -> None:
    adata = _toy()
    first, second = _fit_toy(adata), _fit_toy(adata)
    assert first.fingerprint == second.fingerprint
    pd.testing.assert_frame_equal(first.history, second.history)
    assert _fit_toy(adata, seed=1).fingerprint != first.fingerprint
    assert first.fit(max_epochs=2, progress=False, device="cpu").fingerprint == second.fingerprint


def test_input_is_left_alone() -> None:
    adata = _toy(sections=2)
    before = adata.copy()
    model = _fit_toy(adata, batch_key="slide")
    model.embed()
    model.get_likelihood()
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert not adata.obsm
    assert not adata.uns


@pytest.mark.parametrize("init", ["svd", "random"])
def test_fit_improves_held_out_molecules(init) -> None:
    train, held = thin(_toy(n=300, g=40).X, 0.5, 0)
    adata, other = AnnData(train), AnnData(held)
    start = SpotVAE(adata, n_latent=3, init=init).fit(max_epochs=0, progress=False, device="cpu")
    model = SpotVAE(adata, n_latent=3, init=init).fit(max_epochs=40, progress=False, device="cpu")
    before = start.get_likelihood(adata, target=other).mean()
    assert model.get_likelihood(adata, target=other).mean() > before
    history = model.history
    assert history["validation_nll"].min() <= history["validation_nll"].iloc[0]
    assert history.index.tolist() == list(range(len(history)))


def test_likelihood_is_that_of_scipy(fitted) -> None:
    adata, model = fitted
    share = np.concatenate([model.decode(z, section=s) for z, s in zip(model.embed(), adata.obs["slide"], strict=True)])
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-5)
    other = _toy(seed=9)
    counts = other.X.toarray()
    theta = model.module.log_theta.detach().exp().double().numpy()
    mean = share.astype(np.float64) * counts.sum(1, keepdims=True)
    want = stats.nbinom.logpmf(counts, theta, theta / (theta + mean)).sum(1)
    got = model.get_likelihood(adata, target=other)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert got.index.equals(adata.obs_names)


def test_normalized_expression_is_the_decoded_mean(fitted) -> None:
    _, model = fitted
    z = model.embed()
    got = model.get_normalized_expression(genes=["g7", "g2"], library_size=100)
    assert got.columns.tolist() == ["g7", "g2"]
    want = model.decode(z[:1], section="slide 0")[0, [7, 2]] * 100
    np.testing.assert_allclose(got.iloc[0], want, rtol=1e-4)
    with pytest.raises(KeyError, match="'nope'"):
        model.get_normalized_expression(genes=["nope"])


def test_sections_have_their_own_centres() -> None:
    adata = _toy(n=200, sections=2)
    shifted = adata.X.toarray()
    shifted[1::2, :8] *= 9  # a strong effect of the slide
    adata.X = sp.csr_matrix(shifted)
    with_key = _fit_toy(adata, batch_key="slide", max_epochs=0).embed()
    without = _fit_toy(adata, max_epochs=0).embed()

    def gap(z: np.ndarray) -> float:
        return float(np.abs(z[::2].mean(0) - z[1::2].mean(0)).max() / z.std())

    assert gap(with_key) < 0.1 < 0.5 < gap(without)


def test_an_unseen_section_uses_the_average(fitted) -> None:
    adata, model = fitted
    new = adata[:5].copy()
    new.obs["slide"] = ["slide 0", "other", "other", "slide 1", None]
    assert model.codes(new.obs).tolist() == [0, 2, 2, 1, 2]
    z = model.embed(new)
    assert np.isfinite(z).all()
    assert np.array_equal(z[0], model.embed(adata[:5])[0])
    assert np.isfinite(model.get_likelihood(new)).all()
    del new.obs["slide"]
    assert model.codes(new.obs).tolist() == [2] * 5
    # and the decoder's average is that of the log rates
    module = model.module
    with torch.no_grad():
        want = torch.softmax(module.logits(torch.zeros(2, 3), torch.arange(2)).mean(0), 0).numpy()
    np.testing.assert_allclose(model.decode(np.zeros(3))[0], want, rtol=1e-4)
    with pytest.raises(ValueError, match="'other' is not one the model was fitted on: slide 0, slide 1"):
        model.decode(np.zeros(3), section="other")


def test_empty_and_nearly_empty_spots() -> None:
    adata = _toy(n=80)
    rows = adata.X.tolil()
    rows[3], rows[4] = 0, 0
    rows[4, 0] = 1
    adata.X = rows.tocsr()
    with pytest.warns(UserWarning, match="1 of 80 spots have no counts"):
        model = _fit_toy(adata)
    z = model.embed()
    assert np.isfinite(z).all()
    assert (z[3] == 0).all()
    assert np.isfinite(model.history["validation_nll"]).all()
    assert model.get_likelihood().iloc[3] == 0
    # the empty spot changes nothing: neither features nor weights of a model without it
    rest = _fit_toy(adata[np.arange(80) != 3].copy())
    start = [m.fit(max_epochs=0, validation_fraction=0, progress=False) for m in (model, rest)]
    assert start[0].fingerprint == start[1].fingerprint


def test_a_gene_without_counts_breaks_nothing() -> None:
    adata = _toy()
    X = adata.X.toarray()
    X[:, 5] = 0
    adata.X = sp.csr_matrix(X)
    model = _fit_toy(adata, max_epochs=4)
    assert all(torch.isfinite(p).all() for p in model.module.parameters())
    assert model.get_normalized_expression()["g5"].max() < 0.05 * 1e4 / 25


@pytest.mark.parametrize("n_different", [1, 2])
def test_spots_that_do_not_differ(n_different) -> None:
    adata = _toy(n=n_different)
    adata = AnnData(sp.csr_matrix(np.repeat(adata.X.toarray(), 40 // n_different, axis=0)), var=adata.var)
    model = SpotVAE(adata, n_latent=3)
    with pytest.warns(UserWarning, match=f"vary along {n_different - 1} directions only"):
        model.fit(max_epochs=1, validation_fraction=0, progress=False, device="cpu")
    assert np.isfinite(model.embed()).all()


def test_transfer_with_genes_in_another_order_or_missing(fitted) -> None:
    adata, model = fitted
    z = model.embed(adata)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    assert np.array_equal(model.embed(adata[:, order].copy()), z)
    extra = AnnData(
        sp.hstack([adata.X, sp.csr_matrix(np.ones((adata.n_obs, 1), dtype=np.float32))], format="csr"),
        obs=adata.obs.copy(),
        var=pd.DataFrame(index=[*adata.var_names, "more"]),
    )
    assert np.array_equal(model.embed(extra), z)
    fewer = adata[:, 4:].copy()
    zeros = adata.copy()
    zeros.X = sp.csr_matrix(np.where(np.arange(adata.n_vars) < 4, 0, adata.X.toarray()))
    with pytest.warns(UserWarning, match="4 of the 25 genes"):
        got = model.embed(fewer)
    np.testing.assert_allclose(got, model.embed(zeros), atol=1e-6)
    with pytest.raises(ValueError, match="Only 3 of the 25 genes"):
        model.embed(adata[:, :3].copy())


def test_save_and_load(fitted, tmp_path) -> None:
    adata, model = fitted
    model.save(tmp_path / "a.stc")
    again = SpotVAE.load(tmp_path / "a.stc", device="cpu")
    assert again.fingerprint == model.fingerprint
    assert repr(again) == repr(model)
    pd.testing.assert_frame_equal(again.history, model.history)
    assert np.array_equal(again.embed(adata), model.embed(adata))
    assert again.get_likelihood(adata).equals(model.get_likelihood(adata))
    again.save(tmp_path / "b.stc")
    assert SpotVAE.load(tmp_path / "b.stc").fingerprint == model.fingerprint
    with pytest.raises(ValueError, match="holds no data: pass adata"):
        again.embed()
    with pytest.raises(ValueError, match=r"make a new SpotVAE\(adata\)"):
        again.fit()


def test_a_changed_weight_is_noticed(fitted, tmp_path) -> None:
    _, model = fitted
    path = tmp_path / "a.stc"
    model.save(path)
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="was changed after it was saved"):
        SpotVAE.load(path)


def test_devices(fitted) -> None:
    _, model = fitted
    assert model.to("cpu") is model
    with pytest.raises(ValueError, match="device='nonsense' is unknown"):
        model.to("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees 0 CUDA devices"):
            SpotVAE(_toy(), n_latent=3).fit(device="cuda", progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_fit_gives_the_same_model() -> None:
    adata = _toy()
    here = _fit_toy(adata)
    there = SpotVAE(adata, n_latent=3, n_hidden=8).fit(max_epochs=2, progress=False, device="cuda")
    np.testing.assert_allclose(there.embed(), here.embed(), atol=1e-2)
    np.testing.assert_allclose(there.to("cpu").embed(), there.to("cuda").embed(), atol=1e-5)


def test_not_fitted() -> None:
    model = SpotVAE(_toy(), n_latent=3)
    assert "not fitted" in repr(model)
    for use in (model.embed, model.get_likelihood, lambda: model.fingerprint, lambda: model.save("x")):
        with pytest.raises(NotFittedError, match=r"call model.fit\(\) first"):
            use()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"init": "pca"}, ValueError, "init='pca' is unknown"),
        ({"n_latent": 0}, ValueError, "n_latent=0 must be at least 1"),
        ({"n_latent": 25}, ValueError, "60 spots and 25 genes are too few for n_latent=25"),
        ({"batch_key": "no"}, KeyError, "batch_key='no' is not a column"),
        ({"batch_key": "gap"}, ValueError, "missing values; every spot needs its section"),
        ({"layer": "counts"}, KeyError, "Layer 'counts' is not in adata.layers"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    adata = _toy()
    adata.obs["gap"] = ["a", None] * 30
    with pytest.raises(error, match=message):
        SpotVAE(adata, **options)


@pytest.mark.parametrize(
    "options", [{"validation_fraction": 1.0}, {"batch_size": 0}, {"patience": 0}, {"max_epochs": -1}, {"lr": 0.0}]
)
def test_wrong_fit_options(options) -> None:
    with pytest.raises(ValueError, match="must be"):
        SpotVAE(_toy(), n_latent=3).fit(progress=False, **options)


def test_counts_changed_between_construction_and_fit() -> None:
    adata = _toy()
    model = SpotVAE(adata, n_latent=3)
    adata.X = adata.X.log1p()
    with pytest.raises(ValueError, match="non-integer"):
        model.fit(progress=False)
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]
    with pytest.raises(ValueError, match="var_names changed"):
        model.fit(progress=False)


def test_a_failed_fit_leaves_the_model_as_it_was(monkeypatch) -> None:
    adata = _toy()
    model = _fit_toy(adata)
    before, history = model.fingerprint, model.history
    monkeypatch.setattr(_fit, "elbo_loss", lambda module, *_, **__: module.weight.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="smaller lr"):
        model.fit(max_epochs=2, progress=False)
    model._fingerprint = None
    assert model.fingerprint == before
    pd.testing.assert_frame_equal(model.history, history)


def test_interrupted_fit_is_usable(monkeypatch) -> None:
    adata = _toy(n=100)
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
    model = SpotVAE(_toy(), n_latent=3)
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


def test_repr_says_what_matters() -> None:
    adata = stc.datasets.simulated_bulb(n_obs=100, n_vars=60, n_markers=2, n_smooth=5, seed=0)
    model = stc.SpotVAE(adata, n_latent=3)
    assert repr(model) == "SpotVAE(n_vars=60, n_latent=3, init='svd'; not fitted)"
    model.fit(max_epochs=1, progress=False)
    best = model.history["validation_nll"].min()
    assert f"{model.fingerprint}, 1 epochs, held-out NLL {best:.1f} per spot" in repr(model)
