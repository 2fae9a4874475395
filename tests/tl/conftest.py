"""A small section with its model; each test gets a copy of its own."""

from __future__ import annotations

import functools

import pytest
from anndata import AnnData

import st_concepts as stc

SECTION = {"n_vars": 200, "n_markers": 15, "n_smooth": 20, "effect": 1.5, "density": 0.5, "seed": 0}


@functools.cache
def _fitted(n_epochs: int) -> tuple[AnnData, stc.SpotVAE]:
    adata = stc.datasets.simulated_bulb(n_obs=300, **SECTION)
    return adata, stc.SpotVAE(adata, n_latent=6, n_hidden=16, seed=0).fit(
        max_epochs=n_epochs, validation_fraction=0.0, progress=False
    )


@pytest.fixture
def untrained() -> tuple[AnnData, stc.SpotVAE]:
    """Model at its warm start, where the encoder is linear: 300 spots x 200 genes, 6 latent dimensions."""
    adata, model = _fitted(0)
    return adata.copy(), model


@pytest.fixture
def trained() -> tuple[AnnData, stc.SpotVAE]:
    """The same after three epochs, where it is not."""
    adata, model = _fitted(3)
    return adata.copy(), model


@pytest.fixture
def scored(trained: tuple[AnnData, stc.SpotVAE]) -> tuple[AnnData, stc.SpotVAE]:
    """With the layers as concepts."""
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer")
    return adata, model


@pytest.fixture
def other() -> AnnData:
    """Another section of the same tissue, 200 spots."""
    return stc.datasets.simulated_bulb(n_obs=200, **SECTION)
