"""Spot names of classic ST tables: ``"16.92x9.015"`` (counts), ``"17_9"`` (annotation), ``"1x17x9"`` (sections)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

_NUMBER = r"[-+]?\d+(?:\.\d*)?"
_SPOT = re.compile(rf"\s*({_NUMBER})\s*[xX_]\s*({_NUMBER})\s*")
# R writes X before names that begin with a digit
_OF_R = re.compile(rf"X({_NUMBER})[xX_]({_NUMBER})")
# a section before ("1x17x20", "S1_17x20") or behind ("17x20_1"); only "x" then: "s_008um_00010_00020" is no such name
_UNSIGNED = r"\d+(?:\.\d*)?"
_BEFORE, _BEHIND = r"(?P<before>\w(?:.*?\w)?)(?:[xX_:| ]|(?<=[A-Za-z])\.)", r"[_.:| -](?P<behind>\w+)"
_OF_SECTION = re.compile(rf"X?(?:{_BEFORE})?(?P<x>{_UNSIGNED})[xX](?P<y>{_UNSIGNED})(?:{_BEHIND})?")


def _parse(name: str) -> tuple[float, float, str] | None:
    """x, y and the section that the name holds besides; `None` for another name."""
    if match := _SPOT.fullmatch(name) or _OF_R.fullmatch(name):
        return float(match[1]), float(match[2]), ""
    match = _OF_SECTION.fullmatch(name.strip())
    if match is None:
        return None
    section = "_".join(part for part in (match["before"], match["behind"]) if part)
    return float(match["x"]), float(match["y"]), section


def is_spot_name(name: str) -> bool:
    """Whether ``name`` reads as array coordinates: ``XxY`` or ``X_Y``, ``XxY`` also with a section before or behind.

    Examples
    --------
    >>> is_spot_name("16.92x9.015"), is_spot_name("17_9"), is_spot_name("Penk")
    (True, True, False)
    >>> is_spot_name("1x17x9"), is_spot_name("X17x9"), is_spot_name("S1_17x9"), is_spot_name("s_008um_00017_00009-1")
    (True, True, True, False)
    """
    return _parse(name) is not None


def spot_sections(names: Iterable[str]) -> list[str]:
    """The section that each name holds besides the coordinates; empty where there is none.

    Examples
    --------
    >>> spot_sections(["1x17x9", "S1_17x9", "17x9_2", "X17x9"])
    ['1', 'S1', '2', '']
    """
    return [found[2] if (found := _parse(name)) else "" for name in names]


def mostly_spot_names(names: Sequence[str]) -> bool:
    """Whether more than half of ``names`` read as array coordinates; a few broken ones are reported later, by name."""
    return len(names) > 0 and sum(map(is_spot_name, names)) > len(names) / 2


def parse_spot_names(names: Iterable[str], *, where: str) -> np.ndarray:
    """Array coordinates of spots, float64 ``(n_spots, 2)``, x and y in pitches; ``where`` is what messages begin with.

    Examples
    --------
    >>> parse_spot_names(["16.92x9.015", "17_11"], where="example")
    array([[16.92 ,  9.015],
           [17.   , 11.   ]])
    """
    coords: list[tuple[float, float]] = []
    seen: set[str] = set()
    for i, name in enumerate(names, start=1):
        found = _parse(name)
        if found is None:
            raise ValueError(
                f"{where}: the name of spot {i}, {name!r}, does not read as array coordinates. "
                "Expected 'XxY' or 'X_Y', such as '16.92x9.015'."
            )
        if name in seen:
            raise ValueError(f"{where}: spot {name!r} appears more than once (again as spot {i}); remove one of them.")
        seen.add(name)
        coords.append(found[:2])
    return np.array(coords, dtype=np.float64).reshape(-1, 2)


def round_to_array(coords: np.ndarray) -> np.ndarray:
    """Nearest array position of each spot, int64, shape (n_spots, 2)."""
    return np.rint(np.asarray(coords, dtype=np.float64)).astype(np.int64)
