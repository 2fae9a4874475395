"""The attribution methods by name, and a table of them."""

from __future__ import annotations

import pandas as pd

from st_concepts.attribution._methods.base import METHODS, Method


def get_method(name: str | Method) -> Method:
    """Record of the method called ``name``.

    Examples
    --------
    >>> get_method("gradient").linear_in_concept
    True
    """
    return METHODS.find(name)


def methods_table() -> pd.DataFrame:
    """Table of all methods, indexed by name.

    Returns
    -------
    One row per method with the columns ``question``, ``linear_in_concept``, ``needs_baseline``, ``needs_relu``,
    ``captum``, ``runs_in_captum``, ``options`` and ``citation``.

    Examples
    --------
    >>> methods_table().loc["rectgrad", "needs_relu"]
    np.True_
    """
    columns = ("question", "linear_in_concept", "needs_baseline", "needs_relu", "captum", "runs_in_captum")
    rows = {
        m.name: {**{c: getattr(m, c) for c in columns}, "options": ", ".join(m.options), "citation": m.citation}
        for m in METHODS.values()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
