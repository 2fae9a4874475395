"""Spots by point in polygon, and polygons from SpatialData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from st_concepts._slots import KEYS

from .geojson import Region
from .geojson_geometry import area_of
from .geojson_label import as_label, no_text
from .napari import LABEL_COLUMNS

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_SECTION_COLUMNS = (KEYS.BATCH, "library_id", "sample")

Overlap = Literal["smallest", "error", "none"]


def spots_in(
    regions: list[Region], points: np.ndarray, *, overlap: Overlap, where: str, frames: dict[str | float, float]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Label of each spot whose centre is in a polygon or on its edge, in the frame of ``points`` ``(n_obs, 2)``.

    ``frames`` are other scales that the polygons could be in, by name or number, to be named in an error. Gives labels,
    object ``(n_obs,)`` with `None` where a spot is in no polygon; labels in the order of the file; and remarks.
    """
    import shapely

    named, remarks = _named(regions, where)
    finite = np.isfinite(points).all(1)
    if not finite.any():
        raise ValueError(f"{where}: none of the {len(points)} spots has finite coordinates in obsm['spatial'].")
    if not finite.all():
        remarks.append(f"{int((~finite).sum())} spots without finite coordinates get no label")
    tree = shapely.STRtree(shapely.points(np.where(finite[:, None], points, 0.0)))
    # the edge counts as inside: neighbouring outlines share it
    polygon, spot = tree.query([r.shape for r in named], predicate="intersects")
    polygon, spot = polygon[finite[spot]], spot[finite[spot]]
    if not spot.size:
        raise ValueError(_wrong_frame(named, points[finite], where, frames))
    remarks += _likelier_frame(named, points[finite], len(np.unique(spot)), frames)
    area = np.array([r.shape.area for r in named])
    best = np.full(len(points), -1)  # the polygon of least area: an outline drawn within another
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


def _named(regions: list[Region], where: str) -> tuple[list[Region], list[str]]:
    """Regions that have a label, and a remark where others have none."""
    named = [r for r in regions if r.label is not None]
    if not named:
        raise ValueError(f"{where}: none of its {len(regions)} polygons has a class or a name; set one for each layer.")
    if bad := next((r.label for r in named if r.label and no_text(r.label)), None):
        raise ValueError(f"{where}: the label {bad[:60]!a} has a character that is no text; correct it in the file.")
    left = len(regions) - len(named)
    return named, [f"{left} polygons without a class are ignored"] if left else []


def plane_of(stored: Any) -> np.ndarray:
    """``obsm["spatial"]`` as float64 ``(n_obs, 2)``; `ValueError` where it has other than numbers, or one column."""
    try:
        points = np.asarray(stored, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("obsm['spatial'] holds something that is no number.") from None
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"obsm['spatial'] has the shape {points.shape}; two columns, x and y, are needed.")
    return points[:, :2]


def _likelier_frame(regions: list[Region], points: np.ndarray, hit: int, frames: dict[str | float, float]) -> list[str]:
    """A remark where few spots are in an outline, but many would be if it was drawn on a reduced image."""
    import shapely

    if hit > 0.1 * len(points) or not frames:
        return []
    everything = shapely.union_all([r.shape for r in regions])
    shapely.prepare(everything)
    for name, factor in frames.items():
        if factor != 1 and (n := int(shapely.intersects_xy(everything, *(points * factor).T).sum())) >= 5 * hit:
            return [
                f"only {hit} of {len(points)} spots are in an outline, with scale={name!r} it would be {n}; give that "
                "if the outlines were drawn on that image or in that unit"
            ]
    return []


