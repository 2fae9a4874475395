"""Outlines in CSV tables: the reading that napari and Xenium Explorer have in common."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from .drawn_text import read_text
from .geojson_geometry import corners_of


def table_rows(text: str, path: Path) -> list[dict[str, str]]:
    """Rows of a table by the names of its header, blank lines left out."""
    lines = text.splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[dict[str, str]] = []
    names: list[str] = []
    try:
        for fields in reader:
            if not any(f.strip() for f in fields):
                continue
            if not names:
                # a spreadsheet pads with empty columns
                names = [f.strip() for f in fields]
                while not names[-1]:
                    names.pop()
                if len(set(names)) < len(names):
                    raise ValueError(f"{path}: a column name occurs twice in the header.")
            elif len(fields) < len(names) or any(f.strip() for f in fields[len(names) :]):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(fields)} columns, but the header names {len(names)}."
                )
            else:
                rows.append({n: f.strip() for n, f in zip(names, fields, strict=False)})
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a table ({error}).") from None
    return rows


def read_table(path: Path) -> list[dict[str, str]]:
    """`table_rows` of a file."""
    return table_rows(read_text(path), path)


def corners(rows: list[dict[str, str]], x: str, y: str, where: str) -> np.ndarray | None:
    """Corners of one outline, `None` where fewer than three are distinct."""
    xy = np.empty((len(rows), 2))
    for i, row in enumerate(rows):
        for j, name in enumerate((x, y)):
            try:
                xy[i, j] = float(row[name])
            except ValueError:
                raise ValueError(
                    f"{where}: corner {i + 1} has no number in {name} ({row[name][:40]!r}); correct or remove it."
                ) from None
    try:
        return corners_of(xy)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; correct or remove the shape.") from None


def one_value(rows: list[dict[str, str]], column: str, where: str) -> str | None:
    """What the rows of an outline have in a column, `None` where that is nothing; it may stand in one of them only."""
    values = list(dict.fromkeys(row[column] for row in rows if row[column]))
    if len(values) > 1:
        raise ValueError(f"{where}: its corners have different values in {column}, {values[0]!r} and {values[1]!r}.")
    return values[0] if values else None


def stem(path: Path) -> str:
    """Name of a file without its ending, and without that of its packing."""
    return Path(path.name.removesuffix(".gz")).stem
