"""Tables of barcode and label: Loupe Browser exports, spreadsheets, data frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from st_concepts._counts.labels import fold, is_number, missing_words, tidy

from .barcodes import Match, match_exactly, match_names
from .sheet import Sheet, read_sheet

# columns that are called so hold the barcodes, if any of these does
_BARCODE = tuple(
    re.compile(pattern)
    for pattern in (
        r"barcodes?",
        r"((spot|cell|bead|bin)_?)?(barcodes?|bc)",
        r"(spot|cell|bead|bin)(_?(ids?|names?)|s)?",
        r"obs_?names?",
        r"index|id|key",
    )
)
_ROW_NUMBER = re.compile(r"|unnamed:_?\d+|x|v1|___1|row(_?(names?|numbers?|ids?))?")
# labels up to here that are decimal numbers may be classes; more whole numbers than five times that are none
_FEW = 10


@dataclass(frozen=True)
class Table:
    """Labels of spots from a table.

    Attributes
    ----------
    labels
        object ``(n_obs,)``, as written, `None` where the table says nothing.
    order
        Labels as they first appear.
    remarks
        Rows and spots that found no partner, and how the others did.
    """

    labels: np.ndarray
    order: list[str]
    remarks: list[str]


def read_barcodes(
    path: Path,
    names: pd.Index,
    *,
    key: str,
    column: str | None,
    missing: Iterable[str] | str | None = None,
    sheet: Sheet | None = None,
) -> Table:
    """Labels for the spots called ``names``.

    The barcodes are in the column that is called so (``barcode``, ``cell_id``, ``spot``, ...), of several in the one
    that has most of ``names``; else in the one that has most of ``names``, the row numbers of a data frame coming last.
    The label is ``column``, else the column called ``key``, else the only other one. Names that are not equal are
    matched as `match_names` says. A table without header is recognised by a first line that is a spot.
    """
    sheet = sheet or read_sheet(path)
    known = list(map(str, names))
    spots_at, sheet, match = _barcodes(sheet, known)
    table = [row[spots_at] for row in sheet.rows]
    if not match.n:
        raise ValueError(_nothing_found(path, table, known, match))
    repeated = names.duplicated(keep=False)
    if hit := [name for name, i, twice in zip(known, match.found, repeated, strict=True) if twice and i >= 0]:
        raise ValueError(
            f"{path}: barcode {hit[0]!r} occurs more than once in the data, as {int(repeated.sum())} of {len(names)} "
            "spots do, so the file cannot say which is meant. For several sections give a file for each and the column "
            "of obs that names the section: read_annotation(adata, {'S1': 'S1.csv', 'S2': 'S2.csv'}, "
            "section_key='section')."
        )
    labels_at = _label_column(path, sheet, spots_at, key=key, column=column)
    values = [tidy(row[labels_at]) for row in sheet.rows]
    words = missing_words(missing)
    if all(map(is_number, filter(None, values))):  # whole numbers beside gaps are written with a point
        values = [re.sub(r"\.0*$", "", v) if v and float(v) % 1 == 0 and "e" not in v.lower() else v for v in values]
    _one_label_each(path, table, values, words)
    given = [v for v in values if fold(v) not in words]
    _check_labels(path, sheet.header[labels_at], given, chosen=column is not None)
    labels = np.array([values[i] or None if i >= 0 else None for i in match.found] + [None], dtype=object)[:-1]
    remarks = [*sheet.remarks, *([match.remark] if match.remark else [])]
    found = {table[i] for i in match.found if i >= 0}
    lost = [spot for spot in dict.fromkeys(table) if spot not in found]
    if lost:
        remarks.append(f"{len(lost)} of {len(set(table))} barcodes are not in the data (first: {lost[0]!r})")
    return Table(labels, list(dict.fromkeys(v for v in values if v)), remarks)


def _barcodes(sheet: Sheet, known: list[str]) -> tuple[int, Sheet, Match]:
    """Column of the barcodes, the table with its first line among the rows if that is a spot, and who is who."""
    columns = [[row[j] for row in sheet.rows] for j in range(len(sheet.header))]
    ranks = [_rank(name) for name in sheet.header]
    counted = [j for j in range(len(columns)) if _row_numbers(sheet.header[j], columns[j])]
    # of columns with as many hits, one that only counts rows comes last, then the name decides
    every = sorted(range(len(columns)), key=lambda j: (j in counted, ranks[j]))
    called = [j for j in every if ranks[j] < len(_BARCODE)]
    others = [j for j in every if j not in called and j not in counted]
    # row numbers are the names of spots only where no column is called so
    for group in (called, others, [] if called else every):
        exact = {j: match_exactly(known, columns[j]) for j in group}
        best = max(exact, key=lambda j: exact[j].n, default=-1)
        if best >= 0 and exact[best].n:
            return _with_first_line(sheet, best, known, exact[best])
    several = ""
    for j in [*called, *others]:
        match = match_names(known, columns[j])
        if match.n:
            return _with_first_line(sheet, j, known, match)
        several = several or match.several
    at = [*called, *others, 0][0]
    return at, sheet, Match([-1] * len(known), several=several)


def _with_first_line(sheet: Sheet, at: int, known: list[str], match: Match) -> tuple[int, Sheet, Match]:
    with_header = [sheet.header[at], *(row[at] for row in sheet.rows)]
    again = match_names(known, with_header)
    if 0 not in again.found or again.remark != match.remark:
        return at, sheet, match
    header = [f"column {i + 1}" for i in range(len(sheet.header))]
    return at, Sheet(header, [sheet.header, *sheet.rows], sheet.remarks), again


def _rank(name: str) -> int:
    """Place of a column's name in the list of those that hold barcodes."""
    return next((i for i, pattern in enumerate(_BARCODE) if pattern.fullmatch(_plain(name))), len(_BARCODE))


