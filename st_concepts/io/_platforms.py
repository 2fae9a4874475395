"""One reader for every kind of input: what it is is detected, said, and can be forced."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata import AnnData

from st_concepts._files import real, repair
from st_concepts._keys import KEYS
from st_concepts._progress import get_logger

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = get_logger("io")

COUNTS_10X = "filtered_feature_bc_matrix.h5"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")
# what the readers of other libraries raise on a folder that is not what it seems
_READER_ERRORS = (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError, RuntimeError)


class _Kind(NamedTuple):
    what: str
    expects: str


KINDS = {
    "h5ad": _Kind("AnnData, .h5ad", "an HDF5 file with obs and var"),
    "zarr": _Kind("AnnData, .zarr", "a zarr store with obs and var"),
    "spatialdata": _Kind("SpatialData, .zarr", "a zarr store with tables"),
    "visium": _Kind("Visium, Space Ranger output", f"a folder with {COUNTS_10X} and spatial/tissue_positions*.csv"),
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
    **kwargs: Any,
) -> AnnData:
    """Read a section, whatever wrote it, as AnnData that every function of this package takes.

    Parameters
    ----------
    path
        ``.h5ad``; AnnData ``.zarr``; SpatialData ``.zarr``; Space Ranger output folder (Visium or Visium HD); Xenium
        output folder; classic ST table. Or a ``SpatialData`` object. ``outs/`` within a folder is found.
    kind
        One of ``"h5ad"``, ``"zarr"``, ``"spatialdata"``, ``"visium"``, ``"visium_hd"``, ``"xenium"``, ``"st"``; by
        default it is detected, and logged (logger ``st_concepts.io``, level INFO).
    table
        Name of the table of a SpatialData store; by default the only one.
    bin_size
        Of Visium HD, in micrometres: 2, 8, 16, ...; by default 8 where it is there, else the smallest.
    **kwargs
        For the reader of the kind: `st_concepts.io.read_st` (``image=``, ``annotation=``, ...),
        ``squidpy.read.visium``, ``spatialdata_io.visium_hd``, ``spatialdata_io.xenium``.

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
        Visium HD and Xenium need ``pip install 'st_concepts[spatialdata]'``.

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
        from ._platform_spatialdata import table_as_anndata

        return _finish(table_as_anndata(path, table), "The table")
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
    hint = f" Leave out kind={kind!r} to have the kind detected." if kind else ""
    try:
        adata = _readers()[found](path, **kwargs)
    except ClearError as error:
        raise ValueError(f"{error}{hint}") from None
    except _READER_ERRORS as error:
        if found == "st" and isinstance(error, (ValueError, FileNotFoundError)) and not kind:
            raise  # our own reader already says file, line and column
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as {KINDS[found].what} (expected: {KINDS[found].expects}): {reason}{hint}"
        ) from error
    return _finish(adata, path)


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
    found = _folder_kind(path) if path.is_dir() else _file_kind(path)
    if found is None:
        raise ValueError(
            f"{path} is of no kind that can be read. Known: "
            + "; ".join(f"{k.what} ({k.expects})" for k in KINDS.values())
            + "."
        )
    return found


class ClearError(Exception):
    """An error whose message already says everything; turned into `ValueError` by `read`."""


