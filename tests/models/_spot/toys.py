"""Counts of a few factors, and a model of them that is fitted at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts.models import SpotVAE


def toy(n: int = 60, g: int = 25, seed: int = 0, sections: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 3.0, g) * np.exp(rng.normal(size=(n, 2)) @ rng.normal(0, 0.7, (2, g)))
    obs = pd.DataFrame(index=[f"s{i}" for i in range(n)])
    if sections:
        obs["slide"] = pd.Categorical([f"slide {i % sections}" for i in range(n)])
    counts = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(g)]))


def fit_toy(adata: AnnData, *, max_epochs: int = 2, **options) -> SpotVAE:
    return SpotVAE(adata, **{"n_latent": 3, "n_hidden": 8, **options}).fit(
        max_epochs=max_epochs, progress=False, device="cpu"
    )
