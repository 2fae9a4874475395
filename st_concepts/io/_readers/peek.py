"""A first look at a path: what it begins with, and the names at its top."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from st_concepts._files.content import GZIP_MAGIC, HDF5_MAGIC

_HEAD = 4096  # bytes


def first_bytes(path: Path) -> bytes:
    """How a file begins, as it is stored; empty for a folder."""
    if not path.is_file():
        return b""
    with path.open("rb") as handle:
        return handle.read(_HEAD)


def first_plain_bytes(path: Path) -> bytes:
    """How a file begins, unpacked where it is gzipped; empty for a folder, and where it cannot be unpacked."""
    head = first_bytes(path)
    if not head.startswith(GZIP_MAGIC):
        return head
    try:
        with gzip.open(path) as handle:
            return handle.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return b""


def hdf5_names(path: Path, *, holding: str | None = None) -> set[str]:
    """Names at the top of an HDF5 file, with ``holding`` of groups that have it; none for what is no such file."""
    import h5py

    if not first_bytes(path).startswith(HDF5_MAGIC):
        return set()
    try:
        with h5py.File(path, "r") as handle:
            return {k for k, v in handle.items() if holding is None or (isinstance(v, h5py.Group) and holding in v)}
    except (OSError, KeyError, RuntimeError):  # damaged
        return set()


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
