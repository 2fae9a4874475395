from __future__ import annotations

import threading
import time

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import sparse_dataset, write_elem

from st_concepts._counts import windows as _windows
from st_concepts._counts.prefetch import prefetch
from st_concepts._counts.rows import in_memory, iter_rows, read_rows

SHAPE = (57, 13)
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture(params=["all", "some rows empty", "nothing"])
def values(request) -> np.ndarray:
    x = np.random.default_rng(0).poisson(0.7, SHAPE)
    if request.param != "all":
        x[10:31] = 0
        x[-3:] = 0
    return x * (request.param != "nothing")


def stored(kind: str, x: np.ndarray, folder) -> object:
    """The matrix in a store of its own; small chunks, so that rows and chunks do not coincide."""
    csr = sp.csr_matrix(x.astype(np.float32))
    match kind:
        case "h5ad":
            ad.AnnData(csr).write_h5ad(folder / "a.h5ad")
            return ad.read_h5ad(folder / "a.h5ad", backed="r").X
        case "h5ad dense":
            ad.AnnData(x.astype(np.int64)).write_h5ad(folder / "b.h5ad")
            return ad.read_h5ad(folder / "b.h5ad", backed="r").X
        case "h5 chunks":
            file = h5py.File(folder / "c.h5", "w")
            return file.create_dataset("x", data=x, chunks=(5, 4))
        case "zarr" | "zarr int64":
            group = zarr.open_group(str(folder / "d.zarr"), mode="w")
            write_elem(group, "x", csr if kind == "zarr" else csr.astype(np.int64), dataset_kwargs={"chunks": (7,)})
            return sparse_dataset(zarr.open_group(str(folder / "d.zarr"), mode="r")["x"])
        case "zarr dense":
            array = zarr.open_array(str(folder / "e.zarr"), mode="w", shape=SHAPE, chunks=(4, 5), dtype="i4")
            array[:] = x
            return array
        case "dask csr" | "dask dense":
            da = pytest.importorskip("dask.array")
            whole = da.from_array(x, chunks=((20, 30, 7), (13,)))
            return whole.map_blocks(sp.csr_matrix) if kind == "dask csr" else whole.rechunk({1: 6})
        case "lazy":
            group = zarr.open_group(str(folder / "f.zarr"), mode="w")
            write_elem(group, "x", csr)
            return ad.experimental.read_elem_lazy(group["x"], chunks=(9, -1))
    raise AssertionError(kind)


KINDS = ["h5ad", "h5ad dense", "h5 chunks", "zarr", "zarr int64", "zarr dense", "dask csr", "dask dense", "lazy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_window", [1, 40, 2**21])
def test_every_store_gives_the_batches_of_the_matrix_in_memory(kind, per_window, values, tmp_path, monkeypatch):
    monkeypatch.setattr(_windows, "_VALUES", per_window)
    monkeypatch.setattr(_windows, "_DENSE_VALUES", per_window)
    X = stored(kind, values, tmp_path)
    assert not in_memory(X)
    for batch_size in (1, 8, 100):
        pairs = list(zip(iter_rows(X, batch_size), iter_rows(sp.csr_matrix(values), batch_size), strict=True))
        assert pairs
        for (rows, got), (want_rows, want) in pairs:
            assert rows == want_rows
            assert got.dtype == np.float32
            assert got.has_canonical_format
            for part in ("data", "indices", "indptr"):
                assert np.array_equal(getattr(got, part), getattr(want, part))
                assert getattr(got, part).dtype == getattr(want, part).dtype
    assert np.array_equal(read_rows(X, slice(5, 23)).toarray(), values[5:23])
    assert read_rows(X, slice(5, 5)).shape == (0, SHAPE[1])
    order = [slice(40, 57), slice(0, 3), slice(10, 20)]
    assert all(np.array_equal(read_rows(X, s).toarray(), values[s]) for s in order)


class Counting:
    """A store that notes which stretches are read."""

    def __init__(self, array: np.ndarray, chunk: int) -> None:
        self.array, self.chunks, self.dtype, self.reads = array, (chunk,), array.dtype, []

    def __getitem__(self, key):
        self.reads.append(key)
        return self.array[key]


