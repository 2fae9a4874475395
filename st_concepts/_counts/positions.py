"""Coordinates of the spots, checked where they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from st_concepts._slots import KEYS

# no unit of length makes a tissue this large or this small: a hundred metres in nanometres, a nanometre in metres
_LARGEST, _SMALLEST = 1e11, 1e-9


def positions(adata: AnnData, *, key: str = KEYS.SPATIAL) -> NDArray[np.float64]:
    """First two columns of ``adata.obsm[key]``, float64 ``(n_obs, 2)``, finite and of sensible size.

    Examples
    --------
    >>> positions(AnnData(np.ones((2, 1)), obsm={"spatial": np.array([[0, 1, 7], [2, 3, 7]])})).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    if key not in adata.obsm:
        raise KeyError(
            f"adata.obsm[{key!r}] is missing: put the coordinates of the spots there, an (n_obs, 2) array of numbers."
        )
    xy = _numbers(adata.obsm[key], f"adata.obsm[{key!r}]")
    name = f"adata.obsm[{key!r}]"
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} is NaN or infinite for {bad.sum()} of {len(xy)} spots (first {adata.obs_names[bad.argmax()]!r}). "
            f"Give these spots coordinates or leave them out: adata[np.isfinite({name}[:, :2]).all(axis=1)].copy()."
        )
    if not len(xy):
        return xy
    far = np.abs(xy).max(axis=1)
    if far.max() > _LARGEST:
        raise ValueError(
            f"{name} holds {far.max():.3g} (spot {adata.obs_names[far.argmax()]!r}), which is no position on a tissue "
            "in any unit. Give pixels or micrometres."
        )
    extent = float(np.ptp(xy, axis=0).max())
    if len(xy) > 1 and extent < _SMALLEST:
        raise ValueError(
            f"{name} puts all {len(xy)} spots at one place, ({xy[0, 0]:g}, {xy[0, 1]:g}); give each spot its own, in "
            "pixels or micrometres."
        )
    return xy


def _numbers(stored: Any, name: str) -> NDArray[np.float64]:
    if hasattr(stored, "to_memory") and hasattr(stored, "columns"):
        stored = stored.to_memory()  # a lazy frame
    if isinstance(stored, np.ma.MaskedArray):
        stored = np.ma.filled(stored.astype(np.float64), np.nan)
    shape = tuple(getattr(stored, "shape", np.shape(stored)))
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            f"{name} has shape {shape}; coordinates are needed, an (n_obs, 2) array: x and y of each spot."
        )
    try:
        if isinstance(stored, pd.DataFrame):
            return stored.iloc[:, :2].to_numpy(dtype=np.float64, na_value=np.nan)
        values = np.asarray(stored[:, :2])
        if values.dtype.kind not in "iufOUS":
            raise TypeError(f"{values.dtype} is no kind of number for a coordinate")
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} holds something else than coordinates ({error}); an (n_obs, 2) array of numbers is needed."
        ) from error
