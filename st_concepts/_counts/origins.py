"""The files that an AnnData or a SpatialData is still read from."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from anndata import AnnData

from st_concepts._files import relation, store_root

if TYPE_CHECKING:
    from spatialdata import SpatialData

_MOST_TASKS = 10_000  # of one layer of a dask graph; a graph of one file names it in the first
_DEEPEST = 8


def origins(adata: AnnData) -> set[Path]:
    """Files and stores behind what is backed or lazy; they may not be replaced while it is used."""
    found = {Path(adata.filename)} if adata.filename else set()
    values = [adata.X, *(v for name in ("layers", "obsm", "varm", "obsp", "varp") for v in _values(adata, name))]
    if adata.raw is not None:
        values.append(adata.raw.X)
    for value in values:
        found |= set(_files(value))
    return found


def refuse_inside(adata: AnnData, path: str | PathLike[str], option: str) -> None:
    """Raise `ValueError` where ``path`` is or lies in what ``adata`` is read from."""
    for place in origins(adata):
        if {relation(path, place), relation(path, store_root(place))} & {"is", "lies in"}:
            raise ValueError(
                f"{option}={str(path)!r} lies in {place}, which adata is read from and which is never changed; "
                "name another place."
            )


def origins_of_spatialdata(sdata: SpatialData) -> set[Path]:
    """The store of a SpatialData, and those that its lazy elements are read from."""
    from spatialdata import get_dask_backing_files

    found = {Path(p) for p in get_dask_backing_files(sdata)}
    return found | ({Path(sdata.path)} if sdata.path is not None else set())


def _values(adata: AnnData, name: str) -> Iterable[Any]:
    return (value for _, value in getattr(adata, name).items())


def _files(value: Any, depth: int = 0) -> Iterator[Path]:
    if depth > _DEEPEST or value is None:
        return
    if isinstance(value, Path):
        yield value
        return
    inside: Iterable[Any] = ()
    if hasattr(value, "dask") and hasattr(value.dask, "layers"):
        inside = itertools.chain.from_iterable(
            itertools.islice(layer.values(), _MOST_TASKS) for layer in value.dask.layers.values()
        )
    elif isinstance(value, Mapping):
        inside = value.values()
    elif isinstance(value, (tuple, list)):
        inside = value
    elif isinstance(value, functools.partial):
        inside = (*value.args, *value.keywords.values())
    elif hasattr(value, "group") and hasattr(value, "format"):  # a sparse matrix on the disk
        inside = (value.group,)
    elif isinstance(getattr(getattr(value, "file", None), "filename", None), str):  # of h5py
        inside = (Path(value.file.filename),)
    elif hasattr(value, "store"):  # of zarr; its store names the folder in one of two ways
        inside = tuple(Path(p) for p in (getattr(value.store, n, None) for n in ("root", "path")) if _is_path(p))
    elif type(value).__module__.startswith("dask"):  # a task
        inside = (getattr(value, "args", ()), getattr(value, "kwargs", {}), getattr(value, "value", None))
    for part in inside:
        yield from _files(part, depth + 1)


def _is_path(value: Any) -> TypeGuard[str | Path]:
    return isinstance(value, (str, Path)) and bool(str(value))
