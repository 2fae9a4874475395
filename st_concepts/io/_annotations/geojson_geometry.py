"""Areas of a GeoJSON geometry: what is no area is counted, what cannot be read is said."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

# pixels or micrometres; beyond it areas overflow, and nothing that was drawn is so large
_LARGEST = 1e12
DEGENERATE = "outlines with fewer than three corners or no area"
EMPTY = "empty objects"


def areas_in(geometry: Any) -> tuple[Any | None, Counter[str]]:
    """The polygons of a geometry as one shape, `None` without any, and how many parts of what kind are no areas.

    Collections may be nested; rings may be open; coordinates may have a third number, which is ignored.
    """
    import shapely

    left: Counter[str] = Counter()
    polygons: list[Any] = []
    waiting = [geometry]
    while waiting:
        item = waiting.pop()
        if item is None or item == {}:
            left[EMPTY] += 1
            continue
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise ValueError(f"{short(item)} is no geometry")
        kind = item["type"]
        if kind == "GeometryCollection":
            waiting.extend(_list(item.get("geometries"), "geometries"))
        elif kind in ("Polygon", "MultiPolygon"):
            coordinates = _list(item.get("coordinates"), "coordinates")
            made = [_polygon(rings, left) for rings in ([coordinates] if kind == "Polygon" else coordinates)]
            polygons += [p for p in made if p is not None]
        else:
            left[f"{kind[:40]} objects"] += 1
    if not polygons:
        return None, left
    return polygons[0] if len(polygons) == 1 else shapely.union_all(polygons), left


def area_of(shape: Any) -> Any | None:
    """The polygons of a geometry, made valid (QuPath allows outlines that cross themselves); `None` without any."""
    import shapely

    if shape is None:
        return None
    try:
        flat, waiting = [], [shapely.make_valid(shape)]
        while waiting:
            part = waiting.pop()
            if shapely.get_type_id(part) == shapely.GeometryType.POLYGON:
                flat.append(part)
            elif hasattr(part, "geoms"):
                waiting.extend(part.geoms)
        if not flat or not sum(p.area for p in flat) > 0:
            return None
        return flat[0] if len(flat) == 1 else shapely.unary_union(flat)
    except shapely.errors.GEOSException as error:
        raise ValueError(f"its outline cannot be repaired: {' '.join(str(error).split())}") from None


def corners_of(xy: np.ndarray) -> np.ndarray | None:
    """Corners of an outline, `None` where fewer than three are distinct."""
    if not np.isfinite(xy).all():
        raise ValueError("a coordinate is not finite")
    if xy.size and np.abs(xy).max() > _LARGEST:
        raise ValueError(f"a coordinate is larger than {_LARGEST:g}")
    distinct: set[tuple[float, float]] = set()
    for x, y in xy:
        distinct.add((float(x), float(y)))
        if len(distinct) == 3:
            return xy
    return None


def _polygon(rings: Any, left: Counter[str]) -> Any | None:
    """Outline and holes; a hole without area is none."""
    import shapely

    read = [_ring(ring) for ring in _list(rings, "a polygon")]
    if not read:
        left[EMPTY] += 1
        return None
    outline, holes = read[0], [r for r in read[1:] if r is not None]
    made = None if outline is None else area_of(shapely.Polygon(outline, holes))
    if made is None:
        left[DEGENERATE] += 1
    elif len(holes) < len(read) - 1:
        left["holes with fewer than three corners"] += len(read) - 1 - len(holes)
    return made


def _ring(ring: Any) -> np.ndarray | None:
    positions = _list(ring, "a ring")
    flat = []
    for position in positions:
        if not isinstance(position, list) or len(position) < 2:
            raise ValueError(f"{short(position)} is no position; expected [x, y]")
        flat += [_number(position[0]), _number(position[1])]
    return corners_of(np.array(flat, dtype=np.float64).reshape(-1, 2))


def _number(value: Any) -> float:
    # a bool is an int to Python, and a text may read as a number; neither is a coordinate
    if type(value) is not int and type(value) is not float:
        raise ValueError(f"{short(value)} is no number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {short(value)}")
    return value


def short(value: Any) -> str:
    """A value in a few characters; containers by their kind, as they may be large or deep."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
