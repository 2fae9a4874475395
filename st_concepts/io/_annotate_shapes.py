"""Spots by point in polygon, and polygons from napari and SpatialData."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._geojson import Region, area_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

Overlap = Literal["smallest", "error", "none"]
_NAPARI = ("index", "shape-type", "vertex-index")
_LABEL_COLUMNS = ("label", "classification", "class", "name", "annotation", "region", "layer")


def spots_in(
    regions: list[Region], points: np.ndarray, *, overlap: Overlap, where: str, frames: dict[str, float]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Label of each spot whose centre is in a polygon or on its edge.

    Parameters
    ----------
    regions
        Polygons in the frame of ``points``; those without a label are ignored.
    points
        float64 ``(n_obs, 2)``.
    overlap
        For a spot in polygons of different labels: ``"smallest"`` takes the label of the polygon of least area (an
        outline drawn within another), ``"none"`` leaves it unlabelled, ``"error"`` raises.
    where
        Name of the annotation, for messages.
    frames
        Other scales that the polygons could be in, by name, to be named in the error.

    Returns
    -------
    labels
        object ``(n_obs,)``, `None` where a spot is in no polygon.
    order
        Labels in the order of the file, those without a spot included.
    remarks
        What a person should know.

    Raises
    ------
    ValueError
        No polygon touches any spot (with both bounding boxes); no polygon has a label; overlap where that is an error.
    """
    import shapely

    named = [r for r in regions if r.label is not None]
    remarks = []
    if not named:
        raise ValueError(f"{where}: none of its {len(regions)} polygons has a class or a name; set one for each layer.")
    if len(named) < len(regions):
        remarks.append(f"{len(regions) - len(named)} polygons without a class are ignored")
    finite = np.isfinite(points).all(1)
    tree = shapely.STRtree(shapely.points(np.where(finite[:, None], points, 0.0)))
    # the edge counts as inside: neighbouring outlines share it
    polygon, spot = tree.query([r.shape for r in named], predicate="intersects")
    polygon, spot = polygon[finite[spot]], spot[finite[spot]]
    if not spot.size:
        raise ValueError(_wrong_frame(named, points, where, frames))
    area = np.array([r.shape.area for r in named])
    best = np.full(len(points), -1)
    by_size = np.argsort(-area[polygon], kind="stable")
    best[spot[by_size]] = polygon[by_size]
    labels = np.array([None] * len(points), dtype=object)
    names = np.array([r.label for r in named], dtype=object)
    labels[best >= 0] = names[best[best >= 0]]
    several = np.unique(spot[names[polygon] != labels[spot]])
    if several.size:
        if overlap == "error":
            both = sorted(set(names[polygon[spot == several[0]]]))
            raise ValueError(
                f"{where}: {several.size} spots are in polygons of different labels (the first in {', '.join(both)}); "
                "correct the outlines, or choose overlap='smallest' or 'none'."
            )
        what = "take that of the smallest" if overlap == "smallest" else "get no label"
        remarks.append(f"{several.size} spots are in polygons of different labels and {what}")
        if overlap == "none":
            labels[several] = None
    order = list(dict.fromkeys(names))
    empty = [name for name in order if not (labels == name).any()]
    if empty:
        remarks.append(f"no spot is in {', '.join(empty)}")
    return labels, order, remarks


def _box(low: np.ndarray, high: np.ndarray) -> str:
    return f"x {low[0]:.6g}..{high[0]:.6g}, y {low[1]:.6g}..{high[1]:.6g}"


def _wrong_frame(regions: list[Region], points: np.ndarray, where: str, frames: dict[str, float]) -> str:
    import shapely

    bounds = np.array(shapely.total_bounds([r.shape for r in regions]))
    text = (
        f"{where}: no polygon touches any spot. The polygons span {_box(bounds[:2], bounds[2:])}, the spots "
        f"{_box(np.nanmin(points, axis=0), np.nanmax(points, axis=0))}. "
    )
    everything = shapely.union_all([r.shape for r in regions])
    shapely.prepare(everything)
    for name, factor in frames.items():
        if shapely.intersects_xy(everything, *(points * factor).T).any():
            return text + f"They fit if scale={name!r} is given: they were drawn on that image."
    if shapely.intersects_xy(everything, points[:, 1], points[:, 0]).any():
        return text + "They fit if x and y are swapped: correct that in the file."
    return (
        text + "They were drawn on another image or in another unit; give scale= (their pixels per unit of the spots)."
    )


