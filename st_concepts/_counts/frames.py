"""Annotations as pandas has them, whether an AnnData was read or is read lazily (`anndata.experimental.read_lazy`).

A lazy ``obs`` is an xarray dataset in a coat: it answers ``in`` and ``.columns``, but its columns are arrays of xarray,
its ``len`` is not the number of spots, and entries of ``obsm``, ``varm`` and ``uns`` may be lazy as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData


def column(frame: Any, key: str) -> pd.Series:
    """One column of ``obs`` or ``var`` as a Series, categories kept; only this one is read.

    Examples
    --------
    >>> column(pd.DataFrame({"a": [1, 2]}), "a").tolist()
    [1, 2]
    """
    return frame[key] if isinstance(frame, pd.DataFrame) else as_frame(frame[[key]])[key]


def as_frame(value: Any) -> Any:
    """A DataFrame where ``value`` is a lazy one; anything else as it is."""
    return value.to_memory() if hasattr(value, "to_memory") and hasattr(value, "columns") else value


def drop_column(adata: Any, key: str) -> None:
    """Remove a column of ``adata.obs``; a lazy ``obs``, which cannot, gets one of missing values instead."""
    if isinstance(adata.obs, pd.DataFrame):
        del adata.obs[key]
    else:
        adata.obs[key] = np.full(adata.n_obs, np.nan, dtype=np.float32)


def plain(value: Any) -> Any:
    """An entry of ``uns``, ``obsm`` or ``varm`` with all that is lazy inside read."""
    value = as_frame(value)  # first, since a lazy frame is a mapping too
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value.compute(scheduler="synchronous") if hasattr(value, "dask") and hasattr(value, "compute") else value


def obs_column(adata: AnnData, groupby: str) -> pd.Series:
    """``adata.obs[groupby]``, with a `KeyError` that says what there is."""
    if groupby in adata.obs:
        return column(adata.obs, groupby)
    have = list(map(str, adata.obs.columns))
    close = difflib.get_close_matches(str(groupby), have, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise KeyError(f"{groupby!r} is not a column of adata.obs (it has: {', '.join(have) or 'none'}).{hint}")
