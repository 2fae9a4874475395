"""Expression in batches against the same in one matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts import expression as _expression
from st_concepts._counts.expression import Expression, SideSums


@pytest.fixture
def section(monkeypatch) -> AnnData:
    monkeypatch.setattr(_expression, "_ROWS", 7)
    rng = np.random.default_rng(0)
    return AnnData(sp.csr_matrix(rng.poisson(0.8, (40, 12)).astype(np.float32)))


def test_batches_are_the_matrix(section):
    data = Expression.open(section, None, 20.0)
    counts = section.X.toarray().astype(np.float64)
    totals = counts.sum(1, keepdims=True)
    assert data.is_counts
    assert np.array_equal(data.totals, totals.ravel())
    np.testing.assert_allclose(data.matrix().toarray(), np.log1p(counts / np.maximum(totals, 1) * 20.0), rtol=1e-6)
    alone = Expression.open(section, None, 20.0, share=False)
    assert (alone.matrix() != data.matrix()).nnz == 0


def test_log_normalised_values_are_taken_as_they_are(section):
    section.X = section.X.log1p()
    with pytest.raises(ValueError, match="non-integer"):
        Expression.open(section, None, 20.0)
    section.uns["log1p"] = {}
    data = Expression.open(section, None, 20.0)
    assert not data.is_counts
    assert (sp.vstack([b for _, b in data.read()], format="csr") != section.X).nnz == 0
    section.X.data[3] = -1
    with pytest.raises(ValueError, match="negative"):
        Expression.open(section, None, 20.0)


def test_sides_are_summed_up_in_the_first_pass_only(section):
    rng = np.random.default_rng(1)
    inside = rng.random((40, 3)) < 0.4
    outside = ~inside & (rng.random((40, 3)) < 0.7)
    data = Expression.open(section, None, 20.0)
    x, counts = data.matrix(), section.X
    sides = SideSums(inside, outside, 12)
    read = sides.watching(data.read)
    for _ in range(2):
        assert sum(block.shape[0] for _, block in read()) == 40
    lfc, seen_in, seen_out = sides.result()
    linear = np.expm1(x.toarray().astype(np.float64))
    means = [np.array([linear[s].mean(0) for s in side.T]) + 1 / 40 for side in (inside, outside)]
    np.testing.assert_allclose(lfc, np.log2(means[0] / means[1]), rtol=1e-10)
    for side, found in ((inside, seen_in), (outside, seen_out)):
        np.testing.assert_allclose(found, [(counts.toarray()[s] > 0).mean(0) for s in side.T], rtol=1e-12)
