"""Targets that are known for some of the spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def same_spots(known: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Concepts grouped by the spots they are known for."""
    # np.unique of columns makes a type with a field a spot
    columns = [column.tobytes() for column in known.T]
    return [np.flatnonzero([c == one for c in columns]) for one in sorted(set(columns))]
