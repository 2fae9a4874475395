"""AnnData as anndata writes it, in HDF5 and in zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
from anndata import AnnData

from .base import READERS, Reader
from .others import others_warnings
from .peek import hdf5_names, zarr_kind


def is_h5ad(path: Path) -> bool:
    """Whether it is an HDF5 file of one AnnData."""
    names = hdf5_names(path)
    return {"obs", "var"} <= names and "mod" not in names


def read_h5ad(path: Path, **kwargs: Any) -> AnnData:
    """By ``anndata.read_h5ad``."""
    with others_warnings():
        return ad.read_h5ad(path, **kwargs)


def read_zarr(path: Path, **kwargs: Any) -> AnnData:
    """By ``anndata.read_zarr``."""
    with others_warnings():
        return ad.read_zarr(path, **kwargs)


READERS.register(
    Reader("h5ad", "AnnData, .h5ad", "an HDF5 file with obs and var", detect=is_h5ad, read=read_h5ad, order=10)
)
READERS.register(
    Reader(
        "zarr",
        "AnnData, .zarr",
        "a zarr store with obs and var",
        detect=lambda path: zarr_kind(path) == "zarr",
        read=read_zarr,
        order=15,
    )
)
