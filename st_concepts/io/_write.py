"""Results to files: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from anndata import AnnData

from st_concepts._counts.origins import origins, origins_of_spatialdata
from st_concepts._files import check_folder, make_folder, relation, replaceable, store_root, whole_file, whole_folder
from st_concepts._files.content import ClearError, existing
from st_concepts.io._readers.others import others_warnings
from st_concepts.io._readers.peek import zarr_kind

from ._writable import writable_copy

if TYPE_CHECKING:
    from spatialdata import SpatialData


def write(
    adata: AnnData,
    path: str | PathLike[str],
    *,
    source: str | PathLike[str] | SpatialData | None = None,
    table: str | None = None,
) -> None:
    """Write a result as ``.h5ad``, as AnnData ``.zarr``, or into a copy of the SpatialData it came from.

    Parameters
    ----------
    adata
        What to write; it is not changed. Of one that is backed or lazy (`anndata.experimental.read_lazy`) the matrices
        go from disk to disk, a part at a time; everything else is read.
    path
        Ends in ``.h5ad`` or ``.zarr``. A file, or a store, that is there is replaced once the new one is complete;
        through a link, what it leads to.
    source
        A SpatialData store or object, the one that `st_concepts.io.read` was given: ``path`` becomes a store with all
        its elements, and ``adata`` as the table.
    table
        Name of the table; by default the only one.

    Raises
    ------
    ValueError
        Another ending; ``path`` is, contains or lies in the source or a file that ``adata`` is still read from; there
        is something else than a file or zarr store; ``source`` without such a table; a column that no file can hold.
    OSError
        The folder cannot be made or written, the disk is full; what was there is left.

    Notes
    -----
    A kill at any moment leaves the old or the new result under its name, and hidden ``.st_concepts-*`` files that the
    next write into the folder removes. A file is renamed over the old one. A zarr store, which is a folder, is
    exchanged with the old one in one system call on Linux and macOS. On disks and systems without such a call (some
    network disks, Windows) it takes two renames; a kill between the two is mended by the next `read` or `write` of the
    store, and until then the store is missing for other programs.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=100, n_vars=120)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "section.zarr"
    >>> stc.io.write(adata, path)
    >>> stc.io.read(path).shape
    (100, 120)
    """
    path = Path(path)
    if path.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"{path} must end in .h5ad or .zarr.")
    if source is not None and path.suffix != ".zarr":
        raise ValueError(f"{path}: a SpatialData is written as .zarr; leave out source= to write the table as .h5ad.")
    target = check_folder(path, is_store) if path.suffix == ".zarr" else replaceable(path)
    if isinstance(source, (str, PathLike)):
        from st_concepts.io._readers.spatialdata import open_store

        source_path = existing(source)
        _refuse(path, target, [source_path], "the source")
        source = open_store(source_path)
    if source is not None:
        _refuse(path, target, origins_of_spatialdata(source), "the source")
    _refuse(path, target, origins(adata), "a file that adata is read from")
    make_folder(target.parent)
    adata = writable_copy(adata)
    try:
        _write(adata, target, source, table)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # what anndata raises on an element that it cannot write has no class of its own
        reason = " ".join([str(error), *getattr(error, "__notes__", ())])  # anndata notes which element it was
        raise ValueError(f"{path} cannot be written: {' '.join(reason.split())}") from error


def _write(adata: AnnData, target: Path, source: SpatialData | None, table: str | None) -> None:
    if target.suffix == ".h5ad":
        with whole_file(target) as temporary:
            adata.write_h5ad(temporary, compression="gzip")
        return
    with whole_folder(target, is_store) as temporary, others_warnings():  # about the coming version of zarr
        if source is None:
            adata.write_zarr(temporary)
        else:
            _spatialdata(adata, source, table).write(temporary)


def _spatialdata(adata: AnnData, source: SpatialData, table: str | None) -> SpatialData:
    from st_concepts.io._readers.spatialdata import with_table

    try:
        return with_table(source, adata, table)
    except ClearError as error:
        raise ValueError(str(error)) from None


def _refuse(path: Path, target: Path, inputs: Iterable[Path], what: str) -> None:
    for place in inputs:
        # the table of a store, and the store
        found = relation(target, place) or relation(target, store_root(place))
        if found is not None:
            raise ValueError(f"{path} {found} {what}, which is never changed; name another.")


# ------------------------------------------------------------------------------------------- what may be replaced

_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def is_store(path: Path) -> bool:
    """Whether a folder is a zarr store of AnnData or SpatialData and nothing else, so that it may be replaced."""
    if zarr_kind(path) is None or not any((path / mark).is_file() for mark in _MARKS):
        return False
    other = _no_part(path)
    if other is not None:
        raise ValueError(f"{path} holds {other}, which is no part of a zarr store; it is not replaced, name another.")
    return True


def _no_part(group: Path) -> Path | None:
    for entry in sorted(group.iterdir()):
        if entry.name.startswith(".") or entry.name in _MARKS or entry.name.endswith(".parquet"):
            continue  # of zarr, of the system, of points
        if not entry.is_dir() or entry.is_symlink():
            return entry
        if _is_array(entry):
            continue
        if not any((entry / mark).is_file() for mark in _MARKS):
            return entry
        if (other := _no_part(entry)) is not None:
            return other
    return None


def _is_array(folder: Path) -> bool:
    if (folder / ".zarray").is_file():
        return True
    try:
        return json.loads((folder / "zarr.json").read_text(encoding="utf-8")).get("node_type") == "array"
    except (OSError, ValueError, AttributeError):
        return False
