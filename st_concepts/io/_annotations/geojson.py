"""GeoJSON polygons with a label, as QuPath, GeoPandas and others write them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .drawn_text import read_text
from .geojson_geometry import areas_in
from .geojson_label import as_label, labels_of

# QuPath's objects that are no annotations, by the names of its versions: "PathCellObject" before 0.3, then "cell"
_NO_ANNOTATIONS = {
    "cell": "cell",
    "detection": "detection",
    "tile": "tile",
    "tmacore": "TMA core",
    "root": "root",
    "pathcellobject": "cell",
    "pathdetectionobject": "detection",
    "pathtileobject": "tile",
    "tmacoreobject": "TMA core",
    "pathtmacoreobject": "TMA core",
    "pathrootobject": "root",
}


class Region(NamedTuple):
    """A labelled area; ``label`` is `None` where it has no class and no name."""

    label: str | None
    shape: Any  # shapely geometry, Polygon or MultiPolygon


class _Drawn(NamedTuple):
    properties: dict[str, Any]
    shape: Any


def read_geojson(
    path: Path, *, key: str | None = None, column: str | None = None, label: str | None = None
) -> tuple[list[Region], list[str]]:
    """Areas of a GeoJSON file in its own coordinates, and remarks on what was left out.

    Read are a collection, a list of features, a single feature, a bare geometry, and one of these a line. The label is
    the property ``column``, else the classification of QuPath, else a property that is called like a label
    (`labels_of`), else ``label``. Cells, detections, tiles, cores of an array and the root of QuPath are no
    annotations; points and lines have no area; classes that QuPath ignores (``Ignore*``) are no layers.
    """
    drawn, left, planes = _annotations(path)
    remarks = [f"{n} {what} are no areas to label spots by and are left out" for what, n in left.items()]
    if len(planes) > 1:
        remarks.append(f"the outlines lie in {len(planes)} planes (z, t) and are used as if in one")
    if not drawn:
        raise ValueError(f"{path}: no polygons" + (f" ({'; '.join(remarks)})." if remarks else "."))
    labels = labels_of([d.properties for d in drawn], key=key, column=column, label=label, where=str(path))
    regions = [
        Region(value, d.shape)
        for d, value, ignored in zip(drawn, labels.values, labels.ignored, strict=True)
        if not ignored
    ]
    if any(labels.ignored):
        names = dict.fromkeys(str(v) for v, yes in zip(labels.values, labels.ignored, strict=True) if yes)
        text = f"{sum(labels.ignored)} polygons of classes that QuPath ignores ({', '.join(names)}) are left out"
        if not regions:
            raise ValueError(f"{path}: no polygons ({text}); rename the class in QuPath if it is a layer.")
        remarks.append(text)
    return regions, remarks + labels.remarks


def _annotations(path: Path) -> tuple[list[_Drawn], Counter[str], set[tuple[str, str]]]:
    drawn: list[_Drawn] = []
    left: Counter[str] = Counter()
    planes: set[tuple[str, str]] = set()
    for number, feature in enumerate(_features(_load(path), path), start=1):
        where = f"{path}, feature {number}"
        properties = feature.get("properties")
        if properties is None:
            properties = {}
        if not isinstance(properties, dict):
            raise ValueError(f"{where}: its properties are no object of names and values; this is not GeoJSON.")
        if (kind := _other_object(feature, properties)) is not None:
            left[f"{kind} objects"] += 1
            continue
        geometry = feature.get("geometry")
        try:
            shape, more = areas_in(geometry)
        except ValueError as error:
            raise ValueError(f"{where}: a polygon cannot be read ({error}).") from None
        left += more
        if shape is not None:
            drawn.append(_Drawn(properties, shape))
            plane = geometry.get("plane") if isinstance(geometry, dict) else None
            if isinstance(plane, dict):
                planes.add((as_label(plane.get("z")) or "0", as_label(plane.get("t")) or "0"))
    return drawn, left, planes


def _other_object(feature: dict[str, Any], properties: dict[str, Any]) -> str | None:
    """What kind of object of QuPath it is, `None` for an annotation and for what QuPath takes for one."""
    stated = properties.get("objectType", properties.get("object_type"))
    if isinstance(stated, str):
        return _NO_ANNOTATIONS.get(_plain(stated))
    # "type" may be a property of anyone's, so only QuPath's own words count
    for name in (properties.get("type"), feature.get("id")):
        if isinstance(name, str) and _plain(name).removeprefix("path").removesuffix("object") == "annotation":
            return None
        if isinstance(name, str) and _plain(name) in _NO_ANNOTATIONS:
            return _NO_ANNOTATIONS[_plain(name)]
    return "cell" if feature.get("nucleusGeometry") is not None else None


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace(" ", "")


def _features(stored: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Features of a collection, a list (older QuPath), a single feature, or a bare geometry, in the order of the file.

    Children that QuPath wrote inside of an object follow it.
    """
    if not isinstance(stored, (dict, list)):
        raise ValueError(f"{path} is not GeoJSON: it holds a single value.")
    waiting, number = [stored], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
            continue
        number += 1
        if not isinstance(item, dict):
            raise ValueError(f"{path}, feature {number}: not GeoJSON, where an object was expected.")
        kind = item.get("type")
        if kind == "FeatureCollection" or (kind is None and isinstance(item.get("features"), list)):
            number -= 1
            members = item.get("features")
            if not isinstance(members, list):
                raise ValueError(f"{path} is not GeoJSON: its features are no list.")
            waiting.extend(reversed(members))
        elif kind == "Feature" or "geometry" in item:
            yield item
            properties = item.get("properties")
            for name in ("childObjects", "children"):
                if isinstance(properties, dict) and isinstance(properties.get(name), list):
                    waiting.extend(reversed([c for c in properties[name] if isinstance(c, dict) and "geometry" in c]))
        elif "coordinates" in item or "geometries" in item:
            yield {"type": "Feature", "geometry": item, "properties": {}}
        else:
            names = ", ".join(str(n)[:30] for n in list(item)[:6]) or "none"
            raise ValueError(
                f"{path} is not GeoJSON: an object with the names {names}, not a feature or a geometry. In QuPath: "
                "File > Export objects as GeoJSON."
            )


def _load(path: Path) -> Any:
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is not GeoJSON: the file is empty.")
    try:
        return _parse(text)
    except RecursionError:
        raise ValueError(f"{path} is not GeoJSON: it is nested too deeply.") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory; export the outlines of the layers alone.") from None
    except ValueError as error:
        raise ValueError(
            f"{path} is not GeoJSON ({error}). In QuPath: File > Export objects as GeoJSON; the .qpdata file of a "
            "project cannot be read."
        ) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as first:
        # one feature a line, with the separator of RFC 8142 or without
        lines = [bare for line in text.split("\n") if (bare := line.strip().strip("\x1e"))]
        if len(lines) < 2 or not lines[0].startswith(("{", "[")) or not lines[0].endswith(("}", "]")):
            raise
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            raise first from None
