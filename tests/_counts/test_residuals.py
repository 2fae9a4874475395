"""Residuals in batches against their formula."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts import expression as _expression
from st_concepts._counts.expression import Expression, SideSums
from st_concepts._counts.residuals import PearsonResiduals
from st_concepts._counts.stream import RowStream


@pytest.fixture
def section(monkeypatch) -> AnnData:
    monkeypatch.setattr(_expression, "_ROWS", 7)
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(0.5, 2.0, 12) * np.ones((40, 1))) * (np.arange(12) != 5)
    x[[3, 20]] = 0
    x[[7, 30], :2] = 1
    x[[7, 30], 2:] = 0
    x[7, 5] = 1  # seen in a spot that is left out, and nowhere else
    return AnnData(sp.csr_matrix(x.astype(np.float32)))


def by_formula(x: np.ndarray, usable: np.ndarray, clip: float) -> np.ndarray:
    used = x * usable[:, None]
    mu = np.outer(used.sum(1), used.sum(0) / used.sum())
    with np.errstate(invalid="ignore"):
        return np.where(mu > 0, np.minimum((used - mu) / np.sqrt(mu), clip), 0.0)


def dense(stream: RowStream) -> np.ndarray:
    a, b = stream.outer
    return sp.vstack([block for _, block in stream.read()]).toarray() - np.outer(a, b)


@pytest.mark.parametrize("clip", [0.5, 5.0, 1e9])
def test_the_stream_is_the_formula(section, clip):
    x = section.X.toarray().astype(float)
    data = Expression.open(section, None, 20.0)
    np.testing.assert_array_equal(data.gene_totals, x.sum(0))
    for least in (0, 1, 5):
        usable = data.totals > least
        stream = data.residuals(usable, clip=clip)
        assert next(iter(stream.read()))[1].dtype == np.float32
        np.testing.assert_allclose(dense(stream), by_formula(x, usable, clip), atol=2e-6, rtol=2e-6)
    with pytest.raises(ValueError, match="clip"):
        data.residuals(usable, clip=0.0)


def test_sides_see_the_normalised_counts(section):
    rng = np.random.default_rng(1)
    inside = rng.random((40, 3)) < 0.4
    data = Expression.open(section, None, 20.0)
    results = []
    for make in (
        lambda s: RowStream(data.shape, s.watching(data.read)),
        lambda s: data.residuals(data.totals > 0, sides=s),
    ):
        sides = SideSums(inside, ~inside, 12)
        for _ in range(2):
            assert sum(block.shape[0] for _, block in make(sides).read()) == 40
        results.append(sides.result())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_log_normalised_values_have_no_residuals(section):
    section.X = section.X.log1p()
    section.uns["log1p"] = {}
    stream = Expression.open(section, None, 20.0).residuals(np.ones(40, bool))
    assert stream.outer is None
    assert (sp.vstack([b for _, b in stream.read()], format="csr") != section.X).nnz == 0


WORKER = """
import sys, numpy as np, scipy.sparse as sp, torch, torch.distributed as dist
from anndata import AnnData
from st_concepts._counts import expression
from st_concepts.stats import association_test, moran_null, permutation_null
expression._ROWS = 7
who, n, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if n > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=who, world_size=n)
rng = np.random.default_rng(0)
x = rng.poisson(0.8, (60, 9)).astype(np.float32)
x[::9, 1:] = 0
data = expression.Expression.open(AnnData(sp.csr_matrix(x)), None, 20.0)
stream, xy, y = data.residuals(data.totals > 2), rng.random((60, 2)), rng.normal(size=(60, 2))
nulls = (moran_null(xy), moran_null(xy, exact_below=10, n_tiles=9), permutation_null(60))
out = [association_test(stream, y, null, n_null=15) for null in nulls]
np.savez(f"{folder}/{who}-of-{n}.npz", *[v for r in out for v in (r.z, r.correlation, r.pval_empirical)])
if n > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_processes_find_what_one_finds(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(who), str(n), str(tmp_path)], env=env)
        for n in (1, 2)
        for who in range(n)
    ]
    try:
        assert [job.wait(timeout=120) for job in jobs] == [0, 0, 0]
    finally:
        for job in jobs:
            job.kill()
    alone = np.load(tmp_path / "0-of-1.npz")
    for who in (0, 1):
        together = np.load(tmp_path / f"{who}-of-2.npz")
        for key in alone.files:
            np.testing.assert_allclose(together[key], alone[key], rtol=1e-6, atol=1e-9)


def test_feature_slope_is_that_of_a_regression_on_simulated_counts():
    rng = np.random.default_rng(0)
    share = np.array([1e-5, 1e-3, 0.004, 0.05, 0.2, 0.0])
    share = np.append(share, 1 - share.sum())
    total, target_sum, n = 2000.0, 800.0, 200_000
    made = PearsonResiduals.of(np.full(3, total), share * total, np.ones(3, bool))
    found = made.feature_slope(target_sum)
    for j in np.flatnonzero(share * total > 0.1):
        x = rng.poisson(total * share[j], n)
        residual, feature = (x - total * share[j]) / np.sqrt(total * share[j]), np.log1p(x * target_sum / total)
        slope = np.polyfit(residual, feature, 1)[0]
        assert found[j] == pytest.approx(slope, rel=0.02)
    # of a gene that is hardly seen: the probability of one count, times what it is worth
    assert found[0] == pytest.approx(np.sqrt(0.02) * np.log1p(target_sum / total), rel=0.03)
    assert found[5] == 0.0


def test_feature_slope_is_that_at_the_median_spot(section):
    data = Expression.open(section, None, 20.0)
    usable = data.totals > 1
    slope = data.feature_slope(usable)
    x = section.X.toarray().astype(float) * usable[:, None]
    alike = PearsonResiduals.of(np.full(40, np.median(x.sum(1)[usable])), x.sum(0), np.ones(40, bool))
    np.testing.assert_allclose(slope, alike.feature_slope(20.0), rtol=1e-12)
    nothing = PearsonResiduals.of(np.zeros(4), np.ones(3), np.ones(4, bool))
    assert not nothing.feature_slope(20.0).any()
    section.X = section.X.log1p()
    section.uns["log1p"] = {}
    np.testing.assert_array_equal(Expression.open(section, None, 20.0).feature_slope(usable), 1.0)
