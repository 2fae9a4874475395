from __future__ import annotations

import pytest
from anndata import AnnData

from st_concepts.models import SpotVAE
from tests.models._spot.toys import fit_toy, toy


@pytest.fixture(scope="module")
def fitted() -> tuple[AnnData, SpotVAE]:
    adata = toy(sections=2)
    return adata, fit_toy(adata, batch_key="slide")
