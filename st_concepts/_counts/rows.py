"""Row batches of a count matrix, whatever holds it: memory, h5ad, zarr or dask.

Matrices that are not in memory are read by one background thread, a few MB ahead of the computation. The thread reads
whole chunks of the store, once a pass each, and batches are cut from them; nothing keeps more than a handful of chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import scipy.sparse as sp

from st_concepts._counts.prefetch import prefetch
from st_concepts._counts.windows import read_slice, windows
from st_concepts._distributed import shard_rows


def as_csr(block: Any, dtype: np.typing.DTypeLike = np.float32) -> sp.csr_matrix:
    """One block of rows as a canonical CSR matrix: sorted indices, no duplicates, no stored zeros."""
    if hasattr(block, "compute"):  # dask
        block = block.compute(scheduler="synchronous")
    if sp.issparse(block):
        with np.errstate(over="ignore"):  # beyond float32: infinite, which the checks of counts refuse
            out = sp.csr_matrix(block, dtype=dtype, copy=False)
        if not out.has_canonical_format or (out.nnz and not out.data.all()):
            out = out.copy()
            out.sum_duplicates()
            out.eliminate_zeros()
        return out
    with np.errstate(over="ignore"):
        return sp.csr_matrix(np.asarray(block, dtype=dtype))


def in_memory(X: Any) -> bool:
    """Whether a matrix is a NumPy array or a scipy matrix, so that reading it costs nothing."""
    return isinstance(X, np.ndarray) or sp.issparse(X)


def iter_rows(X: Any, batch_size: int, *, share: bool = False) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Consecutive row batches of a matrix as slice and float32 CSR.

    ``X`` is dense, CSR or CSC in memory; CSR or dense of a backed AnnData or in a zarr store; a dask array of any of
    these. With ``share``, where several processes compute together, the batches of this one only: a run of neighbouring
    rows. Close the generator to stop reading early; its thread ends with it.

    Examples
    --------
    >>> import numpy as np
    >>> [b.shape for _, b in iter_rows(np.eye(5), 2)]
    [(2, 5), (2, 5), (1, 5)]
    """
    n_obs = X.shape[0]
    span = shard_rows(n_obs, batch_size) if share else slice(0, n_obs)
    if in_memory(X):
        if sp.issparse(X) and X.format not in ("csr", "coo"):  # slicing rows of CSC walks the whole matrix each time
            X = X.tocsr()
        for start in range(span.start, span.stop, batch_size):
            rows = slice(start, min(start + batch_size, span.stop))
            yield rows, as_csr(X[rows])
        return
    with closing(prefetch(as_csr(block) for block in windows(X, span))) as blocks:
        yield from _recut(blocks, span, batch_size)


def read_rows(X: Any, rows: slice) -> sp.csr_matrix:
    """The rows of one slice (step 1) as canonical float32 CSR, read at once."""
    first, last, _ = rows.indices(X.shape[0])
    return as_csr(X[first:last] if in_memory(X) else read_slice(X, slice(first, max(first, last))))


def _recut(blocks: Iterable[sp.csr_matrix], span: slice, batch_size: int) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Batches of equal size from consecutive blocks of any size."""
    at, parts, missing = span.start, [], min(batch_size, span.stop - span.start)
    for block in blocks:
        used = 0
        while used < block.shape[0]:
            take = min(missing, block.shape[0] - used)
            parts.append(_cut(block, used, used + take))
            used, missing = used + take, missing - take
            if missing == 0:
                batch = parts[0] if len(parts) == 1 else _stacked(parts)
                rows = slice(at, at + batch.shape[0])
                at, parts, missing = rows.stop, [], min(batch_size, span.stop - rows.stop)
                yield rows, batch


def _cut(block: sp.csr_matrix, first: int, last: int) -> sp.csr_matrix:
    """Rows of a canonical block without a copy of its values."""
    if first == 0 and last == block.shape[0]:
        return block
    ends = block.indptr[first : last + 1]
    span = slice(ends[0], ends[-1])
    return _canonical(block.data[span], block.indices[span], ends - ends[0], (last - first, block.shape[1]))


def _stacked(parts: list[sp.csr_matrix]) -> sp.csr_matrix:
    ends = np.concatenate([[0], *(np.diff(p.indptr) for p in parts)]).cumsum()
    values, columns = (np.concatenate([getattr(p, name) for p in parts]) for name in ("data", "indices"))
    return _canonical(values, columns, ends, (len(ends) - 1, parts[0].shape[1]))


def _canonical(values: np.ndarray, columns: np.ndarray, ends: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    out = sp.csr_matrix((values, columns, ends.astype(columns.dtype, copy=False)), shape=shape, copy=False)
    out.has_canonical_format = True  # checked when the block was read
    return out