def existing(path: str | PathLike[str]) -> Path:
    """``path`` with ``~`` expanded, or a `FileNotFoundError`."""
    path = Path(path).expanduser()
    if not path.exists():
        repair(real(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist (current folder: {Path.cwd()}).")
    return path


def _outs(path: Path) -> Path:
    """The folder ``outs`` that the pipelines make, where its parent was named."""
    inner = path / "outs"
    return inner if path.is_dir() and inner.is_dir() and _folder_kind(path) is None else path


def _folder_kind(path: Path) -> str | None:
    zarr = zarr_kind(path)
    if zarr is not None:
        return zarr
    if (path / "experiment.xenium").is_file():
        return "xenium"
    if (path / "binned_outputs").is_dir() or (path / "spatial" / "tissue_positions.parquet").is_file():
        return "visium_hd"
    if any(path.glob(f"*{COUNTS_10X}")) and any((path / "spatial" / name).is_file() for name in _POSITIONS):
        return "visium"
    return None


def zarr_kind(path: Path) -> str | None:
    """``"zarr"`` or ``"spatialdata"`` for a zarr store of these, else `None`."""
    attributes: dict[str, Any] = {}
    for name in ("zarr.json", ".zattrs"):
        if (path / name).is_file():
            try:
                stored = json.loads((path / name).read_text(encoding="utf-8"))
            except (ValueError, OSError):
                continue
            attributes |= stored.get("attributes", {}) if name == "zarr.json" else stored
    if "spatialdata_attrs" in attributes or (path / "tables").is_dir():
        return "spatialdata"
    if attributes.get("encoding-type") == "anndata" or ((path / "obs").is_dir() and (path / "var").is_dir()):
        return "zarr"
    return None


def _file_kind(path: Path) -> str | None:
    with path.open("rb") as handle:
        head = handle.read(4096)
    if head.startswith(_HDF5_MAGIC):
        return _hdf5_kind(path)
    if not head:
        raise ValueError(f"{path} is empty.")
    if path.suffix == ".h5ad":
        raise ValueError(f"{path} is not an .h5ad file (not HDF5): it is damaged, or another file renamed.")
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as handle:
                head = handle.read(4096)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: the gzip file is truncated or corrupt ({error}); fetch it again.") from None
    first = head.split(b"\n", 1)[0]
    return "st" if b"\x00" not in head and (b"\t" in first or b"," in first) else None


def _hdf5_kind(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            groups = set(handle)
    except OSError as error:
        raise ValueError(f"{path} cannot be opened as HDF5, it is damaged or truncated: {error}") from None
    if {"obs", "var"} <= groups:
        return "h5ad"
    if "matrix" in groups:
        raise ValueError(
            f"{path} is a 10x count matrix without coordinates; name the output folder that holds it (with spatial/)."
        )
    raise ValueError(f"{path} is an HDF5 file but holds no AnnData; it has {', '.join(sorted(groups)) or 'nothing'}.")


def _readers() -> dict[str, Callable[..., AnnData]]:
    from . import _platform_10x as tenx
    from ._platform_spatialdata import read_spatialdata
    from ._st import read_st

    return {
        "h5ad": _read_h5ad,
        "zarr": _read_zarr,
        "spatialdata": read_spatialdata,
        "visium": tenx.read_visium,
        "visium_hd": tenx.read_visium_hd,
        "xenium": tenx.read_xenium,
        "st": read_st,
    }


def _read_h5ad(path: Path, **kwargs: Any) -> AnnData:
    import anndata as ad

    from ._platform_10x import others_warnings

    with others_warnings():
        return ad.read_h5ad(path, **kwargs)


def _read_zarr(path: Path, **kwargs: Any) -> AnnData:
    import anndata as ad

    from ._platform_10x import others_warnings

    with others_warnings():
        return ad.read_zarr(path, **kwargs)


def _finish(adata: AnnData, path: Path | str) -> AnnData:
    """Unique gene names, coordinates that can be computed with."""
    if adata.X is None and not adata.layers:
        raise ValueError(f"{path} holds no counts: neither X nor layers.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        logger.info("%d gene names occur more than once (%s) and get a number", len(twice), ", ".join(twice[:3]))
        if "gene_symbols" not in adata.var:
            adata.var["gene_symbols"] = adata.var_names.to_numpy()
        adata.var_names_make_unique()
    if KEYS.SPATIAL in adata.obsm:
        coords = np.asarray(adata.obsm[KEYS.SPATIAL])
        if coords.dtype != np.float64 and np.issubdtype(coords.dtype, np.number):
            adata.obsm[KEYS.SPATIAL] = coords.astype(np.float64)
    return adata
