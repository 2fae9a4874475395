"""Small encoders of every kind, with everything needed to check them against captum."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from st_concepts.models._encoder import FirstLayer


class ResidualRest(nn.Module):
    """First ``n_latent`` pre-activations are the linear part, the others enter a net of two rectified layers."""

    def __init__(self, n_latent: int, n_hidden: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.net = nn.Sequential(
            activation(), nn.Linear(n_hidden, n_hidden), activation(), nn.Linear(n_hidden, n_latent)
        )

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return a[:, : self.n_latent] + self.net(a[:, self.n_latent :])


class TinyEncoder(nn.Module):
    """Follows the encoder protocol; ``factorised=False`` hides its linear first layer."""

    def __init__(
        self,
        n_vars: int = 40,
        n_latent: int = 3,
        n_hidden: int = 12,
        n_codes: int = 2,
        *,
        factorised: bool = True,
        activation: type[nn.Module] = nn.ReLU,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.rest = ResidualRest(n_latent, n_hidden, activation)
            self.weight = nn.Parameter(torch.randn(n_latent + n_hidden, n_vars) / n_vars**0.5)
            self.bias = nn.Parameter(torch.randn(n_codes, n_latent + n_hidden) / 3)
        self.factorised, self.n_latent = factorised, n_latent
        self.var_names = pd.Index([f"g{i}" for i in range(n_vars)])
        self.fingerprint = "0"
        self.double()

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def first_layer(self) -> FirstLayer | None:
        return FirstLayer(self.weight, self.bias, self.rest) if self.factorised else None

    def features(self, counts):
        return counts

    def codes(self, obs):
        return None

    def encode(self, features: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        bias = self.bias[0] if codes is None else self.bias[codes]
        return self.rest(features @ self.weight.T + bias)

    forward = encode


class Score(nn.Module):
    """Concept score ``v . mu(x)`` as a column, which is what captum explains."""

    def __init__(self, model: nn.Module, vector: np.ndarray) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("vector", torch.as_tensor(vector))

    def forward(self, x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        return (self.model(x, *args) @ self.vector)[:, None]


def captum_map(name: str, model: nn.Module, vector: np.ndarray, x: np.ndarray, baseline=None, codes=None, **kw):
    """Map of captum's implementation, ``(n, n_vars)``."""
    from captum import attr

    score = Score(model, vector).eval()
    inputs = torch.as_tensor(x).requires_grad_(True)
    args = {} if codes is None else {"additional_forward_args": (torch.as_tensor(codes),)}
    if baseline is not None:
        args["baselines"] = torch.as_tensor(baseline)[None].expand_as(inputs).clone()
    method = {
        "gradient": lambda: attr.Saliency(score).attribute(inputs, target=0, abs=False, **args),
        "gradient_x_input": lambda: attr.InputXGradient(score).attribute(inputs, target=0, **args),
        "integrated_gradients": lambda: attr.IntegratedGradients(score).attribute(inputs, target=0, **kw, **args),
        "guided_backprop": lambda: attr.GuidedBackprop(score).attribute(inputs, target=0, **args),
        "deconvolution": lambda: attr.Deconvolution(score).attribute(inputs, target=0, **args),
        "deeplift": lambda: attr.DeepLift(score).attribute(inputs, target=0, **args),
        "occlusion": lambda: attr.Occlusion(score).attribute(inputs, target=0, sliding_window_shapes=(1,), **args),
    }[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method().detach().numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors here are so small that waiting for a second thread takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    return SimpleNamespace(
        TinyEncoder=TinyEncoder,
        ResidualRest=ResidualRest,
        Score=Score,
        captum_map=captum_map,
        relative_error=relative_error,
    )


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture(scope="session")
def spots() -> SimpleNamespace:
    """30 spots x 40 genes, three overlapping weighted groups, two covariate codes, concept vectors."""
    rng = np.random.default_rng(1)
    dense = np.where(rng.random((30, 40)) < 0.3, rng.gamma(2.0, 1.0, (30, 40)), 0.0)
    weights = (rng.random((30, 3)) < 0.5) * rng.uniform(0.5, 2, (30, 3))
    return SimpleNamespace(
        dense=dense,
        sparse=sp.csr_matrix(dense),
        weights=weights,
        codes=rng.integers(0, 2, 30),
        concepts=rng.normal(size=(3, 3)),
        baselines=rng.gamma(2.0, 0.3, (3, 40)),
    )
