"""Barcodes of a table and of the data that were written by different programs: one fixed order of attempts.

A name is a core, which the sequencer wrote, with what programs put around it: ``-1`` for the lane, ``-0`` or ``_S1``
for the part of a joined data set, ``S1_`` or ``S1#`` for the sample. What is around may be taken off only where it is
the same in every name of a side: then no two spots can become one. Where it differs it tells sections apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_LANE = re.compile(r"(?P<core>.+)(?P<off>-\d+)", re.DOTALL)
_ADDED = re.compile(r"(?P<core>.+?-\d+)(?P<off>[-_.:#|].+)", re.DOTALL)
_BARE_ADDED = re.compile(r"(?P<core>[ACGTN]{8,})(?P<off>[-_.:#|].+)")
_PREFIX = re.compile(r"(?P<off>.+[_:#|/.])(?P<core>[^_:#|/.]+)", re.DOTALL)
_DASHED = re.compile(r"(?P<off>.+?-)(?P<core>[^-]+(?:-\d+)?)", re.DOTALL)
_POINT = re.compile(r"(?P<core>\d+)(?P<off>\.0+)")
# share of the smaller side that must be found by a changed name; a few are found by chance
_ENOUGH = 0.5
_LONG = 8  # letters of a core that is no coincidence


def _off(*patterns: re.Pattern[str]) -> Callable[[str], tuple[str, str]]:
    """Core and what was taken off, by one pattern after the other; a name that no pattern fits is its own core."""

    def split(name: str) -> tuple[str, str]:
        off = ""
        for pattern in patterns:
            if (match := pattern.fullmatch(name)) is not None:
                name, off = match["core"], f"{match['off']} {off}".strip()
        return name, off

    return split


_PARTS: tuple[tuple[str, tuple[re.Pattern[str], ...]], ...] = (
    ("the last suffix", (_LANE,)),
    ("an added suffix", (_ADDED,)),
    ("an added suffix", (_BARE_ADDED,)),
    ("an added suffix and the lane", (_ADDED, _LANE)),
    ("a sample prefix", (_PREFIX,)),
    ("a sample prefix", (_DASHED,)),
    ("a sample prefix and the lane", (_PREFIX, _LANE)),
    ("a sample prefix and the lane", (_DASHED, _LANE)),
    ("a decimal point", (_POINT,)),
)


@dataclass(frozen=True)
class Match:
    """Which name of the table each name of the data is.

    Attributes
    ----------
    found
        Position in the table of each name of the data, -1 where it is not there.
    remark
        What was left aside to find them; empty where names are equal but for the lane ``-1`` on one side, which many
        programs leave out.
    several
        Where nothing was found: what differs between names that would be found otherwise.
    """

    found: list[int]
    remark: str = ""
    several: str = ""

    @property
    def n(self) -> int:
        """Names of the data that were found."""
        return sum(i >= 0 for i in self.found)


def match_exactly(names: Sequence[str], table: Sequence[str]) -> Match:
    """Names that are equal, letter by letter."""
    at = {name: i for i, name in reversed(list(enumerate(table)))}
    return Match([at.get(name, -1) for name in names])


def match_names(names: Sequence[str], table: Sequence[str]) -> Match:
    """Equal names; else equal cores, by the first attempt of the fixed order that finds half of the smaller side.

    The order: without the last suffix (``-1``, ``-0``); without what was added behind it (``-0``,
    ``_S1``), with and without the lane; without a sample prefix (``S1_``, ``S1#``, ``S1-``), with and without the lane.
    Each is tried on both sides, on the data alone, on the table alone. It counts only where what is left aside is the
    same in every name of a side.

    Examples
    --------
    >>> match_names(["ACGT-1-0", "CCGT-1-0"], ["CCGT-1", "ACGT-1"])
    Match(found=[1, 0], remark="the last suffix ('-0' in the data) was left aside to match barcodes", several='')
    >>> match_names(["ACGT-1", "ACGT-2"], ["ACGT"]).n
    0
    """
    if (exact := match_exactly(names, table)).n:
        return exact
    several = ""
    for what, patterns in _PARTS:
        split = _off(*patterns)
        sides = ([split(n) for n in names], [split(t) for t in table])
        plain = ([(n, "") for n in names], [(t, "") for t in table])
        for left, right in (sides, (sides[0], plain[1]), (plain[0], sides[1])):
            made = match_exactly([core for core, _ in left], [core for core, _ in right])
            if made.n < _ENOUGH * min(len(names), len(table)) or not made.n:
                continue
            if not (_shared(left) and _shared(right)):
                continue
            off_left, off_right = _kinds(left), _kinds(right)
            if len(off_left) > 1 or len(off_right) > 1:
                several = several or _varied(off_left, off_right)
                continue
            if {off_left[0], off_right[0]} == {"", "-1"}:  # the lane, which many programs leave out
                return Match(made.found)
            said = [f"{off[0]!r} in the {side}" for off, side in ((off_left, "data"), (off_right, "table")) if off[0]]
            return Match(made.found, f"{what} ({', '.join(said)}) was left aside to match barcodes")
    return Match([-1] * len(names), several=several)


def _shared(side: list[tuple[str, str]]) -> bool:
    """Whether names can tell what they share: of a single one, all that is taken off but a long core is a guess."""
    return len(side) > 1 or not side[0][1] or len(side[0][0]) >= _LONG


def _kinds(side: Iterable[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(off for _, off in side))


def _varied(left: list[str], right: list[str]) -> str:
    off, side = (left, "data") if len(left) > 1 else (right, "table")
    shown = ", ".join(map(repr, off[:4])) + (", ..." if len(off) > 4 else "")
    return f"barcodes of the {side} differ in {shown} besides, which tells sections apart"
