"""The label of an outline: the class that QuPath writes, or a property that another program wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from .geojson_geometry import short

_LABEL_PROPERTIES = ("layer", "label", "class", "annotation", "region", "name")
# written beside an outline by every program, and no label of it
_NO_LABELS = {"objecttype", "object_type", "islocked", "measurements", "metadata", "color", "nucleusgeometry"}
# where write_annotation keeps the label as it was: QuPath rewrites colons, and ignores a class with a star
LABEL_KEY = "st_concepts_label"


class Labels(NamedTuple):
    """A label for each outline."""

    values: list[str | None]
    ignored: list[bool]  # of a class that QuPath ignores
    remarks: list[str]


def labels_of(
    properties: Sequence[dict[str, Any]], *, key: str | None, column: str | None, label: str | None, where: str
) -> Labels:
    """Labels from ``column`` if given, else the classification of QuPath, else a property that is called like one.

    An outline without a class in a file with classes is labelled by its ``name``. Without any class the property is
    ``key``, else the first of ``layer``, ``label``, ``class``, ``annotation``, ``region``, ``name``. What has none of
    these is ``label``.
    """
    labels = _from_column(properties, column, where) if column is not None else _found(properties, key, label, where)
    return labels._replace(values=[label if value is None else value for value in labels.values])


def _found(properties: Sequence[dict[str, Any]], key: str | None, label: str | None, where: str) -> Labels:
    found = [_class_name(p.get("classification"), p) for p in properties]
    if any(name is not None for name in found):
        remarks = []
        values = list(found)
        for i, own in enumerate(properties):
            if values[i] is None:
                values[i] = next((v for n in ("label", "class", "name") if (v := as_label(own.get(n)))), None)
        if n := sum(a is None and b is not None for a, b in zip(found, values, strict=True)):
            remarks.append(f"{n} polygons without a class are labelled by their name")
        ignored = [name is not None and _ignored(name, own) for name, own in zip(found, properties, strict=True)]
        return Labels(values, ignored, remarks)
    chosen = _called_like_a_label(properties, key)
    if chosen is None:
        others = _usable(properties)
        if others and label is None:
            raise ValueError(
                f"{where}: none of its {len(properties)} polygons has a class or a name; choose the property with the "
                f"labels with column=: {_listed(properties, others)}."
            )
        return Labels([None] * len(properties), [False] * len(properties), [])
    values = [as_label(p.get(chosen)) for p in properties]
    remarks = [] if chosen == key else [f"the labels are taken from the property {chosen!r} (column= chooses another)"]
    return Labels(values, [False] * len(values), remarks)


def no_text(label: str) -> bool:
    """Whether it has half a pair of UTF-16, or the character that ends a text in HDF5: it could not be written."""
    return "\0" in label or any("\ud800" <= c <= "\udfff" for c in label)


def as_label(value: Any) -> str | None:
    """A value as a label: text, or a whole number, also where a table made it 1.0; `None` for anything else."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value) if abs(value) < 10**18 else None


def _class_name(stored: Any, properties: dict[str, Any]) -> str | None:
    """Name of a class; that of a class derived from others is theirs, joined by colons."""
    if isinstance(stored, str) and stored.lstrip().startswith("{"):
        # tables have no objects in their cells: GeoPandas writes the class as text
        try:
            stored = json.loads(stored)
        except (ValueError, RecursionError):
            return as_label(stored)
    names: list[str] = []
    while isinstance(stored, dict):
        several = stored.get("names")
        own = as_label(stored.get("name"))
        own = own or _joined(several if isinstance(several, list) else [])
        if own is not None:
            names.insert(0, own)
        stored = stored.get("parentClass")
    # no object: a class as text or as a list of names, or a parent that is written so
    first = _joined(stored) if isinstance(stored, list) else as_label(stored)
    if not names:
        return first
    if first is not None:
        names.insert(0, first)
    name = names[-1]
    above = ": ".join(names[:-1])
    # some write the whole name beside the parents
    found = name if not above or name.startswith(f"{above}:") else f"{above}: {name}"
    kept = _kept(properties)
    return kept if kept is not None and _parts(kept) == _parts(found) else found


def _joined(names: list[Any]) -> str | None:
    labels = [as_label(n.get("name") if isinstance(n, dict) else n) for n in names]
    return ": ".join(label for label in labels if label is not None) or None


def _kept(properties: dict[str, Any]) -> str | None:
    metadata = properties.get("metadata")
    kept = metadata.get(LABEL_KEY) if isinstance(metadata, dict) else None
    return kept if isinstance(kept, str) and kept.strip() else None


def _parts(name: str) -> list[str]:
    return [part.strip() for part in name.split(":")]


def _ignored(name: str, properties: dict[str, Any]) -> bool:
    """QuPath ignores a class whose name ends in a star; a layer of ours may be called so."""
    return name.endswith("*") and _kept(properties) != name


def _from_column(properties: Sequence[dict[str, Any]], column: str, where: str) -> Labels:
    if not any(column in p for p in properties):
        names = list(dict.fromkeys(n for p in properties for n in p))
        raise ValueError(f"{where}: no property {column!r}; there are: {_listed(properties, names) or 'none'}.")
    values: list[str | None] = []
    for i, own in enumerate(properties):
        stored = own.get(column)
        if isinstance(stored, bool):
            values.append(str(stored))
            continue
        if column == "classification":
            label = _class_name(stored, own)
        else:
            label = None if isinstance(stored, list) else _class_name(stored, {})
        if label is None and stored is not None and stored not in ("", [], {}) and not _blank(stored):
            raise ValueError(
                f"{where}: the property {column!r} of polygon {i + 1} is {short(stored)}, which is no label; "
                f"choose another with column=: {_listed(properties, _usable(properties)) or 'none'}."
            )
        values.append(label)
    is_class = column == "classification"
    ignored = [is_class and v is not None and _ignored(v, p) for v, p in zip(values, properties, strict=True)]
    return Labels(values, ignored, [])


def _blank(stored: Any) -> bool:
    """Not a number is how a table writes a gap."""
    return (isinstance(stored, str) and not stored.strip()) or (isinstance(stored, float) and stored != stored)


def _called_like_a_label(properties: Sequence[dict[str, Any]], key: str | None) -> str | None:
    have = list(dict.fromkeys(n for p in properties for n in p))
    wanted = _LABEL_PROPERTIES if key is None else (key, *_LABEL_PROPERTIES)
    for name in wanted:
        for candidate in [n for n in have if n == name] or [n for n in have if n.lower() == name]:
            stored = [p[candidate] for p in properties if p.get(candidate) is not None]
            stored = [v for v in stored if not _blank(v)]
            if stored and all(as_label(v) is not None for v in stored):
                return candidate
    return None


def _usable(properties: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(n for p in properties for n in p)
    return [n for n in names if n.lower() not in _NO_LABELS and any(_is_shown(p.get(n)) for p in properties)]


def _is_shown(stored: Any) -> bool:
    return isinstance(stored, (str, int, float)) and not _blank(stored)


def _listed(properties: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Properties with their first values."""
    first = {n: next((p[n] for p in properties if p.get(n) is not None), None) for n in names}
    listed = [f"{n[:40]} ({short(v)})" for n, v in list(first.items())[:20]]
    return ", ".join([*listed, f"and {len(first) - 20} more"] if len(first) > 20 else listed)
