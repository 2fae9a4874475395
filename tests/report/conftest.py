from __future__ import annotations

import pytest
from anndata import AnnData

import st_concepts as stc
from tests.report.pages import analysed


@pytest.fixture
def result(simulated: AnnData) -> tuple[AnnData, stc.SpotVAE]:
    return simulated, analysed(simulated)
