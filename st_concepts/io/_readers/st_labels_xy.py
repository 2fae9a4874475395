"""Labels of classic ST with more than a spot and a label: spots by columns ``x`` and ``y``, coordinates beside them."""

from __future__ import annotations

from pathlib import Path

from .spot_names import mostly_spot_names

Rows = list[tuple[int, list[str]]]
# array positions, in pairs; pixels are no array positions
_XY = (("x", "y"), ("array_x", "array_y"), ("adj_x", "adj_y"), ("new_x", "new_y"), ("xcoord", "ycoord"))
_LABEL = ("label", "labels", "layer", "annotation", "region", "class", "cluster", "pathologist_annotation")


def as_two_columns(path: Path, rows: Rows, column: str | None = None) -> Rows | None:
    """The table as spot and label, or `None` where it is of another form (see `st_concepts.io.read_st`).

    ``rows`` are lines with their numbers, the header first. The labels are in ``column``; by default in that called
    ``label``, ``layer``, ``annotation``, ..., else in the only one that holds text.
    """
    header = [field.strip() for field in rows[0][1]]
    body = rows[1:]
    if body and len(body[0][1]) == len(header) + 1:
        header = ["", *header]  # R leaves the corner out
    lower = [name.lower() for name in header]
    xy = next((pair for pair in _XY if set(pair) <= set(lower)), None)
    if not body or len(header) < 3 or len(set(lower)) < len(lower):
        return None
    for line, fields in body:
        if len(fields) != len(header):
            if xy is None:
                return None
            raise ValueError(f"{path}, line {line}: {len(fields)} columns, but the header names {len(header)}.")
    columns = {name: [fields[j].strip() for _, fields in body] for j, name in enumerate(lower)}
    named = next((name for name, values in columns.items() if mostly_spot_names(values)), None)
    if named is None and (xy is None or not all(map(_is_number, columns[xy[0]] + columns[xy[1]]))):
        return None
    others = [name for name in columns if name not in (named, *(xy or ()))]
    text = [name for name in others if sum(map(_is_text, columns[name])) > len(body) / 2]
    label = _label(path, text, others, [name for name in header if name], column)
    if label is None:
        return None
    spots = columns[named] if named is not None else list(map(_spot, columns[xy[0]], columns[xy[1]]))  # type: ignore[index]  # named or x and y
    two = zip(body, spots, columns[label], strict=True)
    # spots without a position belong to no spot of the section
    return [(rows[0][0], ["spot", "label"])] + [(line, [spot, value]) for (line, _), spot, value in two if spot]


def _label(path: Path, text: list[str], others: list[str], header: list[str], column: str | None) -> str | None:
    if column is not None:
        if column not in header:
            raise ValueError(f"{path} has no column {column!r}; there are: {', '.join(header)}.")
        return column.lower()
    known = [name for name in _LABEL if name in others]
    if known or len(text) <= 1:
        return next(iter(known or text), None)
    raise ValueError(f"{path}: which column holds the labels? Choose with column=: {', '.join(text)}.")


def _spot(x: str, y: str) -> str:
    missing = x.lower() in ("", "na", "nan") or y.lower() in ("", "na", "nan")
    return "" if missing else f"{x}x{y}"


def _is_text(field: str) -> bool:
    """Neither a number nor the yes and no of a one-hot table."""
    return not _is_number(field) and field.lower() not in ("true", "false")


def _is_number(text: str) -> bool:
    """Whether the text is a number, or says that there is none."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("", "na")
    return True
