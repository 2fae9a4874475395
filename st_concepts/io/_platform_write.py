"""Results to files: whole or not at all."""

from __future__ import annotations

import os
import shutil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from anndata import AnnData

from st_concepts._counts.layers import layers_of

from ._content import ClearError, existing
from ._folder import make_folder
from ._frames import as_frame, plain
from ._platform_10x import others_warnings
from ._platforms import zarr_kind

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
        What to write. Of one that is backed or lazy (`anndata.experimental.read_lazy`) the matrices go from disk to
        disk, a part at a time; everything else is read.
    path
        Ends in ``.h5ad`` or ``.zarr``. What is there is replaced once the new file is complete.
    source
        A SpatialData store or object, the one that `st_concepts.io.read` was given: ``path`` becomes a store with all
        its elements, and ``adata`` as the table.
    table
        Name of the table; by default the only one.

    Raises
    ------
    ValueError
        Another ending; ``path`` is the source, or a folder that is no zarr store; ``source`` without such a table.
    OSError
        The folder cannot be made or written.

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
    path = Path(path).expanduser().resolve()
    if path.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"{path} must end in .h5ad or .zarr.")
    if source is not None and path.suffix != ".zarr":
        raise ValueError(f"{path}: a SpatialData is written as .zarr; leave out source= to write the table as .h5ad.")
    if path.suffix == ".zarr" and path.exists() and zarr_kind(path) is None:
        raise ValueError(f"{path} is there and no zarr store; it is not replaced, name another.")
    if path.suffix == ".h5ad" and path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it.")
    if isinstance(source, (str, PathLike)):
        from ._platform_spatialdata import open_store

        source_path = existing(source)
        if path.exists() and path.samefile(source_path):
            raise ValueError(f"{path} is the source, which is never changed; name another store.")
        source = open_store(source_path)
    make_folder(path.parent)
    adata = readable(adata)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        if source is not None:
            _write_spatialdata(adata, source, table, temporary)
        elif path.suffix == ".zarr":
            with others_warnings():  # about the coming version of zarr
                adata.write_zarr(temporary)
        else:
            adata.write_h5ad(temporary, compression="gzip")
        _replace(temporary, path)
    finally:
        _remove(temporary)


def readable(adata: AnnData) -> AnnData:
    """The same with annotations in memory, which is what anndata can write; matrices stay where they are."""
    if isinstance(adata.obs, pd.DataFrame) and isinstance(adata.var, pd.DataFrame):
        return adata
    obs, var = as_frame(adata.obs), as_frame(adata.var)
    frames = {name: {k: plain(v) for k, v in getattr(adata, name).items()} for name in ("obsm", "varm")}
    for name, index in (("obsm", obs.index), ("varm", var.index)):
        for value in frames[name].values():
            if isinstance(value, pd.DataFrame):
                value.index = index
    matrices = {name: dict(getattr(adata, name)) for name in ("obsp", "varp")} | {"layers": layers_of(adata)}
    return AnnData(X=adata.X, obs=obs, var=var, uns=plain(dict(adata.uns)), **frames, **matrices)


def _write_spatialdata(adata: AnnData, source: SpatialData, table: str | None, path: Path) -> None:
    from ._platform_spatialdata import with_table

    try:
        out = with_table(source, adata, table)
    except ClearError as error:
        raise ValueError(str(error)) from None
    with others_warnings():
        out.write(path)


def _replace(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``; a folder cannot be replaced in one step, so the old one steps aside."""
    if not path.is_dir():
        os.replace(new, path)
        return
    old = path.with_name(f".{path.stem}-{os.getpid()}-old{path.suffix}")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
