"""Which matrix of an AnnData holds the counts: that of the model, and where else they could be."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from st_concepts._counts.layers import layer_names
from st_concepts._counts.rows import iter_rows

# rows that are looked at to tell whether a matrix holds counts
_LOOKED_AT = 512
_MINIFIED = "_scvi_adata_minify_type"
# names that people give to the layer with the counts, looked at first
_USUAL = ("counts", "raw_counts", "count", "raw", "spliced")


def model_layer(adata: AnnData, own: str | None, asked: str | None) -> str | None:
    """The layer asked for, else the model's own where ``adata`` has it, else `None` (``X``), which is said."""
    if asked is not None:
        return asked
    if own is None or own in adata.layers:
        return own
    warnings.warn(
        f"The model was trained on adata.layers[{own!r}], which this AnnData lacks: its counts are read from adata.X. "
        "Pass layer= to read them from elsewhere.",
        UserWarning,
        stacklevel=callers_level(),
    )
    return None


def refuse_minified(adata: AnnData) -> None:
    """Raise `ValueError` for an AnnData that scvi-tools minified: its counts were replaced by zeros."""
    kind = str(adata.uns.get(_MINIFIED, ""))
    if kind and not kind.endswith("with_counts"):
        raise ValueError(
            "This AnnData was minified by scvi-tools (model.minify_adata): its counts were replaced by zeros, so there "
            "is nothing to read. Pass the AnnData with the counts; the minified model itself can be used."
        )


def counts_elsewhere(adata: AnnData, layer: str | None) -> str:
    """A sentence that says how to read the counts that another matrix of ``adata`` holds; empty where none does."""
    names = [k for k in layer_names(adata) if k != layer]
    for name in sorted(names, key=lambda k: (_USUAL.index(k.lower()) if k.lower() in _USUAL else len(_USUAL), k)):
        if _looks_like_counts(adata.layers[name]):
            return f"adata.layers[{name!r}] holds counts: pass layer={name!r} (st-concepts run --layer {name})."
    if layer is not None and adata.X is not None and _looks_like_counts(adata.X):
        return "adata.X holds counts: pass layer=None (st-concepts run without --layer)."
    if adata.raw is not None and _looks_like_counts(adata.raw.X):
        held = "adata.to_memory()" if adata.isbacked else "adata"
        return f"adata.raw.X holds counts: adata = {held}.raw.to_adata() takes them (st-concepts run --raw)."
    return ""


def _looks_like_counts(X: Any) -> bool:
    """Whether the first rows are whole numbers from 0, some of them above 1."""
    try:
        _, block = next(iter(iter_rows(X, _LOOKED_AT)))
    except (StopIteration, TypeError, ValueError):
        return False  # of a kind that nothing here can read: no place to send anybody to
    values = block.data
    if not values.size or not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        return False
    return bool((values >= 0).all() and (values == np.round(values)).all() and values.max() > 1)


def callers_level() -> int:
    """``stacklevel`` that names the line of the user, however deep inside the package the warning is raised."""
    # a cached property is asked for through functools
    between = (str(Path(__file__).parents[1]) + os.sep, functools.__file__)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(between):
        frame, level = frame.f_back, level + 1
    return level
