from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from st_concepts._counts.rows import as_csr, iter_rows

FORMATS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "coo": sp.coo_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
}


@given(
    values=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 50)),
    kind=st.sampled_from(["dense", "fortran", "csr", "csc", "csr_array", "csc_array"]),
    dtype=st.sampled_from(["int16", "int32", "int64", "uint16", "float32", "float64"]),
    batch_size=st.integers(1, 12),
)
def test_batches_put_together_are_the_matrix(values, kind, dtype, batch_size) -> None:
    rows, blocks = zip(*iter_rows(FORMATS[kind](values.astype(dtype)), batch_size), strict=True)
    assert np.array_equal(np.concatenate([b.toarray() for b in blocks]), values)
    assert [r.start for r in rows] == list(range(0, len(values), batch_size))
    assert {b.dtype for b in blocks} == {np.dtype(np.float32)}
    assert all(b.has_canonical_format and (b.data != 0).all() for b in blocks)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_container_gives_the_same_bytes(kind) -> None:
    values = np.random.default_rng(0).poisson(1.0, (6, 5))
    want, got = sp.csr_matrix(values.astype(np.float32)), as_csr(FORMATS[kind](values))
    assert isinstance(got, sp.csr_matrix)
    for part in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(got, part), getattr(want, part))


def test_duplicate_and_zero_entries_are_merged_without_touching_the_input() -> None:
    x = sp.csr_matrix((np.array([1.0, 2.0, 0.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    out = as_csr(x)
    assert out.nnz == 1
    assert np.array_equal(out.toarray(), [[0, 3], [0, 0]])
    assert x.nnz == 3


def test_dask_blocks_are_computed() -> None:
    da = pytest.importorskip("dask.array")
    x = np.arange(12).reshape(4, 3)
    blocks = [b.toarray() for _, b in iter_rows(da.from_array(x, chunks=(2, 3)), 3)]
    assert np.array_equal(np.concatenate(blocks), x)
