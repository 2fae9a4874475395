from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from st_concepts.attribution import METHODS, Options, Pass, explain
from st_concepts.attribution._backward import pull_back
from st_concepts.attribution._methods.base import QUADRATURES
from st_concepts.attribution._methods.path import quadrature


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Net(nn.Module):
    """One of several nets on 8 pre-activations; counts its own forward passes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 8)
            self.norm, self.layer_norm, self.dropout = nn.BatchNorm1d(8), nn.LayerNorm(8), nn.Dropout(0.5)
        self.kind, self.passes = kind, 0
        self.requires_grad_(False).double().eval()

    def forward(self, x):
        self.passes += 1
        match self.kind:
            case "one layer":
                return self.b(F.relu(x))
            case "linear":
                return self.b(self.a(x))
            case "residual":
                return x[:, :3] + self.b(self.dropout(F.relu(self.norm(self.c(x)))))
            case "two side by side":
                halves = x.chunk(2, dim=1)
                return self.b(torch.cat([F.relu(halves[0]), 2 * torch.relu(halves[1] - 0.1)], dim=1))
            case "two layers":
                return self.b(F.relu(self.a(F.relu(x))))
            case "two layers through chunks":
                return self.b(F.relu(torch.cat(F.relu(self.a(x)).chunk(2, dim=1), dim=1) - 0.2))
            case "tanh":
                return self.b(torch.tanh(F.relu(x)))
            case "layer norm":
                return self.b(F.relu(self.layer_norm(x)))
            case "custom function":
                return self.b(F.relu(Cube.apply(x)))
            case "detached gate":
                return self.b(x * (x > 0).detach())
            case "product":
                return self.b(x * x)
            case "value read out":
                return self.b(F.relu(x) * x[0, 0].item())
            case "in place":
                h = self.a(x)
                F.relu_(h)
                return self.b(h)
            case "in place on the input":
                return self.b(F.relu(x, inplace=True))
        raise AssertionError(self.kind)


SHALLOW = ["one layer", "linear", "residual", "two side by side"]
DEEP = [
    "two layers",
    "two layers through chunks",
    "tanh",
    "layer norm",
    "custom function",
    "detached gate",
    "product",
    "in place",
    "in place on the input",
]


@pytest.mark.parametrize("rule", QUADRATURES)
@pytest.mark.parametrize("kind", [*SHALLOW, *DEEP])
def test_path_mean_is_the_weighted_sum_of_gradients(kind, rule):
    net = Net(kind)
    rng = np.random.default_rng(0)
    a, a0 = (torch.as_tensor(rng.normal(size=(40, 8))) for _ in range(2))
    a0[:5] = a[:5]  # nothing to go
    a0[5:10, 0], a[5:10, 1] = 0, 0  # ends on a kink
    directions = torch.as_tensor(rng.normal(size=(2, 40, 3)))
    run = lambda x, codes: net(x)  # noqa: E731
    options = Options(n_steps=11, quadrature=rule)
    found = METHODS["integrated_gradients"].multipliers(Pass(run, a, a0, None, directions, options))
    passes = net.passes
    truth = sum(
        weight * pull_back(run, a0 + point * (a - a0), None, directions)
        for point, weight in zip(*quadrature(rule, 11), strict=True)
    )
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
    # at most one vain pass is lost on a deep net
    assert passes == 1 if kind in SHALLOW else passes in (11, 12)


def test_values_read_out_of_the_net_are_noticed():
    net = Net("value read out")
    x = torch.full((1, 8), 2.0, dtype=torch.float64)
    run = lambda x, codes: net(x)  # noqa: E731
    directions = torch.ones((1, 1, 3), dtype=torch.float64)
    METHODS["integrated_gradients"].multipliers(Pass(run, x, torch.zeros_like(x), None, directions, Options()))
    assert net.passes > 2


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution", "rectgrad", "epsilon_lrp"])
def test_rules_follow_functions_that_overwrite_their_input(method):
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(9, 8)))
    plain = Net("in place")
    plain.forward = lambda x: plain.b(F.relu(plain.a(x)))
    values = [explain(n, x, [1.0, -1.0, 2.0], method=method).attributions for n in (Net("in place"), plain)]
    torch.testing.assert_close(*values)
    assert values[0].any()


def test_nothing_of_a_batch_outlives_it():
    """Tensors of a batch must go when the batch does, not when the garbage collector comes by."""
    import gc

    rest = nn.Sequential(nn.ReLU(), nn.Linear(6, 3))
    options = Options()
    gc.collect()
    gc.disable()
    try:
        held = []
        for _ in range(3):
            a, a0, v = torch.randn(5, 6), torch.randn(5, 6), torch.randn(2, 5, 3)
            spots = Pass(lambda x, codes: rest(x), a, a0, None, v, options)
            METHODS["integrated_gradients"].multipliers(spots)
            del spots
            del a, a0, v
            held.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))
    finally:
        gc.enable()
    assert held[0] == held[-1]
