"""Level of the marker test on a section's own geometry."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

import st_concepts as stc
from st_concepts.evaluate._calibration import _made_up


@pytest.fixture(scope="module")
def section():
    adata = stc.datasets.simulated_bulb(n_obs=400, n_vars=150, n_markers=5, seed=2)
    model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    return adata


def test_spatial_null_holds_its_level_where_shuffling_does_not(section) -> None:
    table = stc.evaluate.calibration(section, n_genes=200, seed=1)
    mean = table.groupby(["null", "length"])["type_i"].mean()
    for null in ("moran", "permutation", "none"):  # 1,000 tests: standard error 0.007
        assert 0.02 < mean[null, 0.0] < 0.08
    smooth = table[table["length"] > 0].groupby("null")["type_i"].mean()
    assert smooth["moran"] < 0.09
    assert smooth["permutation"] > 0.15
    assert smooth["none"] > 0.15
    assert set(table["concept"]) == set(section.obs["layer"].cat.categories)


def test_fields_have_the_covariance_they_are_named_for() -> None:
    x, y = np.meshgrid(np.arange(6.0), np.arange(6.0))
    coords = np.c_[x.ravel(), y.ravel()]
    ((length, genes),) = _made_up(coords, np.zeros(36, dtype=int), [3.0], 4000, 1.0, seed=0)
    assert length == 3.0
    cov = genes @ genes.T / genes.shape[1]
    expected = np.exp(-(pdist(coords) ** 2) / (2 * 3.0**2))
    np.testing.assert_allclose(cov[np.triu_indices(36, 1)], expected, atol=0.09)


def test_only_reads_and_repeats(section) -> None:
    before = section.copy()
    first = stc.evaluate.calibration(section, n_genes=10, lengths=[3.0], target="score")
    second = stc.evaluate.calibration(section, n_genes=10, lengths=[3.0], target="score")
    assert first.equals(second)
    assert set(before.obsm) == set(section.obsm)
    assert set(before.uns) == set(section.uns)


def test_errors(section) -> None:
    with pytest.raises(ValueError, match="lengths positive"):
        stc.evaluate.calibration(section, lengths=[0.0])
    with pytest.raises(ValueError, match="unknown"):
        stc.evaluate.calibration(section, nulls=["iid"])
    with pytest.raises(ValueError, match="unknown"):
        stc.evaluate.calibration(section, target="both")
    with pytest.raises(KeyError, match="not a column"):
        stc.evaluate.calibration(section, section_key="slide")
    bare = section.copy()
    del bare.obsm["spatial"]
    with pytest.raises(KeyError, match="position"):
        stc.evaluate.calibration(bare)
