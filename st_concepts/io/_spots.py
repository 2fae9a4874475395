"""Spot names of classic ST tables: ``"16.92x9.015"`` (counts) and ``"17_9"`` (annotation)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

_NUMBER = r"[-+]?\d+(?:\.\d*)?"
_SPOT = re.compile(rf"\s*({_NUMBER})\s*[xX_]\s*({_NUMBER})\s*")


def is_spot_name(name: str) -> bool:
    """Whether ``name`` reads as array coordinates, ``XxY`` or ``X_Y``.

    Examples
    --------
    >>> is_spot_name("16.92x9.015"), is_spot_name("17_9"), is_spot_name("Penk")
    (True, True, False)
    """
    return _SPOT.fullmatch(name) is not None


def mostly_spot_names(names: Sequence[str]) -> bool:
    """Whether more than half of ``names`` read as array coordinates; a few broken ones are reported later, by name."""
    return len(names) > 0 and sum(map(is_spot_name, names)) > len(names) / 2


def parse_spot_names(names: Iterable[str], *, where: str) -> np.ndarray:
    """Array coordinates of spots.

    Parameters
    ----------
    names
        Spot names, ``XxY`` or ``X_Y``.
    where
        What the names belong to, for the error message (a file name, say).

    Returns
    -------
    float64, shape (n_spots, 2), columns x and y in units of the array (1 = the pitch between spots).

    Raises
    ------
    ValueError
        If a name does not read as coordinates, or if two names are the same.

    Examples
    --------
    >>> parse_spot_names(["16.92x9.015", "17_11"], where="example")
    array([[16.92 ,  9.015],
           [17.   , 11.   ]])
    """
    coords: list[tuple[float, float]] = []
    seen: set[str] = set()
    for i, name in enumerate(names, start=1):
        match = _SPOT.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{where}: the name of spot {i}, {name!r}, does not read as array coordinates. "
                "Expected 'XxY' or 'X_Y', such as '16.92x9.015'."
            )
        if name in seen:
            raise ValueError(f"{where}: spot {name!r} appears more than once (again as spot {i}); remove one of them.")
        seen.add(name)
        coords.append((float(match[1]), float(match[2])))
    return np.array(coords, dtype=np.float64).reshape(-1, 2)


def round_to_array(coords: np.ndarray) -> np.ndarray:
    """Nearest array position of each spot, int64, shape (n_spots, 2)."""
    return np.rint(np.asarray(coords, dtype=np.float64)).astype(np.int64)
