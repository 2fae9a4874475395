from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from st_concepts.attribution import explain, group_attributions, iter_batches
from st_concepts.models._encoder import Encoder
from st_concepts.models._scvi import from_scvi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("scvi", reason="needs scvi-tools")

# scvi-tools and lightning warn about their own internals
pytestmark = pytest.mark.filterwarnings("ignore")

VECTOR = np.array([1.0, -0.5, 2.0, 0.3])


def counts_of_two_batches(seed: int = 0):
    from anndata import AnnData

    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 1.0, (3, 30))
    labels = rng.integers(0, 3, 120)
    x = sp.csr_matrix(rng.poisson(rate[labels]).astype(np.float32))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(rng.choice(["b", "a"], 120)),
            "plate": pd.Categorical(rng.choice(["p1", "p2", "p3"], 120)),
            "depth": rng.normal(size=120),
            "layer": pd.Categorical(np.array(["L1", "L2", "unknown"])[labels]),
        },
        index=[f"s{i}" for i in range(120)],
    )
    return AnnData(x, obs, pd.DataFrame(index=[f"g{i}" for i in range(30)]))


def trained(name: str = "SCVI", *, setup: dict | None = None, train: bool = True, **kw):
    import scvi

    adata = counts_of_two_batches()
    cls = getattr(scvi.model, name)
    setup = {"batch_key": "batch", **(setup or {})}
    if name == "SCANVI":
        setup |= {"labels_key": "layer", "unlabeled_category": "unknown"}
    # not scvi.settings.seed, which would also set numpy's
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cls.setup_anndata(adata, **setup)
        model = cls(adata, n_latent=4, n_hidden=16, **kw)
        if train:
            model.train(
                max_epochs=2,
                batch_size=40,
                accelerator="cpu",
                enable_progress_bar=False,
                logger=False,
                enable_checkpointing=False,
            )
    return adata, model


@pytest.fixture(scope="module")
def two_batches():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trained(encode_covariates=True, n_layers=2)