def is_napari(header: list[str]) -> bool:
    """Whether a CSV has the columns of a napari shapes layer."""
    return {"shape-type", "vertex-index"} <= {h.strip() for h in header}


def read_napari(path: Path, label: str | None) -> tuple[list[Region], list[str]]:
    """Shapes of a napari layer saved as CSV; such a file has no labels, so they come from a column or the file name."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    axes = sorted((c for c in (rows[0] if rows else {}) if c and c.startswith("axis-")), key=lambda c: int(c[5:]))
    if not rows or len(axes) < 2 or not set(_NAPARI) <= set(rows[0]):
        raise ValueError(
            f"{path}: not a napari shapes layer; expected columns index, shape-type, vertex-index, axis-0, .."
        )
    column = next((c for c in _LABEL_COLUMNS if c in rows[0]), None)
    shapes: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        shapes.setdefault(row["index"], []).append(row)
    regions, lines = [], 0
    for corners in shapes.values():
        try:
            # napari counts axes as rows, columns
            xy = np.array([[float(c[axes[-1]]), float(c[axes[-2]])] for c in corners])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: a vertex is not a number ({error}).") from None
        made = _napari_shape(corners[0]["shape-type"], xy)
        if made is None:
            lines += 1
        else:
            regions.append(Region(corners[0][column] if column else label or path.stem, made))
    if not regions:
        raise ValueError(f"{path}: no polygons, rectangles or ellipses.")
    return regions, [f"{lines} lines and paths are no areas to label spots by and are left out"] if lines else []


def _napari_shape(kind: str, xy: np.ndarray) -> Any | None:
    import shapely

    if kind not in ("polygon", "rectangle", "ellipse") or len(xy) < 3:
        return None
    if kind == "ellipse":
        # the four corners of the box around it, which may be rotated
        angle = np.linspace(0, 2 * np.pi, 181)[:-1, None]
        xy = xy.mean(0) + np.cos(angle) * (xy[1] - xy[0]) / 2 + np.sin(angle) * (xy[3] - xy[0]) / 2
    return area_of(shapely.Polygon(xy))


def read_shapes(
    sdata: SpatialData, element: str | None, column: str | None, system: str | None
) -> tuple[list[Region], list[str]]:
    """Polygons of a shapes element in a coordinate system."""
    import spatialdata as sd

    from ._platform_10x import others_warnings
    from ._platform_spatialdata import coordinate_system

    names = list(sdata.shapes)
    if element is None and len(names) == 1:
        element = names[0]
    if element not in names:
        what = "choose one" if element is None else f"not {element!r}"
        raise ValueError(f"element= names the shapes with the layers, {what}; there are: {', '.join(names) or 'none'}.")
    frame = sdata.shapes[element]
    usable = [c for c in frame.columns if c not in ("geometry", "radius")]
    column = column or next((c for c in _LABEL_COLUMNS if c in usable), usable[0] if len(usable) == 1 else None)
    if column not in usable:
        raise ValueError(
            f"column= names the label of each shape of {element!r}; there are: {', '.join(usable) or 'none'}."
        )
    with others_warnings():
        moved = sd.transform(frame, to_coordinate_system=system or coordinate_system(frame))
    shapes = moved.geometry.buffer(moved["radius"]) if "radius" in moved else moved.geometry
    values = frame[column]
    regions = [
        Region(None if missing else str(value), made)
        for value, missing, shape in zip(values, values.isna(), shapes, strict=True)
        if (made := area_of(shape)) is not None
    ]
    if not regions:
        raise ValueError(f"The shapes {element!r} hold no polygons.")
    return regions, []
