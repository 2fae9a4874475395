"""A section whose encoder is linear, so that every answer can be worked out by hand."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import st_concepts as stc
from st_concepts.models._encoder import FirstLayer


class LinearEncoder(nn.Module):
    """Latent mean ``V x + c[code]``; ``factorised=False`` hides that it is linear."""

    def __init__(self, n_vars: int = 30, n_latent: int = 3, *, factorised: bool = True, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weight = nn.Parameter(torch.as_tensor(rng.normal(size=(n_latent, n_vars))).float())
        self.bias = nn.Parameter(torch.as_tensor(rng.normal(size=(1, n_latent))).float())
        self.unused = nn.Linear(2, 2)
        self.var_names = pd.Index([f"g{i}" for i in range(n_vars)])
        self.n_latent, self.device, self.fingerprint = n_latent, torch.device("cpu"), f"linear-{seed}"
        self.factorised = factorised

    @property
    def first_layer(self):
        return FirstLayer(self.weight, self.bias, nn.Identity()) if self.factorised else None

    def features(self, counts):
        return counts

    def codes(self, obs):
        return None

    def encode(self, features, codes=None):
        return features @ self.weight.T + self.bias[0]


def make(encoder: LinearEncoder, n_obs: int = 80) -> SimpleNamespace:
    rng = np.random.default_rng(1)
    rate = np.ones((n_obs, len(encoder.var_names)))
    label = rng.integers(0, 2, n_obs)
    rate[label == 0, :5] = 3.0
    X = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame({"layer": np.array(["A", "B/C"])[label]}, index=[f"s{i}" for i in range(n_obs)])
    adata = ad.AnnData(X, obs, pd.DataFrame(index=encoder.var_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stc.tl.concepts(adata, encoder, groupby="layer")
    stc.tl.saliency(adata, encoder)
    made = stc.concepts.read_concepts(adata)
    x = X.toarray().astype(np.float64)
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (encoder.weight, encoder.bias[0]))

    def score(rows: np.ndarray) -> np.ndarray:
        latent = rows @ weight.T + bias
        return (latent @ made.vectors.T.astype(np.float64) - made.center) / made.scale

    return SimpleNamespace(
        adata=adata,
        encoder=encoder,
        made=made,
        x=x,
        label=label,
        score=score,
        mean_out=np.stack([x[label != k].mean(0) for k in range(2)]),
    )


@pytest.fixture
def linear() -> SimpleNamespace:
    return make(LinearEncoder())


@pytest.fixture
def hidden() -> SimpleNamespace:
    """The same without a first layer that can be seen."""
    return make(LinearEncoder(factorised=False))


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    return SimpleNamespace(LinearEncoder=LinearEncoder, make=make)
