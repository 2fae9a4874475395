from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st_concepts._counts.sparse import SparseRows, sparse_linear


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 9), g=st.integers(1, 12), k=st.integers(1, 4), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_product_and_gradient_are_the_dense_ones(n, g, k, density, seed) -> None:
    x = sp.random(n, g, density=density, format="csr", random_state=seed)
    rows = SparseRows.of(x, transpose=True)
    table = torch.randn(g, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    twin = table.detach().clone().requires_grad_()
    weight = torch.linspace(-1, 2, n * k, dtype=torch.float64).view(n, k)
    got, want = sparse_linear(rows, table), torch.from_numpy(x.toarray()) @ twin
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad((got * weight).sum(), table), torch.autograd.grad((want * weight).sum(), twin)
    )
    assert np.array_equal(rows.times(torch.eye(g, dtype=torch.float64)).numpy(), x.toarray())


def test_a_gradient_needs_the_transpose() -> None:
    rows = SparseRows.of(sp.csr_matrix(np.eye(3, dtype=np.float32)))
    table = torch.ones(3, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="transpose=True"):
        sparse_linear(rows, table).sum().backward()
