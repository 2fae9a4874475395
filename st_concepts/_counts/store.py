"""A layer on the disk, written batch by batch: zarr in anndata's encoding."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from st_concepts._files import beside, make_folder, real, repair, sweep

# dense chunks of about 4 MB
_CHUNK = 1_000_000


class LayerWriter:
    """Rows of one layer, or columns of a dense one, in a zarr store that appears under its name only once complete.

    Parameters
    ----------
    path
        The store to make, a folder that must not exist.
    name
        Element to write.
    shape
        ``(n_obs, n_vars)`` of the layer.
    sparse
        CSR rather than dense.
    """

    def __init__(self, path: str | os.PathLike[str], name: str, shape: tuple[int, int], *, sparse: bool) -> None:
        self.path, self.name, self.shape, self.sparse = Path(path), name, shape, sparse
        refuse_existing(self.path)
        self._partial = beside(real(self.path))
        self._row = self._filled = 0

    def __enter__(self) -> Self:
        import zarr

        make_folder(self._partial.parent)
        sweep(self._partial.parent)
        root = zarr.open_group(str(self._partial), mode="w")
        n_obs, n_vars = self.shape
        if not self.sparse:
            columns = max(1, min(n_vars, 1024))
            chunks = (max(1, min(n_obs, _CHUNK // columns)), columns)
            self._dense = _array(root, self.name, self.shape, chunks, "float32")
            self._dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            return self
        group = root.create_group(self.name)
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(self.shape)})
        self._data = _array(group, "data", (0,), (_CHUNK,), "float32")
        self._indices = _array(group, "indices", (0,), (_CHUNK,), "int32")
        self._indptr = _array(group, "indptr", (n_obs + 1,), (n_obs + 1,), "int64")
        for part in (self._data, self._indices, self._indptr):
            part.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self._ends = np.zeros(n_obs + 1, dtype=np.int64)
        return self

    def append(self, block: np.ndarray | sp.csr_matrix) -> None:
        """Write the next rows."""
        rows = slice(self._row, self._row + block.shape[0])
        if self.sparse:
            part = sp.csr_matrix(block)
            end = self._filled + part.nnz
            for stored, values in ((self._data, part.data), (self._indices, part.indices)):
                stored.resize((end,))
                stored[self._filled : end] = values
            self._ends[rows.start + 1 : rows.stop + 1] = self._filled + part.indptr[1:]
            self._filled = end
        else:
            self._dense[rows] = block
        self._row = rows.stop

    def put(self, columns: np.ndarray, block: np.ndarray) -> None:
        """Write columns of a dense layer, ascending; those between them become zero."""
        low, high = int(columns[0]), int(columns[-1]) + 1
        step = self._dense.chunks[0]
        for first in range(0, len(block), step):
            part = block[first : first + step]
            wide = np.zeros((len(part), high - low), dtype=np.float32)
            wide[:, columns - low] = part
            self._dense[first : first + len(part), low:high] = wide

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                if self.sparse:
                    self._indptr[:] = self._ends
                refuse_existing(self.path)
                os.rename(self._partial, real(self.path))
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Raise `FileExistsError` where there is something already."""
    repair(real(path))
    if os.path.lexists(path):
        raise FileExistsError(f"store={str(path)!r} exists already: remove it or name another path.")


def open_layer(path: str | os.PathLike[str], name: str) -> Any:
    """The layer as a dask array that reads from the store when it is used."""
    import zarr
    from anndata import experimental

    element = zarr.open_group(str(path), mode="r")[name]
    # its name in anndata 0.11
    read = getattr(experimental, "read_elem_lazy", None) or experimental.read_elem_as_dask
    return read(element)


def _array(group: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> Any:
    # zarr 2 calls it create_dataset
    create = getattr(group, "create_array", None) or group.create_dataset
    return create(name, shape=shape, chunks=chunks, dtype=dtype)
