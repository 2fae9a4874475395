"""One reader for every kind of input: what it is is detected, said, and can be forced."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, MutableMapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata import AnnData

from st_concepts._counts.layers import layer_names
from st_concepts._files.content import GZIP_MAGIC, HDF5_MAGIC, ClearError, existing
from st_concepts._slots import KEYS
from st_concepts.io._readers.genes import unique_genes
from st_concepts.io._readers.others import logger
from st_concepts.io._readers.tenx_files import count_files, named_counts, position_files
from st_concepts.io._readers.unknown import other_hdf5, why_unknown

from ._faults import clear_faults, is_clear, reason

if TYPE_CHECKING:
    from spatialdata import SpatialData


class _Kind(NamedTuple):
    what: str
    expects: str


KINDS = {
    "h5ad": _Kind("AnnData, .h5ad", "an HDF5 file with obs and var"),
    "zarr": _Kind("AnnData, .zarr", "a zarr store with obs and var"),
    "spatialdata": _Kind("SpatialData, .zarr", "a zarr store with tables"),
    "visium": _Kind(
        "Visium, Space Ranger output", "a folder with filtered_feature_bc_matrix.h5 and spatial/tissue_positions*.csv"
    ),
    "visium_hd": _Kind("Visium HD, Space Ranger output", "a folder with binned_outputs/square_*um"),
    "xenium": _Kind("Xenium output", "a folder with experiment.xenium"),
    "st": _Kind("classic ST table", "a tab- or comma-separated table of spots such as 17x9 and genes"),
}


def read(
    path: str | PathLike[str] | SpatialData,
    *,
    kind: str | None = None,
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
        One of ``"h5ad"``, ``"zarr"``, ``"spatialdata"``, ``"visium"``, ``"visium_hd"``, ``"xenium"``, ``"st"``; by
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
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, KINDS))}.")
    if not isinstance(path, (str, PathLike)):
        from st_concepts.io._readers.spatialdata import table_as_anndata

        return _finish(table_as_anndata(path, table), "The table", load_images)
    path = _outs(existing(path))
    found = kind or detect_kind(path)
    if table is not None and found != "spatialdata":
        raise ValueError(f"table={table!r} is for SpatialData stores, but {path} is read as {KINDS[found].what}.")
    if bin_size is not None and found != "visium_hd":
        raise ValueError(f"bin_size={bin_size} is for Visium HD, but {path} is read as {KINDS[found].what}.")
    logger.info("%s: %s%s", path, KINDS[found].what, "" if kind else " (detected)")
    if found == "spatialdata":
        kwargs["table"] = table
    if found == "visium_hd":
        kwargs["bin_size"] = bin_size
    if found in ("visium", "visium_hd"):
        kwargs["load_images"] = load_images
    hint = f" Leave out kind={kind!r} to have the kind detected." if kind else ""
    try:
        return _finish(_readers()[found](path, **kwargs), path, load_images)
    except ClearError as error:
        raise ValueError(f"{error}{hint}") from None
    except ImportError:
        raise  # what is to be installed
    except Exception as error:  # whatever the readers of other libraries raise on what is not what it seems
        own = found in ("st", "h5ad", "zarr") and isinstance(error, ValueError | OSError)
        if own and not kind and is_clear(error, path):
            raise  # it says file, line and column
        raise ValueError(
            f"{path} cannot be read as {KINDS[found].what} (expected: {KINDS[found].expects}): {reason(error)}{hint}"
        ) from error


@clear_faults
def detect_kind(path: str | PathLike[str]) -> str:
    r"""The kind of input that ``path`` is, by its content.

    Returns
    -------
    ``"h5ad"``, ``"zarr"``, ``"spatialdata"``, ``"visium"``, ``"visium_hd"``, ``"xenium"`` or ``"st"``.

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
    found = folder_kind(path) if path.is_dir() else _file_kind(path)
    if found is None:
        why = why_unknown(path, folder_kind)
        known = "" if why else " Known: " + "; ".join(f"{k.what} ({k.expects})" for k in KINDS.values()) + "."
        raise ClearError(f"{path} is of no kind that can be read{why}.{known}")
    return found


def _outs(path: Path) -> Path:
    """The folder ``outs`` that the pipelines make, where its parent was named."""
    inner = path / "outs"
    return inner if path.is_dir() and inner.is_dir() and folder_kind(path) is None else path


