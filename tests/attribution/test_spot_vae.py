from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from st_concepts.attribution import explain, group_attributions, iter_batches
from st_concepts.models import SpotVAE
from st_concepts.models._encoder import Encoder

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


@pytest.fixture(scope="module", params=[1, 2], ids=["one hidden layer", "two hidden layers"])
def fitted(request):
    from anndata import AnnData

    rng = np.random.default_rng(0)
    rate = rng.gamma(1.0, 1.0, (3, 40))
    labels = rng.integers(0, 3, 150)
    adata = AnnData(
        sp.csr_matrix(rng.poisson(2 * rate[labels]).astype(np.float32)),
        pd.DataFrame(index=[f"s{i}" for i in range(150)]),
        pd.DataFrame(index=[f"g{i}" for i in range(40)]),
    )
    model = SpotVAE(adata, n_latent=4, n_hidden=16, n_layers=request.param, init="random")
    model.fit(max_epochs=2)
    return adata, model, labels


class Plain(torch.nn.Module):
    """The model's modules in double precision, run on dense features."""

    def __init__(self, model) -> None:
        super().__init__()
        import copy

        layer = model.first_layer
        self.weight, self.bias = layer.weight.detach().double(), layer.bias.detach().double()
        self.rest = copy.deepcopy(layer.rest).double()

    def forward(self, x):
        return self.rest(x @ self.weight.T + self.bias[0])


@pytest.mark.parametrize("method", EXACT)
def test_maps_and_group_means_equal_captum(tools, fitted, method):
    adata, model, labels = fitted
    assert isinstance(model, Encoder)
    vector = np.array([1.0, -0.5, 2.0, 0.3])
    x = sp.csr_matrix(model.features(adata.X)).astype(np.float64)
    baseline = np.asarray(x.mean(0)).ravel() if method in BASELINE else None
    truth = tools.captum_map(method, Plain(model), vector, x.toarray(), baseline)
    found = explain(model, x.toarray(), vector, method=method, baseline=baseline)
    assert found.path == "factorised"
    assert tools.relative_error(found.attributions, truth) < 1e-6
    weights = labels[:, None] == np.arange(3)
    groups = group_attributions(
        model, iter_batches(x, weights), method=method, concepts=vector, baselines=baseline, dtype=torch.float64
    )
    for k in range(3):
        assert tools.relative_error(groups.values[k, 0], truth[labels == k].mean(0)) < 1e-6
