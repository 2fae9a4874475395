"""A fitted model in use: latent means, likelihood, transfer, files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy import stats

import st_concepts as stc
from st_concepts.models import Encoder, NotFittedError, SpotVAE
from tests.models._spot.toys import fit_toy, toy


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


def test_likelihood_is_that_of_scipy(fitted) -> None:
    adata, model = fitted
    share = np.concatenate([model.decode(z, section=s) for z, s in zip(model.embed(), adata.obs["slide"], strict=True)])
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-5)
    other = toy(seed=9)
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
    adata = toy(n=200, sections=2)
    shifted = adata.X.toarray()
    shifted[1::2, :8] *= 9  # a strong effect of the slide
    adata.X = sp.csr_matrix(shifted)
    with_key = fit_toy(adata, batch_key="slide", max_epochs=0).embed()
    without = fit_toy(adata, max_epochs=0).embed()

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
            SpotVAE(toy(), n_latent=3).fit(device="cuda", progress=False)


def test_not_fitted() -> None:
    model = SpotVAE(toy(), n_latent=3)
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
        ({"section_key": "no"}, KeyError, "section_key='no' is not a column"),
        ({"section_key": "slide", "batch_key": "gap"}, ValueError, "are two names of one thing; give one"),
        ({"batch_key": "gap"}, ValueError, "missing values; every spot needs its section"),
        ({"layer": "counts"}, KeyError, "Layer 'counts' is not in adata.layers"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    adata = toy()
    adata.obs["gap"] = ["a", None] * 30
    with pytest.raises(error, match=message):
        SpotVAE(adata, **options)


def test_repr_says_what_matters() -> None:
    adata = stc.datasets.simulated_bulb(n_obs=100, n_vars=60, n_markers=2, n_smooth=5, seed=0)
    model = stc.SpotVAE(adata, n_latent=3)
    assert repr(model) == "SpotVAE(n_vars=60, n_latent=3, init='svd'; not fitted)"
    model.fit(max_epochs=1, progress=False)
    best = model.history["validation_nll"].min()
    assert f"{model.fingerprint}, 1 epochs, held-out NLL {best:.1f} per spot" in repr(model)