CONFIGURATIONS = {
    "default": ("SCVI", {}, {}),
    "covariates": ("SCVI", {"encode_covariates": True}, {}),
    "deep covariates": (
        "SCVI",
        {"encode_covariates": True, "n_layers": 3},
        {"categorical_covariate_keys": ["plate"]},
    ),
    "shallow covariates": (
        "SCVI",
        {"encode_covariates": True, "n_layers": 2, "deeply_inject_covariates": False},
        {"categorical_covariate_keys": ["plate"]},
    ),
    "layer norm": ("SCVI", {"use_layer_norm": "both", "use_batch_norm": "none", "log_variational": False}, {}),
    "continuous covariate in the decoder only": ("SCVI", {}, {"continuous_covariate_keys": ["depth"]}),
    "no batch": ("SCVI", {"encode_covariates": True}, {"batch_key": None}),
    "linear": ("LinearSCVI", {}, {}),
    "labels": ("SCANVI", {"encode_covariates": True}, {}),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_latent_means_are_the_models_own(name):
    cls, kw, setup = CONFIGURATIONS[name]
    adata, model = trained(cls, setup=setup, **kw)
    encoder = from_scvi(model)
    assert isinstance(encoder, Encoder)
    assert encoder.n_latent == 4
    assert list(encoder.var_names) == list(adata.var_names)
    features, codes = encoder.features(adata.X), encoder.codes(adata.obs)
    assert sp.issparse(features)
    assert (codes is not None) == ("covariates" in name or name == "labels")
    latent = encoder.encode(torch.as_tensor(features.toarray()), None if codes is None else torch.as_tensor(codes))
    np.testing.assert_allclose(latent.detach(), model.get_latent_representation(), rtol=1e-4, atol=1e-5)
    dense = encoder.features(adata.X.toarray())
    np.testing.assert_allclose(dense, features.toarray())


class Raw(nn.Module):
    """Posterior mean through scvi's own module."""

    def __init__(self, model) -> None:
        super().__init__()
        import copy

        self.encoder = copy.deepcopy(model.module.z_encoder).double().eval()
        self.vector = torch.as_tensor(VECTOR)

    def forward(self, x, batch):
        return (self.encoder(x, batch)[0].loc @ self.vector)[:, None]


@pytest.mark.parametrize(
    ("method", "captum"),
    [
        ("gradient", "Saliency"),
        ("gradient_x_input", "InputXGradient"),
        ("integrated_gradients", "IntegratedGradients"),
        ("guided_backprop", "GuidedBackprop"),
        ("deconvolution", "Deconvolution"),
        ("deeplift", "DeepLift"),
        ("occlusion", "Occlusion"),
    ],
)
def test_maps_and_group_means_equal_captum(two_batches, method, captum):
    from captum import attr

    adata, model = two_batches
    encoder = from_scvi(model)
    features = encoder.features(adata.X).astype(np.float64)
    codes = encoder.codes(adata.obs)
    baseline = np.asarray(features.mean(0)).ravel()
    uses = method in ("integrated_gradients", "deeplift", "occlusion")
    x = torch.as_tensor(features.toarray()).requires_grad_(True)
    batch = torch.as_tensor(adata.obs["batch"].cat.codes.to_numpy(dtype=np.int64, copy=True))[:, None]
    kw = {"target": 0, "additional_forward_args": (batch,)}
    if uses:
        kw["baselines"] = torch.as_tensor(baseline).expand_as(x).clone()
    if method == "gradient":
        kw["abs"] = False
    if method == "occlusion":
        kw["sliding_window_shapes"] = (1,)
    truth = getattr(attr, captum)(Raw(model)).attribute(x, **kw).detach().numpy()

    found = explain(
        encoder, features.toarray(), VECTOR, method=method, codes=codes, baseline=baseline if uses else None
    )
    assert found.path == "factorised"
    assert np.abs(found.attributions - truth).max() < 1e-6 * np.abs(truth).max()

    weights = (adata.obs["layer"].to_numpy()[:, None] == ["L1", "L2"]).astype(float)
    groups = group_attributions(
        encoder,
        iter_batches(features, weights, codes, batch_size=50),
        method=method,
        concepts=VECTOR,
        baselines=baseline if uses else None,
        dtype=torch.float64,
    )
    for k in range(2):
        mean = truth[weights[:, k] > 0].mean(0)
        assert np.abs(groups.values[k, 0] - mean).max() < 1e-6 * np.abs(mean).max()


def test_integrated_gradients_sum_to_the_score_difference(two_batches):
    adata, model = two_batches
    encoder = from_scvi(model)
    features, codes = encoder.features(adata.X), encoder.codes(adata.obs)
    weights = (adata.obs["layer"].to_numpy()[:, None] == ["L1", "L2"]).astype(float)
    found = group_attributions(encoder, iter_batches(features, weights, codes))
    # along the way that the latent means go, so that the score difference is not a small rest of large terms
    assert found.contract(found.score_difference, paired=True).completeness_error.max() < 0.01


def test_batches_matter_and_unknown_ones_are_named(two_batches):
    adata, model = two_batches
    encoder = from_scvi(model)
    x = torch.as_tensor(encoder.features(adata.X).toarray())
    a, b = (encoder.encode(x, torch.full((120,), c)) for c in (0, 1))
    assert not torch.allclose(a, b)
    obs = adata.obs.assign(batch=adata.obs["batch"].astype(str).replace("a", "zebra"))
    with pytest.raises(ValueError, match=r"holds \['zebra'\]"):
        encoder.codes(obs)
    with pytest.raises(ValueError, match=r"set up with obs\['batch'\]"):
        encoder.codes(adata.obs.drop(columns="batch"))


def test_encoder_is_a_snapshot_in_eval_mode(two_batches):
    adata, model = two_batches
    encoder = from_scvi(model)
    features = encoder.features(adata.X[:5])
    x, codes = torch.as_tensor(features.toarray()), torch.zeros(5, dtype=torch.long)
    before, fingerprint = encoder.encode(x, codes), encoder.fingerprint
    model.module.train()
    kept = [p.detach().clone() for p in model.module.z_encoder.parameters()]
    try:
        with torch.no_grad():
            for p in model.module.z_encoder.parameters():
                p.mul_(1.5)
        assert torch.equal(encoder.encode(x, codes), before)
        assert from_scvi(model).fingerprint != fingerprint == encoder.fingerprint
    finally:
        with torch.no_grad():
            for p, old in zip(model.module.z_encoder.parameters(), kept, strict=True):
                p.copy_(old)
        model.module.eval()


def test_refusals():
    with pytest.raises(TypeError, match="not Linear"):
        from_scvi(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="not trained yet"):
        from_scvi(trained(train=False)[1])
    with pytest.raises(ValueError, match="no closed form"):
        from_scvi(trained(latent_distribution="ln")[1])
    with pytest.raises(ValueError, match="Continuous covariates"):
        from_scvi(trained(setup={"continuous_covariate_keys": ["depth"]}, encode_covariates=True)[1])


def test_missing_scvi(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scvi.model", None)
    with pytest.raises(ImportError, match=r"pip install 'st_concepts\[scvi\]'"):
        from_scvi(object())
