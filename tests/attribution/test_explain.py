from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from st_concepts.attribution import METHODS, Options, explain

EXACT = [
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "guided_backprop",
    "deconvolution",
    "deeplift",
    "occlusion",
]
BASELINE = {"integrated_gradients", "deeplift", "occlusion"}


class ConvNet(nn.Module):
    """Mean and log-variance of three latent dimensions from 2 x 6 x 6 images."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(), nn.Flatten()
            )
            self.dropout = nn.Dropout(0.5)
            self.mean = nn.Linear(20, 3)
            self.logvar = nn.Linear(20, 3)
        self.double()

    def forward(self, x):
        h = self.dropout(self.body(x))
        return self.mean(h), self.logvar(h)


class MeanOnly(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[0]


VECTOR = np.array([1.0, -0.5, 2.0])


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 2, 6, 6))


@pytest.mark.parametrize("method", EXACT)
def test_conv_net_equals_captum(tools, images, method):
    net = ConvNet()
    baseline = np.random.default_rng(1).normal(size=(2, 6, 6)) * 0.3 if method in BASELINE else None
    options = None
    if method == "occlusion":
        options = Options(window=(1, 1, 1))
        from captum.attr import Occlusion

        score = tools.Score(MeanOnly(net), VECTOR).eval()
        start = torch.as_tensor(baseline)[None]
        truth = (
            Occlusion(score).attribute(torch.as_tensor(images), (1, 1, 1), target=0, baselines=start).detach().numpy()
        )
    else:
        truth = tools.captum_map(method, MeanOnly(net), VECTOR, images, baseline)
    net.train()
    found = explain(net, images, VECTOR, method=method, baseline=baseline, options=options, batch_size=4)
    assert found.attributions.shape == images.shape
    assert found.path == ("captum" if METHODS[method].runs_in_captum else "autograd")
    assert tools.relative_error(found.attributions, truth) < 1e-6
    assert all(m.training for m in net.modules())
    with torch.no_grad():
        scores = net.eval()(torch.as_tensor(images))[0].numpy() @ VECTOR
    np.testing.assert_allclose(found.score, scores)
    if method in ("integrated_gradients", "deeplift"):
        limit = 0.02 if method == "integrated_gradients" else 1e-8
        assert np.abs(found.completeness_gap).max() < limit * np.abs(found.score_difference).max()


@pytest.mark.parametrize("method", list(METHODS))
def test_encoder_takes_the_factorised_path_and_agrees_with_the_plain_one(tools, spots, method):
    encoder = tools.TinyEncoder(n_codes=1)
    kw = {
        "method": method,
        "baseline": spots.baselines[0] if method in BASELINE else None,
        "references": spots.dense[:5] if method == "expected_gradients" else None,
        "options": Options(n_samples=4, n_steps=9),
    }
    fast = explain(encoder, torch.as_tensor(spots.dense), spots.concepts[0], **kw)
    assert fast.path == "factorised"
    assert isinstance(fast.attributions, torch.Tensor)
    plain = nn.Sequential(nn.Linear(40, 15), encoder.rest).double()
    with torch.no_grad():
        plain[0].weight.copy_(encoder.weight)
        plain[0].bias.copy_(encoder.bias[0])
    slow = explain(plain, spots.dense, spots.concepts[0], **kw)
    assert slow.path in ("autograd", "captum")
    if method != "smoothgrad":  # its noise is drawn in another space
        assert tools.relative_error(fast.attributions.numpy(), slow.attributions) < 1e-6
    np.testing.assert_allclose(fast.score, slow.score)
    if slow.score_difference is not None:
        np.testing.assert_allclose(fast.score_difference, slow.score_difference)


def test_modes_of_submodules_come_back_after_an_error():
    net = ConvNet().train()
    net.body.eval()
    before = [m.training for m in net.modules()]
    with pytest.raises(ValueError, match="needs 3 entries"):
        explain(net, torch.ones(1, 2, 6, 6), np.ones(4))
    assert [m.training for m in net.modules()] == before


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


def test_functional_relu_is_followed_or_refused(tools):
    net = Functional()
    modules = nn.Sequential(net.first, nn.ReLU(), net.last)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for method in ("guided_backprop", "deconvolution", "rectgrad", "epsilon_lrp"):
        values = [explain(m, x, [1.0, -1.0], method=method).attributions for m in (net, modules)]
        torch.testing.assert_close(values[0], values[1])
        assert values[0].any()
    with pytest.raises(ValueError, match=r"functional.relu: use the module"):
        explain(net, x, [1.0, -1.0], method="deeplift")


def test_module_used_twice_is_refused_by_deeplift():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.relu = nn.Linear(4, 4), nn.Linear(4, 2), nn.ReLU()

        def forward(self, x):
            return self.b(self.relu(self.a(self.relu(self.a(x)))))

    with pytest.raises(ValueError, match="runs 2 times"):
        explain(Twice(), torch.randn(3, 4), [1.0, 0.0], method="deeplift")
    assert explain(Twice(), torch.randn(3, 4), [1.0, 0.0], method="guided_backprop").attributions.shape == (3, 4)


def test_inplace_relu_is_followed():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for method in ("gradient", "guided_backprop", "deconvolution", "rectgrad", "epsilon_lrp"):
        outs = []
        for inplace in (False, True):
            net[1].inplace = net[3].inplace = inplace
            outs.append(explain(net, x, [1.0, -1.0], method=method).attributions)
        torch.testing.assert_close(outs[0], outs[1])


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution", "rectgrad"])
def test_model_without_relu(tools, spots, method):
    with pytest.raises(ValueError, match="needs rectified linear units"):
        explain(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.ones(2, 4), [1, 0, 0], method=method)
    smooth = tools.TinyEncoder(activation=nn.Tanh)
    with pytest.raises(ValueError, match="needs rectified linear units"):
        explain(smooth, spots.dense, spots.concepts[0], method=method, codes=spots.codes)


def test_bad_inputs():
    net = Functional()
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match="NaN or infinite"):
        explain(net, torch.full((2, 4), torch.nan), [1, 0])
    with pytest.raises(ValueError, match="needs 2 entries"):
        explain(net, x, [1, 0, 0])
    with pytest.raises(ValueError, match="takes one concept vector"):
        explain(net, x, np.ones((2, 2)))
    with pytest.raises(ValueError, match="baseline has shape"):
        explain(net, x, [1, 0], baseline=np.ones(3))
    with pytest.raises(ValueError, match="needs references"):
        explain(net, x, [1, 0], method="expected_gradients")
    with pytest.raises(ValueError, match="codes are for encoders"):
        explain(net, x, [1, 0], codes=np.zeros(2, int))
    with pytest.raises(TypeError, match="from_scvi"):
        explain(object(), x, [1, 0])

    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() * 2

    with pytest.raises(ValueError, match="differentiated"):
        explain(Detached(), x, np.ones(4))

    class Scalar(nn.Module):
        def forward(self, x):
            return {"mean": x}

    with pytest.raises(ValueError, match="must return the latent mean"):
        explain(Scalar(), x, np.ones(4))


def test_runs_under_no_grad_and_leaves_no_gradients():
    net = Functional()
    with torch.no_grad():
        assert explain(net, torch.ones(2, 4), [1, 0], method="gradient").attributions.any()
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
