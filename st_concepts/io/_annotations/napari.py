"""Polygons that were drawn in napari."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from .drawn_table import corners, one_value, read_table, stem
from .geojson import Region
from .geojson_geometry import DEGENERATE, area_of

_COLUMNS = {"index", "shape-type", "vertex-index"}
LABEL_COLUMNS = ("label", "classification", "class", "name", "annotation", "region", "layer")
_AREAS = ("polygon", "rectangle", "ellipse")


def is_napari(header: list[str]) -> bool:
    """Whether a CSV has the columns of a napari shapes layer."""
    return {"shape-type", "vertex-index"} <= {h.strip() for h in header}


def read_napari(path: Path, label: str | None, column: str | None = None) -> tuple[list[Region], list[str]]:
    """Shapes of a napari layer saved as CSV; such a file has no labels, so they come from a column or the file name."""
    rows = read_table(path)
    # napari counts axes as rows, columns; those before are planes
    axes = sorted((c for c in (rows[0] if rows else {}) if re.fullmatch(r"axis-\d{1,3}", c)), key=lambda c: int(c[5:]))
    if not rows or len(axes) < 2 or not set(rows[0]) >= _COLUMNS:
        raise ValueError(
            f"{path}: not a napari shapes layer; expected columns index, shape-type, vertex-index, axis-0, .."
        )
    if column is not None and column not in rows[0]:
        raise ValueError(f"{path} has no column {column!r}; there are: {', '.join(rows[0])}.")
    column = column or next((c for c in LABEL_COLUMNS if c in rows[0]), None)
    shapes: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        shapes.setdefault(row["index"], []).append(row)
    regions, lines, degenerate = [], 0, 0
    for number, vertices in shapes.items():
        where = f"{path}, shape {number}"
        xy = corners(_in_order(vertices), axes[-1], axes[-2], where)
        kind = vertices[0]["shape-type"].lower()
        if kind not in _AREAS:
            lines += 1
        elif xy is None or (made := _shape(kind, xy)) is None:
            degenerate += 1
        else:
            regions.append(Region(one_value(vertices, column, where) if column else label or stem(path), made))
    remarks = [f"{lines} lines and paths are no areas to label spots by and are left out"] if lines else []
    if degenerate:
        remarks.append(f"{degenerate} {DEGENERATE} are no areas to label spots by and are left out")
    if not regions:
        raise ValueError(
            f"{path}: no polygons, rectangles or ellipses" + (f" ({'; '.join(remarks)})." if remarks else ".")
        )
    if len({tuple(row[a] for a in axes[:-2]) for row in rows}) > 1:
        remarks.append("the shapes lie in several planes and are used as if in one")
    return regions, remarks


def _in_order(vertices: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows by their number of the vertex, as a spreadsheet may have sorted them otherwise."""
    if all(v["vertex-index"].isdecimal() for v in vertices):
        return sorted(vertices, key=lambda v: int(v["vertex-index"][:18]))
    return vertices


def _shape(kind: str, xy: np.ndarray) -> Any | None:
    import shapely

    if kind == "ellipse":
        if len(xy) != 4:
            return None
        # the four corners of the box around it, which may be rotated
        angle = np.linspace(0, 2 * np.pi, 181)[:-1, None]
        xy = xy.mean(0) + np.cos(angle) * (xy[1] - xy[0]) / 2 + np.sin(angle) * (xy[3] - xy[0]) / 2
    return area_of(shapely.Polygon(xy))
