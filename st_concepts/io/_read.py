"""One reader for every kind of input: what it is is detected, said, and can be forced."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from st_concepts._counts.layers import layer_names
from st_concepts._files.content import ClearError, existing
from st_concepts._slots import KEYS
from st_concepts.io._readers.base import READERS, Reader, takers
from st_concepts.io._readers.genes import unique_genes
from st_concepts.io._readers.others import logger
from st_concepts.io._readers.unknown import refuse_file, why_unknown

from ._faults import clear_faults, is_clear, reason

if TYPE_CHECKING:
    from spatialdata import SpatialData


def read(
    path: str | PathLike[str] | SpatialData,
    *,
    kind: str | Reader | None = None,
    table: str | None = None,
    bin_size: int | None = None,
    load_images: bool = True,
    **kwargs: Any,
) -> AnnData:
    """Read a section, whatever wrote it, as AnnData that every function of this package takes.

    Parameters
    ----------
    path
        ``.h5ad``; AnnData ``.zarr``; SpatialData ``.zarr``; Space Ranger output folder (Visium or Visium HD), as far as
        it was kept, flat and prefixed as in GEO, or its count matrix; Xenium output folder; classic ST table. Or a
        ``SpatialData`` object. ``outs/`` within a folder is found.
    kind
        Name of one of `st_concepts.io.READERS` (``"visium"``, ``"xenium"``, ...), or a `Reader`, registered or not; by
        default it is detected, and logged (logger ``st_concepts.io``, level INFO).
    table
        Name of the table of a SpatialData store; by default the only one.
    bin_size
        Of Visium HD, in micrometres: 2, 8, 16, ...; by default 8 where it is there, else the smallest.
    load_images
        `False` leaves histology images out, where they are broken or not wanted.
    **kwargs
        For the reader of the kind: `st_concepts.io.read_st` (``image=``, ``annotation=``, ...); Visium and Visium HD
        take ``counts_file=`` (where there are several), ``library_id=`` and ``genome=``; ``spatialdata_io.xenium``.

    Returns
    -------
    AnnData in memory. Platforms have ``X`` (raw counts as stored), ``obsm["spatial"]`` (float64, n_obs x 2:
    full-resolution pixels for Visium and Visium HD, micrometres for Xenium), ``obs["section"]`` and, where there is a
    histology image, ``uns["spatial"]``. ``var_names`` are made unique; ``var["gene_ids"]`` keeps the identifiers.
    A table of a SpatialData store keeps its link to the elements: `st_concepts.io.write` puts it back.

    Raises
    ------
    FileNotFoundError
        No such path.
    ValueError
        The path is of no known kind, not of the kind that was forced, or cannot be read; no such table or bin size.
    ImportError
        Xenium needs ``pip install 'st_concepts[spatialdata]'``.

    Warns
    -----
    UserWarning
        Of Visium and Visium HD: an image or the scale factors are missing; the raw counts stand in for the filtered
        ones; features that are no genes are left out.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import st_concepts as stc
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "section.h5ad"
    >>> stc.datasets.simulated_bulb(n_obs=100, n_vars=120).write_h5ad(path)
    >>> stc.io.detect_kind(path), stc.io.read(path).shape
    ('h5ad', (100, 120))
    """
    forced = None if kind is None else _named(kind)
    if not isinstance(path, (str, PathLike)):
        from st_concepts.io._readers.spatialdata import table_as_anndata

        return _finish(table_as_anndata(path, table), "The table", load_images)
    path = _outs(existing(path))
    reader = forced or READERS[detect_kind(path)]
    kwargs |= _options(reader, path, load_images, table=table, bin_size=bin_size)
    logger.info("%s: %s%s", path, reader.what, "" if forced else " (detected)")
    hint = f" Leave out kind={reader.kind!r} to have the kind detected." if forced else ""
    try:
        return _finish(reader.read(path, **kwargs), path, load_images)
    except ClearError as error:
        raise ValueError(f"{error}{hint}") from None
    except ImportError:
        raise  # what is to be installed
    except Exception as error:  # whatever the readers of other libraries raise on what is not what it seems
        own = reader.clear_errors and isinstance(error, ValueError | OSError)
        if own and not forced and is_clear(error, path):
            raise  # it says file, line and column
        raise ValueError(
            f"{path} cannot be read as {reader.what} (expected: {reader.expects}): {reason(error)}{hint}"
        ) from error


@clear_faults
def detect_kind(path: str | PathLike[str]) -> str:
    r"""The kind of input that ``path`` is, by its content.

    Returns
    -------
    Name of one of `st_concepts.io.READERS`: ``"h5ad"``, ``"zarr"``, ``"spatialdata"``, ``"visium"``, ``"visium_hd"``,
    ``"xenium"``, ``"st"``, and those that were registered.

    Raises
    ------
    FileNotFoundError
        No such path.
    ValueError
        Of no known kind; the message says what it looks like and what to do.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "counts.tsv"
    >>> _ = path.write_text("\tPenk\tOmp\n17x9\t3\t0\n")
    >>> detect_kind(path)
    'st'
    """
    path = _outs(existing(path))
    reader = _reader_of(path)
    if reader is None:
        refuse_file(path)
        why = why_unknown(path, _is_known)
        known = "" if why else " Known: " + "; ".join(f"{r.what} ({r.expects})" for r in READERS.values()) + "."
        raise ClearError(f"{path} is of no kind that can be read{why}.{known}")
    return reader.kind


def _reader_of(path: Path) -> Reader | None:
    """The first reader that takes a file or folder for its own."""
    return next((reader for reader in READERS.values() if reader.detect(path)), None)


def _is_known(path: Path) -> bool:
    return _reader_of(path) is not None


def _outs(path: Path) -> Path:
    """The folder ``outs`` that the pipelines make, where its parent was named."""
    inner = path / "outs"
    return inner if path.is_dir() and inner.is_dir() and not _is_known(path) else path


def _named(kind: str | Reader) -> Reader:
    if isinstance(kind, str) and kind not in READERS:
        raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, READERS))}.")
    return READERS.find(kind)


def _options(reader: Reader, path: Path, load_images: bool, **given: Any) -> dict[str, Any]:
    """What the reader takes of the options; one that it does not take must not be given."""
    for name, value in given.items():
        if value is not None and name not in reader.options:
            raise ValueError(f"{name}={value!r} is for {takers(name)}, but {path} is read as {reader.what}.")
    return {k: v for k, v in (given | {"load_images": load_images}).items() if k in reader.options}


def _finish(adata: AnnData, path: Path | str, load_images: bool) -> AnnData:
    """Unique gene names, coordinates that can be computed with, images where they are wanted."""
    if adata.X is None and not layer_names(adata):
        raise ClearError(f"{path} holds no counts: neither X nor layers.")
    if not adata.var_names.is_unique:
        if "gene_symbols" not in adata.var:
            adata.var["gene_symbols"] = adata.var_names.to_numpy()
        adata.var_names = unique_genes(adata.var_names)
    if KEYS.SPATIAL in adata.obsm:
        coords = np.asarray(adata.obsm[KEYS.SPATIAL])
        if coords.dtype != np.float64 and np.issubdtype(coords.dtype, np.number):
            adata.obsm[KEYS.SPATIAL] = coords.astype(np.float64)
    if not load_images and isinstance(entries := adata.uns.get(KEYS.SPATIAL), Mapping):
        for entry in entries.values():
            if isinstance(entry, MutableMapping) and "images" in entry:
                entry["images"] = {}
    return adata