def test_no_chunk_is_read_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(_windows, "_VALUES", 25)
    x = np.random.default_rng(0).poisson(0.7, SHAPE)
    X = stored("zarr", x, tmp_path)
    csr = sp.csr_matrix(x)
    parts = {"data": Counting(csr.data, 10), "indices": Counting(csr.indices, 10), "indptr": csr.indptr}
    monkeypatch.setattr(type(X), "group", property(lambda self: parts))
    monkeypatch.setattr(type(X), "shape", SHAPE)
    found = np.concatenate([b.toarray() for _, b in iter_rows(X, 4)])
    assert np.array_equal(found, x)
    for name in ("data", "indices"):
        touched = [c for key in parts[name].reads for c in range(key.start // 10, -(-key.stop // 10))]
        assert len(touched) == len(set(touched)) == -(-csr.nnz // 10)
        assert len(parts[name].reads) > 5


def test_dask_chunks_are_computed_once_a_pass():
    da = pytest.importorskip("dask.array")
    seen = []

    def load(block_info=None):
        seen.append(block_info[None]["chunk-location"][0])
        return np.ones((10, 3))

    X = da.map_blocks(load, dtype=float, chunks=((10,) * 5, (3,)), meta=np.zeros((0, 0)))
    assert sum(b.sum() for _, b in iter_rows(X, 7)) == 150
    assert seen == list(range(5))


def test_a_matrix_stored_by_columns_names_the_way_out(tmp_path):
    ad.AnnData(sp.csc_matrix(np.eye(5, dtype=np.float32))).write_h5ad(tmp_path / "a.h5ad")
    X = ad.read_h5ad(tmp_path / "a.h5ad", backed="r").X
    for read in (lambda: list(iter_rows(X, 2)), lambda: read_rows(X, slice(0, 2))):
        with pytest.raises(ValueError, match=r"stored by columns.*tocsr"):
            read()
    with h5py.File(tmp_path / "a.h5ad") as file:
        lazy = ad.experimental.read_elem_lazy(file["X"], chunks=(-1, 2))
        with pytest.raises(ValueError, match="stored by columns"):
            list(iter_rows(lazy, 2))


@pytest.mark.parametrize("kind", ["zarr", "h5ad"])
def test_a_lazy_array_is_read_from_its_store_unless_there_is_more_to_it(kind, tmp_path):
    x = np.random.default_rng(0).poisson(0.7, SHAPE)
    X = stored(kind, x, tmp_path)
    lazy = ad.experimental.read_elem_lazy(X.group, chunks=(9, -1))
    changed = lazy.map_blocks(lambda block: block * 2)
    for array, factor, direct in ((lazy, 1, True), (changed, 2, False), (lazy[3:], 1, False)):
        with _windows._stored(array) as store:
            assert (store is not None) == direct
        found = np.concatenate([b.toarray() for _, b in iter_rows(array, 8)])
        assert np.array_equal(found, factor * x[-len(found) :])
        assert np.array_equal(read_rows(array, slice(2, 6)).toarray(), found[2:6])


def test_unknown_dask_chunks_are_an_error_that_says_what_to_do():
    da = pytest.importorskip("dask.array")
    x = da.ones((6, 2), chunks=2)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        list(_windows.windows(x[x[:, 0] > 0], slice(0, 6)))


def reading_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("st-concepts-read")]


def test_what_the_reader_raises_is_raised_where_the_batches_are_used():
    def items():
        yield 1
        raise OSError("disk gone")

    found = prefetch(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(found)
    assert not reading_threads()


def test_stopping_early_ends_the_thread_and_closes_the_source():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    found = prefetch(items())
    assert next(found) == 0
    assert reading_threads()
    found.close()
    assert not reading_threads()
    assert closed == [True]


def test_no_more_than_the_depth_is_read_ahead():
    made = []
    found = prefetch((made.append(i) or i for i in range(50)), depth=2)
    assert next(found) == 0
    time.sleep(0.05)
    assert len(made) <= 3
    found.close()


def test_the_next_item_is_made_while_this_one_is_used():
    go, made = threading.Event(), threading.Event()

    def items():
        yield 0
        go.wait(10)
        made.set()
        yield 1

    found = prefetch(items())
    next(found)
    go.set()
    assert made.wait(10)  # without asking for the next item
    assert list(found) == [1]


def test_memory_needs_no_thread():
    batches = iter_rows(np.eye(6), 2)
    next(batches)
    assert not reading_threads()
