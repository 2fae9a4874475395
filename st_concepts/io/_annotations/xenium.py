"""Selections of Xenium Explorer: the corners of what was drawn, or the cells inside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .drawn_table import corners, one_value, stem, table_rows
from .drawn_text import read_text
from .geojson import Region
from .geojson_geometry import DEGENERATE, area_of

# of the instrument, micrometres; Xenium Explorer writes micrometres
XENIUM_PIXEL = 0.2125
_SELECTION, _X, _Y, _CLASS = "Selection", "X", "Y", "Class"
_CELL = ("Cell ID", "cell_id", "Cell_ID", "CellID")
_NO_CLASS = ("", "Unclassified")

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)

Matcher = Callable[[dict[str, str]], tuple[np.ndarray, list[str]]]


class Selection(NamedTuple):
    """One file: the name of its selection, where its lines of comment give one only, and the table below them."""

    path: Path
    name: str | None
    rows: list[dict[str, str]]

    @property
    def columns(self) -> list[str]:
        """Names in the header."""
        return list(self.rows[0]) if self.rows else []

    @property
    def cells(self) -> str | None:
        """Column of cells, `None` in a file of corners."""
        return next((c for c in self.columns if c in _CELL), None)


def is_selection(head: str) -> bool:
    """Whether a text begins as Xenium Explorer writes a selection."""
    lines = [line.strip().strip('"') for line in head.splitlines() if line.strip()]
    first = lines[0].replace('"', "") if lines else ""
    fields = [_fields(line) for line in [first, *lines[1:2]]]
    if first.lower().startswith("#selection") or fields[0][:3] == [_SELECTION, _X, _Y]:
        return True
    # without the lines of comment; a table of other things may have an X and a Y too
    return fields[0] == [_X, _Y] and len(fields) == 2 and all(_NUMBER.fullmatch(f) for f in fields[1])


def read_selection(path: Path) -> Selection:
    """Read one file."""
    lines = read_text(path).splitlines(keepends=True)
    comments = []
    while lines and (not lines[0].strip(' ,;\t\r\n"') or lines[0].lstrip(' "').startswith("#")):
        # a spreadsheet pads short lines with commas and quotes what holds one
        comments.append(lines.pop(0).strip().rstrip(",;\t").strip('" '))
    selection = Selection(path, _comment(comments, "selection name"), table_rows("".join(lines), path))
    if not {_X, _Y} <= set(selection.columns) and selection.cells is None:
        raise ValueError(
            f"{path}: not a selection of Xenium Explorer; expected the columns X, Y (its coordinates) or Cell ID (its "
            f"cells), found: {', '.join(selection.columns)[:200] or 'no rows'}."
        )
    _check_names(selection, _comment(comments, "selection names"))
    return selection


def selection_regions(
    selections: Sequence[Selection], label: str | None, column: str | None
) -> tuple[list[Region], list[str]]:
    """Outlines of files of corners, each called as its selection, or by ``column`` (``"Class"``)."""
    regions: list[Region] = []
    remarks = _shared_names(selections, label, column)
    degenerate, classes = 0, False
    for file in selections:
        _check_column(file, column)
        outlines: dict[str | None, list[dict[str, str]]] = {}
        for row in file.rows:
            outlines.setdefault(row.get(_SELECTION), []).append(row)
        for number, (name, rows) in enumerate(outlines.items(), start=1):
            where = f"{file.path}, selection {name or file.name or number}"
            xy = corners(rows, _X, _Y, where)
            if column is not None:
                one_value(rows, column, where)
            made = None if xy is None else _polygon(xy)
            classes = classes or rows[0].get(_CLASS, "") not in _NO_CLASS
            if made is None:
                degenerate += 1
            else:
                regions.append(Region(_label(file, rows[0], label, column), made))
    if degenerate:
        remarks.append(f"{degenerate} {DEGENERATE} are no areas to label spots by and are left out")
    if not regions:
        raise ValueError(f"{selections[0].path}: no selection with an area" + "".join(f" ({r})" for r in remarks) + ".")
    if classes and column is None:
        remarks.append(
            "the selections have classes too; the labels are the names of the selections, column='Class' takes the "
            "classes"
        )
    return regions, remarks


def selected_cells(
    selections: Sequence[Selection], match: Matcher, *, label: str | None, column: str | None, overlap: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """Label of each cell of the data from files of cells, with the labels in the order of the files and remarks.

    ``overlap`` decides for a cell in several selections, as in `spots_in`; the smallest has the fewest cells.
    """
    pairs: list[tuple[str, str]] = []
    for file in selections:
        _check_column(file, column)
        column_of_cells = file.cells
        for row in file.rows:
            name = _label(file, row, label, column)
            if column_of_cells is not None and name is not None and row[column_of_cells]:
                pairs.append((row[column_of_cells], name))
    order = list(dict.fromkeys(name for _, name in pairs))
    cells = pd.DataFrame(pairs, columns=["cell", "label"]).drop_duplicates()
    size = cells["label"].value_counts()
    table, several = {}, 0
    for cell, names in cells.groupby("cell", sort=False)["label"]:
        if len(names) > 1:
            several += 1
            if overlap == "error":
                raise ValueError(
                    f"{selections[0].path.parent}: cell {cell} is in {', '.join(sorted(names))}; correct the "
                    "selections, or choose overlap='smallest' or 'none'."
                )
            if overlap == "none":
                continue
        table[str(cell)] = min(names, key=lambda name: size[name])
    labels, remarks = match(table)
    remarks = [*remarks, *_shared_names(selections, label, column)]
    if several:
        what = "take that of the smallest" if overlap == "smallest" else "get no label"
        remarks = [*remarks, f"{several} cells are in selections of different labels and {what}"]
    return labels, order, remarks


def _fields(line: str) -> list[str]:
    return [f.strip() for f in line.replace(";", ",").replace("\t", ",").split(",")]


def _shared_names(selections: Sequence[Selection], label: str | None, column: str | None) -> list[str]:
    """A remark on a name that several files give to their selection, as those of Xenium Explorer begin at 1 anew."""
    if column is not None or label is not None:
        return []
    found = Counter(name for file in selections for name in {_label(file, row, None, None) for row in file.rows})
    return [f"{name!r} is the selection of {n} files, which become one label" for name, n in found.items() if n > 1]


def _comment(comments: list[str], wanted: str) -> str | None:
    for line in comments:
        title, colon, value = line.lstrip("# ").partition(":")
        if colon and title.strip().lower() == wanted:
            return value.strip() or None
    return None


def _check_names(selection: Selection, listed: str | None) -> None:
    """Two selections of one name cannot be told apart in the column; a name may hold a comma, so they are compared."""
    names = list(dict.fromkeys(row[_SELECTION] for row in selection.rows if row.get(_SELECTION)))
    counted = Counter(name.strip() for name in (listed or "").split(","))
    twice = [name for name in names if counted[name] > 1]
    if twice and ", ".join(names) != listed:
        raise ValueError(f"{selection.path}: two selections are called {twice[0]!r}; rename one in Xenium Explorer.")


def _label(file: Selection, row: dict[str, str], label: str | None, column: str | None) -> str | None:
    if column is not None:
        return None if column == _CLASS and row[column] in _NO_CLASS else row[column] or None
    return row.get(_SELECTION) or label or file.name or stem(file.path)


def _check_column(file: Selection, column: str | None) -> None:
    if column is not None and column not in file.columns:
        raise ValueError(f"{file.path} has no column {column!r}; there are: {', '.join(file.columns)}.")


def _polygon(xy: np.ndarray) -> object | None:
    import shapely

    return area_of(shapely.Polygon(xy))