def _plain(name: str) -> str:
    return re.sub(r"[\s.-]+", "_", name.strip().lstrip("#")).casefold()


def _row_numbers(name: str, values: list[str]) -> bool:
    """Whether a column only counts the rows: without a name of its own, or 0, 1, 2, .. in this order."""
    try:
        numbers = [int(v) for v in values]
    except ValueError:
        return False
    start = numbers[0] if numbers else 0
    in_order = start in (0, 1) and numbers == list(range(start, start + len(numbers)))
    return in_order or _ROW_NUMBER.fullmatch(_plain(name)) is not None


def _nothing_found(path: Path, table: list[str], known: list[str], match: Match) -> str:
    text = (
        f"{path}: none of its {len(set(table))} barcodes (first: {next(iter(table), None)!r}) is a spot of the data "
        f"(first: {known[0] if known else None!r}). "
    )
    if match.several:
        return text + f"{match.several}: give a file for each, {{section: path}}, with section_key=."
    return text + (
        "The file belongs to another section, or the barcodes were changed by more than a suffix (-1) or a sample "
        "prefix, the same for all."
    )


def _label_column(path: Path, sheet: Sheet, spots_at: int, *, key: str, column: str | None) -> int:
    header = sheet.header
    usable = {
        j: name
        for j, name in enumerate(header)
        if j != spots_at
        and not (_ROW_NUMBER.fullmatch(_plain(name)) and _row_numbers(name, [r[j] for r in sheet.rows]))
    }
    shown = ", ".join(usable.values()) or "none"
    for wanted in (column, key):
        at = [j for j, name in usable.items() if wanted is not None and name == wanted.strip()]
        if len(at) > 1:
            raise ValueError(f"{path}: {len(at)} columns are called {wanted!r}; rename one of them.")
        if at:
            return at[0]
        if wanted is not None and wanted == column:
            raise ValueError(f"{path} has no column {column!r}; there are: {shown}.")
    if not usable:
        raise ValueError(f"{path}: there is no column with labels beside {header[spots_at]!r}.")
    if len(usable) == 1:
        return next(iter(usable))
    raise ValueError(f"{path}: which column holds the labels? Choose with column=: {shown}.")


def _one_label_each(path: Path, table: list[str], values: list[str], words: Iterable[str]) -> None:
    first: dict[str, str | None] = {}
    for spot, value in zip(table, values, strict=True):
        label = None if fold(value) in words else value
        if first.setdefault(spot, label) != label:
            raise ValueError(f"{path}: {spot!r} has two labels, {first[spot]!r} and {label!r}; remove one of them.")


def _check_labels(path: Path, name: str, values: Sequence[str], *, chosen: bool) -> None:
    """Raise where a column holds names or measurements, or counts that nobody asked for."""
    distinct = set(values)
    if len(distinct) > _FEW and len(distinct) > len(values) / 2:
        raise ValueError(
            f"{path}: column {name!r} has {len(distinct)} labels on {len(values)} spots; it looks like names or "
            "measurements, not layers."
        )
    if not distinct or not all(map(is_number, distinct)):
        return
    decimal = any(float(v) % 1 != 0 for v in distinct)
    most = (_FEW if chosen else 0) if decimal else len(values) if chosen else 5 * _FEW
    if len(distinct) > most:
        way_out = "" if chosen else " If these are classes all the same, name the column with column=."
        raise ValueError(
            f"{path}: column {name!r} holds {len(distinct)} different numbers on {len(values)} spots, which are "
            f"measurements, not labels.{way_out}"
        )
