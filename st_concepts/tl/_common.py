"""What the functions of `tl` share; most of it lies below, since `evaluate` streams the same way."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from st_concepts._counts.layers import layers_of
from st_concepts.models._section import (
    BATCH_SIZE,
    as_encoder,
    counts_layer,
    embed_all,
    informative,
    membership,
    scores,
    stream,
)

__all__ = [
    "BATCH_SIZE",
    "as_encoder",
    "check_copy",
    "check_filled",
    "counts_layer",
    "embed_all",
    "informative",
    "membership",
    "scores",
    "stream",
]


def check_filled(**given: Any) -> None:
    """Raise `ValueError` where an argument was given that names nothing: ``genes={}``, ``groups=[]``."""
    for name, value in given.items():
        if value is not None and hasattr(value, "__len__") and len(value) == 0:
            raise ValueError(f"{name} is empty: give at least one, or leave {name} out.")


def check_copy(adata: AnnData, copy: bool) -> None:
    """Raise where a copy is asked for that cannot be made, before anything is computed.

    Raises
    ------
    ValueError
        The matrix stays on the disk (backed, or a `sparse_dataset`); lazy ones of dask can be copied.
    """
    if not copy:
        return
    held = [x for x in (adata.X, *layers_of(adata).values()) if x is not None]
    if adata.isbacked or not all(hasattr(x, "copy") for x in held):
        raise ValueError(
            "copy=True cannot copy an AnnData whose matrix stays on the disk. Leave copy out: results go into the "
            "AnnData in memory, not into its file, until adata.write_h5ad(new). Or load it first: adata.to_memory()."
        )
