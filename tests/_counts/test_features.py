from __future__ import annotations

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.features import log_normalize, sizes


def test_is_what_scanpy_does() -> None:
    counts = np.random.default_rng(0).poisson(2.0, (12, 7)).astype(np.float32) + np.eye(12, 7, dtype=np.float32)
    adata = AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=50)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(log_normalize(counts, 50.0), adata.X, rtol=1e-5)


def test_sparse_is_dense_and_empty_spots_stay_zero() -> None:
    counts = np.random.default_rng(1).poisson(1.0, (6, 5)).astype(np.float64)
    counts[2] = 0
    dense, sparse = log_normalize(counts, 10.0), log_normalize(sp.csr_matrix(counts), 10.0)
    assert dense.dtype == sparse.dtype == np.float32
    assert np.array_equal(dense, sparse.toarray())
    assert (dense[2] == 0).all()


def test_given_sizes_are_used() -> None:
    out = log_normalize(np.array([[1.0, 3.0]]), 8.0, size=np.array([8.0]))
    np.testing.assert_allclose(out, np.log1p([[1.0, 3.0]]), rtol=1e-6)


def test_sizes_are_row_sums() -> None:
    assert sizes(sp.csr_matrix(np.array([[1, 2], [0, 0]]))).tolist() == [3.0, 0.0]
