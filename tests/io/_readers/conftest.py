from __future__ import annotations

from pathlib import Path

import pytest
from anndata import AnnData

import st_concepts as stc


@pytest.fixture
def whole(visium_folder: Path) -> AnnData:
    return stc.io.read(visium_folder)
