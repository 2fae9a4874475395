"""GeoJSON polygons with a label, as QuPath writes them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_AREAS = ("Polygon", "MultiPolygon")


class Region(NamedTuple):
    """A labelled area; ``label`` is `None` where it has no class and no name."""

    label: str | None
    shape: Any  # shapely geometry, Polygon or MultiPolygon


def read_geojson(path: Path) -> tuple[list[Region], list[str]]:
    """Areas of a GeoJSON file in its own coordinates, and remarks on what was left out.

    The label is the classification of QuPath (``properties.classification.name``, or ``names`` of a derived class),
    else ``properties.label``, ``class`` or ``name``. Cells, detections and tiles are not annotations; points and lines
    have no area.

    Raises
    ------
    ValueError
        Not GeoJSON, or no area in it.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
            stored = json.load(handle)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is not GeoJSON ({error}). In QuPath: File > Export objects as GeoJSON; the .qpdata file of a "
            "project cannot be read."
        ) from None
    regions: list[Region] = []
    left: dict[str, int] = {}
    for feature in _features(stored):
        kind, properties = _geometry(feature).get("type"), feature.get("properties") or {}
        object_type = str(properties.get("objectType", properties.get("object_type", "annotation"))).lower()
        if object_type not in ("annotation", "roi"):
            left[f"{object_type} objects"] = left.get(f"{object_type} objects", 0) + 1
        elif kind not in (*_AREAS, "GeometryCollection"):
            left[f"{kind} objects"] = left.get(f"{kind} objects", 0) + 1
        else:
            shape = area_of(_shape(feature, path))
            if shape is None:
                left["empty objects"] = left.get("empty objects", 0) + 1
            else:
                regions.append(Region(_label(properties), shape))
    remarks = [f"{n} {what} are no areas to label spots by and are left out" for what, n in left.items()]
    if not regions:
        raise ValueError(f"{path}: no polygons" + (f" ({'; '.join(remarks)})." if remarks else "."))
    return regions, remarks


def area_of(shape: Any) -> Any | None:
    """The polygons of a geometry, made valid (QuPath allows outlines that cross themselves); `None` without any."""
    import shapely

    shape = shapely.make_valid(shape)
    parts = [
        p for p in shapely.get_parts(shapely.get_parts(shape)) if shapely.get_type_id(p) == shapely.GeometryType.POLYGON
    ]
    if not parts or sum(p.area for p in parts) == 0:
        return None
    return parts[0] if len(parts) == 1 else shapely.unary_union(parts)


def _features(stored: Any) -> Iterator[dict[str, Any]]:
    """Features of a collection, a list (older QuPath), a single feature, or a bare geometry."""
    if isinstance(stored, list):
        for item in stored:
            yield from _features(item)
    elif isinstance(stored, dict) and isinstance(stored.get("features"), list):
        yield from _features(stored["features"])
    elif isinstance(stored, dict) and stored.get("type") == "Feature":
        yield stored
    elif isinstance(stored, dict) and ("coordinates" in stored or "geometries" in stored):
        yield {"type": "Feature", "geometry": stored, "properties": {}}


def _geometry(feature: dict[str, Any]) -> dict[str, Any]:
    geometry = feature.get("geometry")
    return geometry if isinstance(geometry, dict) else {"type": "empty"}


def _shape(feature: dict[str, Any], path: Path) -> Any:
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        made = shape(_geometry(feature))
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: a polygon cannot be read ({' '.join(str(error).split())}).") from None
    if not np.isfinite(made.bounds).all() and not made.is_empty:
        raise ValueError(f"{path}: a polygon has coordinates that are not finite.")
    return made


def _label(properties: dict[str, Any]) -> str | None:
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = found.get("name") or (": ".join(map(str, names)) if isinstance(names, list) and names else None)
    for value in (found, properties.get("label"), properties.get("class"), properties.get("name")):
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None
