"""Tables of barcode and label: Loupe Browser exports, spreadsheets."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ._table import read_rows

_BARCODE = ("barcode", "barcodes", "spot", "spot_id", "cell", "cell_id", "cellid", "obs_names", "index", "id", "")
_MISSING = {"", "na", "n/a", "nan", "none", "null", "undefined", "unlabeled", "unlabelled"}
_SUFFIX = re.compile(r"-\d+$")


def read_barcodes(
    path: Path, names: pd.Index, *, key: str, column: str | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels for the spots called ``names``.

    The barcode is the column of that name (any case, ``spot`` and ``cell_id`` too), else the one that has most of
    ``names``; the label is ``column``, else the column called ``key``, else the only other one. The lane suffix ``-1``
    may be missing on either side. A table without header is recognised by a first line that is a spot.

    Returns
    -------
    labels
        object ``(n_obs,)``, `None` where the table says nothing.
    order
        Labels as they first appear.
    remarks
        Rows and spots that found no partner.

    Raises
    ------
    ValueError
        No spot of the table is in ``names``; several columns to choose from; a spot with two labels.
    """
    header, rows = _rows(path)
    known = set(names)
    if any(field in known for field in header):
        rows = [header, *rows]
        header = [f"column {i + 1}" for i in range(len(header))]
    width = len(header)
    for i, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"{path}, row {i + 1}: {len(row)} columns, but the header names {width}.")
    spots_at = _barcode_column(header, rows, known)
    labels_at = _label_column(path, header, spots_at, key=key, column=column)
    spots = [row[spots_at].strip() for row in rows]
    values = [row[labels_at].strip() for row in rows]
    table: dict[str, str | None] = {}
    for spot, value in zip(spots, values, strict=True):
        label = None if value.lower() in _MISSING else value
        if table.setdefault(spot, label) != label:
            raise ValueError(f"{path}: {spot!r} has two labels, {table[spot]!r} and {label!r}; remove one of them.")
    found, remarks = match_barcodes(names, table, path)
    order = list(dict.fromkeys(v for v in table.values() if v is not None))
    return found, order, remarks


def match_barcodes(names: pd.Index, table: Mapping[str, str | None], path: Path) -> tuple[np.ndarray, list[str]]:
    """Labels of the spots called ``names`` from those of barcodes, and a remark on barcodes without a spot.

    Raises
    ------
    ValueError
        No barcode is a spot.
    """
    found, matched = _match(names, table)
    if not matched:
        raise ValueError(
            f"{path}: none of its {len(table)} barcodes (first: {next(iter(table), None)!r}) is a spot of the data "
            f"(first: {names[0]!r}). The file belongs to another section, or the barcodes were changed."
        )
    remarks = []
    lost = [spot for spot in table if spot not in matched]
    if lost:
        remarks.append(f"{len(lost)} of {len(table)} barcodes are not in the data (first: {lost[0]!r})")
    return found, remarks


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError):
        # gzipped, or not text: the reader of count tables says what is wrong
        read = [fields for _, fields in read_rows(path)]
        return read[0], read[1:]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{path}: the file is empty.")
    delimiter = max("\t,;", key=lines[0].count)
    if delimiter not in lines[0]:
        raise ValueError(f"{path}: one column only. Expected barcode and label, separated by comma, tab or semicolon.")
    rows = list(csv.reader(lines, delimiter=delimiter))
    if len(rows) < 2:
        raise ValueError(f"{path}: a header and nothing below it.")
    return rows[0], rows[1:]


def _barcode_column(header: list[str], rows: list[list[str]], known: set[str]) -> int:
    hits = [sum(row[j].strip() in known for row in rows) for j in range(len(header))]
    if max(hits) > 0:
        return int(np.argmax(hits))
    lower = [h.strip().lower() for h in header]
    return next((lower.index(name) for name in _BARCODE if name in lower), 0)


def _label_column(path: Path, header: list[str], spots_at: int, *, key: str, column: str | None) -> int:
    others = [h.strip() for h in header]
    usable = [name for j, name in enumerate(others) if j != spots_at]
    if column is not None:
        if column not in usable:
            raise ValueError(f"{path} has no column {column!r}; there are: {', '.join(usable)}.")
        return others.index(column)
    if key in usable:
        return others.index(key)
    if len(usable) == 1:
        return 1 - spots_at
    raise ValueError(f"{path}: which column holds the labels? Choose with column=: {', '.join(usable)}.")


def _match(names: pd.Index, table: Mapping[str, str | None]) -> tuple[np.ndarray, set[str]]:
    """Exactly, else without the lane suffix where that leaves names distinct."""
    out, matched = _lookup(list(names), {spot: spot for spot in table}, table)
    if matched:
        return out, matched
    bare = [_SUFFIX.sub("", str(name)) for name in names]
    short = {_SUFFIX.sub("", spot): spot for spot in table}
    if len(set(bare)) == len(bare) and len(short) == len(table):
        return _lookup(bare, short, table)
    return out, matched


def _lookup(
    names: Sequence[str], spots: dict[str, str], table: Mapping[str, str | None]
) -> tuple[np.ndarray, set[str]]:
    out = np.array([None] * len(names), dtype=object)
    matched = set()
    for i, name in enumerate(names):
        if (spot := spots.get(name)) is not None:
            out[i] = table[spot]
            matched.add(spot)
    return out, matched
