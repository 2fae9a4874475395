"""False discovery control that tolerates missing p-values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control


def fdr_bh(pvals: ArrayLike, *, axis: int | None = None) -> NDArray[np.float64]:
    """Benjamini-Hochberg adjusted p-values; NaN stays NaN and does not count as a test.

    Parameters
    ----------
    pvals
        p-values in [0, 1] or NaN, any shape.
    axis
        Adjust along this axis; ``None`` takes all values as one family.

    Returns
    -------
    float64, shape of ``pvals``.

    Raises
    ------
    ValueError
        If a p-value lies outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> fdr_bh([0.01, np.nan, 0.04]).tolist()
    [0.02, nan, 0.04]
    """
    p = np.asarray(pvals, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p-values must lie in [0, 1] (NaN for missing).")
    if axis is not None:
        return np.apply_along_axis(fdr_bh, axis, p)
    out = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        out[known] = false_discovery_control(p[known])
    return out
