"""Shared fixtures: real sections where their files are at hand, a small simulated one everywhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator
from pathlib import Path

# before anything is imported that reads them. A compiled loop of scanpy with two threads leaves two to torch as well,
# which then waits for them longer than it computes
for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import matplotlib
import numpy as np
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts import datasets

matplotlib.use("Agg")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With workers, a file's tests go to one of them, since they share fixtures; what takes longest goes first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(Path(__file__).parent))))
    longest = {item.path for item in items if item.get_closest_marker("real_data") is not None}
    items.sort(key=lambda item: item.path not in longest)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ST_CONCEPTS_REQUIRE_DATA=1 a skipped test of real data is a failure: the data are said to be there."""
    report = yield
    required = os.environ.get("ST_CONCEPTS_REQUIRE_DATA") == "1" and item.get_closest_marker("real_data") is not None
    if required and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"ST_CONCEPTS_REQUIRE_DATA=1, but this was skipped: {reason}"
    return report


@functools.cache
def _bulb(replicate: int) -> AnnData:
    return datasets.mouse_olfactory_bulb(replicate)


def _real(replicate: int) -> AnnData:
    # tests never download: a suite must give the same result with and without network
    if not datasets.bulb_at_hand(replicate):
        pytest.skip(
            f"replicate {replicate} of the olfactory bulb is not on this machine: point ST_CONCEPTS_DATA at a folder "
            f"with mob/, or load it once with st_concepts.datasets.mouse_olfactory_bulb({replicate})"
        )
    return _bulb(replicate).copy()


@pytest.fixture
def mob1() -> AnnData:
    """A fresh copy of replicate 1."""
    return _real(1)


@pytest.fixture
def mob2() -> AnnData:
    """A fresh copy of replicate 2."""
    return _real(2)


@pytest.fixture
def mob11() -> AnnData:
    """A fresh copy of replicate 11."""
    return _real(11)


@pytest.fixture(scope="session")
def fitted_bulb() -> tuple[AnnData, stc.SpotVAE]:
    """Replicate 11, genes seen in at least 20 spots, and the default model; layers are concepts. Copy it."""
    adata = _real(11)
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 20].copy()
    model = stc.SpotVAE(adata, seed=0).fit(progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    return adata, model


@functools.cache
def _simulated() -> AnnData:
    return datasets.simulated_bulb(n_obs=300, n_vars=200, n_markers=10, n_smooth=20, seed=0)


@pytest.fixture
def simulated() -> AnnData:
    """A fresh copy of a small simulated section: 300 spots x 200 genes, 10 markers a layer, 20 smooth genes."""
    return _simulated().copy()
