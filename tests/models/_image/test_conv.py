from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from st_concepts.attribution import Options, explain
from st_concepts.models._image.conv import ConvConfig, ConvVAE, elbo_terms


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 37), st.integers(1, 37)),
    st.lists(st.tuples(st.integers(1, 5), st.integers(2, 6)), min_size=1, max_size=4),
    st.lists(st.integers(1, 8), max_size=2),
    st.integers(1, 6),
)
@settings(deadline=None, max_examples=40)
def test_any_shape_and_architecture_reconstructs_its_shape(shape, blocks, hidden, n_latent) -> None:
    channels, kernels = zip(*blocks, strict=True)
    module = ConvVAE(ConvConfig.make(shape, n_latent, channels, kernels, hidden)).eval()
    logits, mean, log_var = module(torch.rand(2, *shape), torch.zeros(2, n_latent))
    assert logits.shape == (2, *shape)
    assert mean.shape == log_var.shape == (2, n_latent)


def test_the_architecture_of_the_paper() -> None:
    encoder = ConvVAE(ConvConfig((1, 32, 32))).encoder
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (16, (4, 4), (2, 2)),
        (32, (4, 4), (2, 2)),
        (64, (4, 4), (2, 2)),
    ]
    assert [m.out_features for m in encoder.body if isinstance(m, nn.Linear)] == [256, 256]
    # Keras' count for the encoder: Conv 272 + 8224 + 32832, dense 262400 + 65792, batch norms 4 x (16+32+64+256+256)
    # of which half are running statistics, and two heads of 256 x 20 + 20
    trainable = sum(p.numel() for p in encoder.parameters())
    assert trainable == 272 + 8224 + 32832 + 262400 + 65792 + 2 * (16 + 32 + 64 + 256 + 256) + 2 * 5140


def test_loss_terms_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(3, 2, 4, 5)), rng.random((3, 2, 4, 5))
    mean, log_var = rng.normal(size=(2, 3, 6))
    mask = rng.random((4, 5)) > 0.4
    p = 1 / (1 + np.exp(-logits))
    bce = -sum(
        x[i, c, r, q] * np.log(p[i, c, r, q]) + (1 - x[i, c, r, q]) * np.log(1 - p[i, c, r, q])
        for i in range(3)
        for c in range(2)
        for r in range(4)
        for q in range(5)
        if mask[r, q]
    )
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(torch.tensor(mean), torch.tensor(log_var).mul(0.5).exp()), normal(0.0, 1.0)
    ).sum()
    got = elbo_terms(*map(torch.tensor, (logits, x, mean, log_var)), torch.tensor(mask, dtype=torch.float64))
    assert float(got[0]) == pytest.approx(bce / 3)
    assert float(got[1]) == pytest.approx(float(kl) / 3)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (ConvVAE(ConvConfig((1, 9, 9)), seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["encoder.mean.weight"], c["encoder.mean.weight"])


@pytest.mark.parametrize("method", ["gradient", "rectgrad", "guided_backprop", "deconvolution", "integrated_gradients"])
def test_attribution_methods_follow_the_encoder(method) -> None:
    module = ConvVAE(ConvConfig((1, 12, 10), n_latent=4, hidden=(16,)), seed=3).eval()
    x = torch.rand(3, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    v = np.array([1.0, -1.0, 0.5, 0.0])
    found = explain(module.encoder, x, v, method=method, options=Options(q=50, n_steps=100))
    assert found.attributions.shape == x.shape
    assert float(found.attributions.abs().sum()) > 0
    if method == "gradient":
        leaf = x.clone().requires_grad_(True)
        (module.encoder(leaf)[0] @ torch.tensor(v, dtype=torch.float32)).sum().backward()
        torch.testing.assert_close(found.attributions, leaf.grad)
    if method == "integrated_gradients":
        scale = np.abs(found.score_difference).max()
        assert np.abs(found.completeness_gap).max() < 0.05 * scale


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 5, 5), 2, (4,), 4, ()),
        ((1, 5, 5), 2, (), 4, ()),
        ((1, 5, 5), 2, (4, 4), (4,), ()),
        ((1, 5, 5), 0, (4,), 4, ()),
    ],
)
def test_impossible_architectures_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConvConfig.make(*arguments)
