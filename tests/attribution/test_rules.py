from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from st_concepts.attribution import Options, explain
from st_concepts.attribution._methods.relu_rules import percentile


def rectgrad_by_loops(weights, biases, vector, x, *, q, tau, modified, times_input):
    """Definition of Kim et al. 2019 written out spot by spot and unit by unit, for a plain net of rectified layers."""
    out = np.zeros_like(x)
    for i, spot in enumerate(x):
        activations, a = [], spot
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            a = np.array([max(0.0, sum(w[j, k] * a[k] for k in range(len(a))) + b[j]) for j in range(len(w))])
            activations.append(a)
        gradient = [sum(vector[r] * weights[-1][r, j] for r in range(len(vector))) for j in range(len(a))]
        for layer in reversed(range(len(activations))):
            relevance = [activations[layer][j] * gradient[j] for j in range(len(gradient))]
            if modified:
                relevance = [abs(r) for r in relevance]
            threshold = float(np.percentile(relevance, q)) if tau is None else tau
            passed = [gradient[j] if relevance[j] > threshold else 0.0 for j in range(len(gradient))]
            w = weights[layer]
            gradient = [sum(w[j, k] * passed[j] for j in range(len(passed))) for k in range(w.shape[1])]
        out[i] = [g * v for g, v in zip(gradient, spot, strict=True)] if times_input else gradient
    return out


@pytest.mark.parametrize("times_input", [False, True])
@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize(("q", "tau"), [(95, None), (40, None), (0, None), (100, None), (95, 0.02)])
def test_rectgrad_equals_its_definition(tools, q, tau, modified, times_input):
    rng = np.random.default_rng(2)
    sizes = [7, 9, 8, 3]
    weights = [rng.normal(size=(b, a)) / a**0.5 for a, b in pairwise(sizes)]
    biases = [rng.normal(size=b) * 0.3 for b in sizes[1:]]
    layers: list[nn.Module] = []
    for w, b in zip(weights, biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[0]).double()
        with torch.no_grad():
            linear.weight.copy_(torch.as_tensor(w))
            linear.bias.copy_(torch.as_tensor(b))
        layers += [linear, nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    x, vector = rng.normal(size=(10, 7)), rng.normal(size=3)
    truth = rectgrad_by_loops(weights, biases, vector, x, q=q, tau=tau, modified=modified, times_input=times_input)
    options = Options(q=q, tau=tau, modified=modified, propagated_relevance=times_input)
    found = explain(net, x, vector, method="rectgrad", options=options).attributions
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-13)
    assert truth.any() == (q < 100 or tau is not None)


@pytest.mark.parametrize("q", [0, 12.5, 50, 95, 100])
def test_percentile_is_numpys(q):
    values = np.random.default_rng(0).normal(size=(6, 11))
    np.testing.assert_allclose(
        percentile(torch.as_tensor(values), q)[:, 0].numpy(), np.percentile(values, q, axis=1), rtol=1e-12
    )


def test_guided_backprop_and_deconvolution_equal_captum_on_a_residual_net(tools, spots, encoder):
    for method in ("guided_backprop", "deconvolution"):
        truth = tools.captum_map(method, encoder, spots.concepts[1], spots.dense)
        codes = np.zeros(30, dtype=int)
        found = explain(encoder, spots.dense, spots.concepts[1], method=method, codes=codes).attributions
        assert tools.relative_error(found, truth) < 1e-9


def test_epsilon_lrp_equals_captum_on_a_plain_net(tools):
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5)
    x = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    for latent in range(4):
        # captum forgets the rules after each call
        for m in net:
            if isinstance(m, nn.Linear):
                m.rule = EpsilonRule(epsilon=0.05)
        truth = LRP(net).attribute(x.clone().requires_grad_(True), target=latent).detach()
        found = explain(net, x, np.eye(4)[latent], method="epsilon_lrp", options=Options(epsilon=0.05)).attributions
        assert tools.relative_error(found.numpy(), truth.numpy()) < 1e-7


def test_epsilon_lrp_without_bias_divides_the_score(tools, spots):
    # relevance is conserved up to epsilon when no bias takes a share; this also covers the residual sum
    encoder = tools.TinyEncoder(n_codes=1)
    with torch.no_grad():
        encoder.bias.zero_()
        for m in encoder.rest.modules():
            if isinstance(m, nn.Linear):
                m.bias.zero_()
    found = explain(encoder, spots.dense, spots.concepts[0], method="epsilon_lrp", options=Options(epsilon=1e-10))
    np.testing.assert_allclose(found.attributions.sum(1), found.score, rtol=1e-6, atol=1e-8)


def test_epsilon_lrp_refuses_functions_that_are_not_zero_at_zero():
    net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="not zero at zero"):
        explain(net, torch.ones(2, 4), [1, 0], method="epsilon_lrp")


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus])
def test_deeplift_behind_the_first_layer_equals_captum(tools, spots, activation):
    encoder = tools.TinyEncoder(activation=activation)
    truth = tools.captum_map(
        "deeplift", encoder, spots.concepts[0], spots.dense, spots.baselines[0], np.zeros(30, dtype=int)
    )
    codes = np.zeros(30, dtype=int)
    found = explain(
        encoder, spots.dense, spots.concepts[0], method="deeplift", codes=codes, baseline=spots.baselines[0]
    )
    assert tools.relative_error(found.attributions, truth) < 1e-6
    np.testing.assert_allclose(found.completeness_gap, 0, atol=1e-9)