def stacked(adata: AnnData, labelled: np.ndarray) -> list[str]:
    """A remark where one drawing labels spots of several sections that lie over each other."""
    if KEYS.SPATIAL not in adata.obsm:
        return []
    column = next((c for c in _SECTION_COLUMNS if c in adata.obs and adata.obs[c].nunique() > 1), None)
    if column is None:
        return []
    points = plane_of(adata.obsm[KEYS.SPATIAL])
    usable = np.isfinite(points).all(1)
    boxes = {
        str(name): (points[rows].min(0), points[rows].max(0))
        for name, index in adata.obs.groupby(column, observed=True).indices.items()
        if labelled[rows := index[usable[index]]].any()
    }
    names = list(boxes)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            low, high = np.maximum(boxes[one][0], boxes[other][0]), np.minimum(boxes[one][1], boxes[other][1])
            smaller = min(float(np.prod(b[1] - b[0])) for b in (boxes[one], boxes[other]))
            if (high > low).all() and np.prod(high - low) > 0.5 * smaller:
                return [
                    f"spots of several sections that lie over each other are labelled ({column}: {one}, {other}); "
                    "if the drawing is of one of them, read it into that section alone"
                ]
    return []


def _box(low: np.ndarray, high: np.ndarray) -> str:
    return f"x {low[0]:.6g}..{high[0]:.6g}, y {low[1]:.6g}..{high[1]:.6g}"


def _wrong_frame(regions: list[Region], points: np.ndarray, where: str, frames: dict[str | float, float]) -> str:
    import shapely

    bounds = np.array(shapely.total_bounds([r.shape for r in regions]))
    text = (
        f"{where}: no polygon touches any spot. The polygons span {_box(bounds[:2], bounds[2:])}, the spots "
        f"{_box(points.min(axis=0), points.max(axis=0))}. "
    )
    everything = shapely.union_all([r.shape for r in regions])
    shapely.prepare(everything)
    for name, factor in frames.items():
        if shapely.intersects_xy(everything, *(points * factor).T).any():
            return text + f"They fit if scale={name!r} is given: they were drawn on that image or in that unit."
    if shapely.intersects_xy(everything, points[:, 1], points[:, 0]).any():
        return text + "They fit if x and y are swapped: correct that in the file."
    if shapely.intersects_xy(everything, points[:, 0], -points[:, 1]).any():
        return text + "They fit if y is counted downwards: change its sign in the file."
    return (
        text + "They were drawn on another image or in another unit; give scale= (their pixels per unit of the spots)."
    )


def read_shapes(
    sdata: SpatialData, element: str | None, column: str | None, system: str | None
) -> tuple[list[Region], list[str]]:
    """Polygons of a shapes element in a coordinate system."""
    import spatialdata as sd

    from st_concepts.io._readers.others import others_warnings
    from st_concepts.io._readers.spatialdata import coordinate_system

    names = list(sdata.shapes)
    if element is None and len(names) == 1:
        element = names[0]
    if element not in names:
        what = "choose one" if element is None else f"not {element!r}"
        raise ValueError(f"element= names the shapes with the layers, {what}; there are: {', '.join(names) or 'none'}.")
    frame = sdata.shapes[element]
    usable = [c for c in frame.columns if c not in ("geometry", "radius")]
    column = column or next((c for c in LABEL_COLUMNS if c in usable), usable[0] if len(usable) == 1 else None)
    if column not in usable:
        raise ValueError(
            f"column= names the label of each shape of {element!r}; there are: {', '.join(usable) or 'none'}."
        )
    with others_warnings():
        moved = sd.transform(frame, to_coordinate_system=system or coordinate_system(frame))
    shapes = moved.geometry.buffer(moved["radius"]) if "radius" in moved else moved.geometry
    values = frame[column]
    regions = [
        Region(None if missing else as_label(value) or str(value).strip() or None, made)
        for value, missing, shape in zip(values, values.isna(), shapes, strict=True)
        if (made := area_of(shape)) is not None
    ]
    if not regions:
        raise ValueError(f"The shapes {element!r} hold no polygons.")
    lost = len(frame) - len(regions)
    return regions, [f"{lost} shapes of {element!r} without an area are left out"] if lost else []
