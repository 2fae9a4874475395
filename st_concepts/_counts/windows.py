"""Windows of rows of a matrix that is not in memory, cut where its chunks are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset

# stored values that are read at a time: 16 MB as float32 with int32 indices
_VALUES = 2**21
# values of a dense store: half of that, since they are copied on the way
_DENSE_VALUES = 2**20
# a window of whole dense chunks may take this many values; beyond, chunks are read several times
_MOST_DENSE_VALUES = 2**26


def windows(X: Any, span: slice) -> Iterator[Any]:
    """Consecutive blocks of the rows of ``span``, sparse or dense, of whatever size the store suggests."""
    if span.start >= span.stop:
        return iter(())
    _check(X)
    if isinstance(X, CSRDataset):
        return _compressed(X, span)
    if _is_dask(X):
        return _lazy(X, span)
    return _dense(X, span)


def read_slice(X: Any, rows: slice) -> Any:
    """The rows of one slice, sparse or dense."""
    _check(X)
    if rows.start >= rows.stop:
        return sp.csr_matrix((0, X.shape[1]), dtype=np.float32)
    if not _is_dask(X):
        return X[rows]
    with _stored(X) as store:
        return X[rows].compute(scheduler="synchronous") if store is None else store[rows]


def _is_dask(X: Any) -> bool:
    return hasattr(X, "dask") and hasattr(X, "numblocks")


def _check(X: Any) -> None:
    by_columns = isinstance(X, CSCDataset)
    if _is_dask(X):
        if np.isnan(X.chunks[0]).any():
            raise ValueError(
                "The dask array does not know how many rows its chunks have: call X.compute_chunk_sizes()."
            )
        by_columns = getattr(X._meta, "format", "") == "csc" and X.numblocks[1] > 1
    if by_columns:
        raise ValueError(
            "The matrix is stored by columns (CSC), so every batch of spots would read all of it. Store it by rows "
            "once: adata = adata.to_memory(); adata.X = adata.X.tocsr(); adata.write_h5ad('by_rows.h5ad')."
        )


def _compressed(X: CSRDataset, span: slice) -> Iterator[sp.csr_matrix]:
    """Whole runs of chunks of the stored values; what belongs to a row that is not complete yet waits."""
    group, n_vars = X.group, X.shape[1]
    ends = group["indptr"][span.start : span.stop + 1].astype(np.int64)
    stored, columns = group["data"], group["indices"]
    chunk = max((a.chunks[0] for a in (stored, columns) if a.chunks), default=1)
    index_type = np.int32 if n_vars <= np.iinfo(np.int32).max else np.int64
    at, row, last = int(ends[0]), 0, int(ends[-1])
    held: tuple[np.ndarray, ...] = (np.zeros(0, dtype=stored.dtype), np.zeros(0, dtype=index_type))
    while row < len(ends) - 1:
        stop = min(max((at + _VALUES) // chunk, at // chunk + 1) * chunk, last)
        read = (stored[at:stop], columns[at:stop].astype(index_type, copy=False))
        both = [np.concatenate(pair) if len(pair[0]) else pair[1] for pair in zip(held, read, strict=True)]
        complete = int(np.searchsorted(ends, stop, side="right")) - 1
        cut = int(ends[complete] - ends[row])
        if complete > row:
            indptr = (ends[row : complete + 1] - ends[row]).astype(index_type)
            yield sp.csr_matrix((both[0][:cut], both[1][:cut], indptr), shape=(complete - row, n_vars), copy=False)
        held = tuple(part[cut:] for part in both)
        at, row = stop, complete


def _lazy(X: Any, span: slice) -> Iterator[Any]:
    """A dask array, by way of the store where it does nothing but read one."""
    with _stored(X) as store:
        yield from _dask(X, span) if store is None else _compressed(store, span)


@contextmanager
def _stored(X: Any) -> Iterator[CSRDataset | None]:
    """The stored matrix behind an array as anndata's `read_lazy` makes it; `None` where there is more to it.

    Its chunks of rows do not follow those of the store: each of them decompresses whatever it touches, which takes ten
    times as long as reading the store from one end to the other.
    """
    source, name = _reader_of(X)
    if isinstance(source, Path):
        with h5py.File(source, "r") as file:
            yield _csr_like(X, sparse_dataset(file[name]))
    else:
        yield _csr_like(X, source)


def _csr_like(X: Any, store: Any) -> CSRDataset | None:
    return store if isinstance(store, CSRDataset) and store.shape == X.shape else None


def _reader_of(X: Any) -> tuple[Any, str]:
    """What anndata's reader of chunks was given: store or path, and name; looked up in the graph, with all care."""
    layers = list(X.dask.layers.values())
    if len(layers) != 1 or not isinstance(getattr(X, "_meta", None), sp.csr_matrix):
        return None, ""
    for argument, _ in getattr(layers[0], "indices", ()):
        if isinstance(argument, partial) and getattr(argument.func, "__module__", "").startswith("anndata."):
            given = argument.args
            if argument.func.__name__ == "make_dask_chunk" and len(given) == 2 and not argument.keywords:
                return given
    return None, ""


def _dask(X: Any, span: slice) -> Iterator[Any]:
    """Each row of chunks computed once, in this thread."""
    ends = np.concatenate([[0], np.cumsum(X.chunks[0])]).astype(np.int64)
    for i in range(len(ends) - 1):
        first, last = max(ends[i], span.start), min(ends[i + 1], span.stop)
        if first < last:
            block = X.blocks[i].compute(scheduler="synchronous")
            whole = last - first == ends[i + 1] - ends[i]
            yield block if whole else block[first - ends[i] : last - ends[i]]


def _dense(X: Any, span: slice) -> Iterator[Any]:
    """Runs of whole chunks where they fit, and of rows otherwise."""
    n_vars = max(X.shape[1], 1)
    step = max(_DENSE_VALUES // n_vars, 1)
    chunks = getattr(X, "chunks", None)
    if chunks and chunks[0] * n_vars <= _MOST_DENSE_VALUES:
        step = max(step // chunks[0], 1) * chunks[0]
    first = span.start
    while first < span.stop:
        last = min((first // step + 1) * step, span.stop)
        yield X[first:last]
        first = last
