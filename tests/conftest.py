"""Shared fixtures: real sections where their files are at hand, a small simulated one everywhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator

import matplotlib
import pytest
from anndata import AnnData

from st_concepts import datasets

matplotlib.use("Agg")


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


@functools.cache
def _simulated() -> AnnData:
    return datasets.simulated_bulb(n_obs=300, n_vars=200, n_markers=10, n_smooth=20, seed=0)


@pytest.fixture
def simulated() -> AnnData:
    """A fresh copy of a small simulated section: 300 spots x 200 genes, 10 markers a layer, 20 smooth genes."""
    return _simulated().copy()
