"""An AnnData in the form that can be written, which leaves the caller's as it is."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import as_frame, plain
from st_concepts._counts.layers import layers_of

_AXES = ("obsm", "varm", "obsp", "varp")


def writable_copy(adata: AnnData) -> AnnData:
    """A new AnnData around the same matrices, with annotations of its own.

    Writing turns columns of text into categories, a view into data of its own, and ties a backed AnnData to the new
    file; all that happens to the copy. Matrices stay where they are, on the disk or in memory; annotations that are
    lazy are read.
    """
    obs, var = (_frame(getattr(adata, name), name) for name in ("obs", "var"))
    parts = {name: {k: plain(v) for k, v in getattr(adata, name).items()} for name in ("obsm", "varm")}
    parts |= {name: dict(getattr(adata, name)) for name in ("obsp", "varp")}
    parts["layers"] = layers_of(adata)
    raw = None
    if adata.raw is not None:
        raw = {"X": adata.raw.X, "var": _frame(adata.raw.var, "raw.var"), "varm": dict(adata.raw.varm)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Observation|Variable) names are not unique")  # known to the caller
        return AnnData(X=adata.X, obs=obs, var=var, uns=plain(dict(adata.uns)), raw=raw, **_aligned(parts, obs, var))


def _aligned(parts: dict[str, dict[str, Any]], obs: pd.DataFrame, var: pd.DataFrame) -> dict[str, dict[str, Any]]:
    for name, index in (("obsm", obs.index), ("varm", var.index)):
        for key, value in parts[name].items():
            if isinstance(value, pd.DataFrame):
                parts[name][key] = _frame(value, f"{name}[{key!r}]").set_axis(index)
    return parts


def _frame(value: Any, name: str) -> pd.DataFrame:
    """A copy in which columns of Python objects have the type of what they hold."""
    frame = as_frame(value).copy()
    twice = frame.columns[frame.columns.duplicated()].unique().tolist()
    if twice:
        raise ValueError(f"{name} has several columns of the name {twice[0]!r}; rename or drop them before writing.")
    for key in frame.columns:
        if not isinstance(key, str):
            raise ValueError(f"{name} has a column whose name is no text, {key!r}; rename it before writing.")
        if frame[key].dtype == object:
            frame[key] = _typed(frame[key], f"{name}[{key!r}]")
    if not pd.api.types.is_string_dtype(frame.index.dtype) or frame.index.inferred_type != "string":
        frame.index = pd.Index([str(v) for v in frame.index], name=frame.index.name, dtype=object)
    return frame


def _typed(column: pd.Series, name: str) -> pd.Series:
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "string":
        return column
    gaps = bool(column.isna().any())
    if kind == "boolean":
        return column.astype("boolean" if gaps else bool)
    if kind in ("integer", "floating", "mixed-integer-float", "empty"):
        try:
            return column.astype("Int64" if gaps else "int64") if kind == "integer" else column.astype("float64")
        except (OverflowError, TypeError, ValueError):
            pass  # integers beyond 64 bits, say
    types = sorted({type(v).__name__ for v in column[column.notna()]})
    raise ValueError(
        f"{name} holds values of type {', '.join(types)}, which cannot be written as one column; "
        "turn it into text with .astype(str), or drop it."
    )