def folder_kind(path: Path) -> str | None:
    """The kind of a folder, `None` for one that is of no kind."""
    from st_concepts.io._readers.visium_hd import bin_folders, size_of_bins

    zarr = zarr_kind(path)
    if zarr is not None:
        return zarr
    if (path / "experiment.xenium").is_file():
        return "xenium"
    if (path / "binned_outputs").is_dir() or size_of_bins(path) or bin_folders(path):
        return "visium_hd"
    root, counts = named_counts(path)
    return "visium" if position_files(root) and (counts is not None or count_files(root)) else None


def zarr_kind(path: Path) -> str | None:
    """``"zarr"`` or ``"spatialdata"`` for a zarr store of these, else `None`."""
    attributes: dict[str, Any] = {}
    for name in ("zarr.json", ".zattrs"):
        if (path / name).is_file():
            try:
                stored = json.loads((path / name).read_text(encoding="utf-8"))
            except (ValueError, OSError, RecursionError):
                continue
            if name == "zarr.json" and isinstance(stored, dict):
                stored = stored.get("attributes")
            attributes |= stored if isinstance(stored, dict) else {}
    if "spatialdata_attrs" in attributes or (path / "tables").is_dir():
        return "spatialdata"
    if attributes.get("encoding-type") == "anndata" or ((path / "obs").is_dir() and (path / "var").is_dir()):
        return "zarr"
    return None


def _file_kind(path: Path) -> str | None:
    with path.open("rb") as handle:
        head = handle.read(4096)
    if head.startswith(HDF5_MAGIC):
        return _hdf5_kind(path)
    if path.suffix == ".h5ad":
        raise ClearError(f"{path} is not an .h5ad file (not HDF5): it is damaged, or another file renamed.")
    if head.startswith(GZIP_MAGIC):
        try:
            with gzip.open(path) as handle:
                head = handle.read(4096)
        except (OSError, EOFError, zlib.error) as error:
            raise ClearError(f"{path}: the gzip file is truncated or corrupt ({error}); fetch it again.") from None
    if head.startswith(b"%%MatrixMarket"):
        return _kind_around(path)
    first = head.split(b"\n", 1)[0]
    return "st" if b"\x00" not in head and (b"\t" in first or b"," in first) else None


def _hdf5_kind(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            groups = set(handle)
            tenx = any("barcodes" in group for group in handle.values() if isinstance(group, h5py.Group))
    except (OSError, KeyError, RuntimeError) as error:
        raise ClearError(f"{path} cannot be opened as HDF5, it is damaged or truncated: {error}") from None
    if {"obs", "var"} <= groups and "mod" not in groups:
        return "h5ad"
    if tenx:
        return _kind_around(path)
    if (other := other_hdf5(groups)) is not None:
        raise ClearError(f"{path} {other}")
    raise ClearError(f"{path} is an HDF5 file but holds no AnnData; it has {', '.join(sorted(groups)) or 'nothing'}.")


def _kind_around(path: Path) -> str:
    """The kind of the section that a 10x count matrix is part of."""
    from st_concepts.io._readers.visium_hd import size_of_bins

    root, _ = named_counts(path)
    if (path.parent / "experiment.xenium").is_file():
        raise ClearError(f"{path} is part of a Xenium output; name the folder, {path.parent}.")
    if not position_files(root):
        raise ClearError(
            f"{path} is a 10x count matrix without coordinates; name the output folder that holds it (with spatial/), "
            "or put tissue_positions.csv beside it."
        )
    return "visium_hd" if size_of_bins(root) else "visium"


def _readers() -> dict[str, Callable[..., AnnData]]:
    from st_concepts.io._readers.spatialdata import read_spatialdata
    from st_concepts.io._readers.st import read_st
    from st_concepts.io._readers.visium import read_visium
    from st_concepts.io._readers.visium_hd import read_visium_hd
    from st_concepts.io._readers.xenium import read_xenium

    return {
        "h5ad": _read_h5ad,
        "zarr": _read_zarr,
        "spatialdata": read_spatialdata,
        "visium": read_visium,
        "visium_hd": read_visium_hd,
        "xenium": read_xenium,
        "st": read_st,
    }


def _read_h5ad(path: Path, **kwargs: Any) -> AnnData:
    import anndata as ad

    from st_concepts.io._readers.others import others_warnings

    with others_warnings():
        return ad.read_h5ad(path, **kwargs)


def _read_zarr(path: Path, **kwargs: Any) -> AnnData:
    import anndata as ad

    from st_concepts.io._readers.others import others_warnings

    with others_warnings():
        return ad.read_zarr(path, **kwargs)


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
