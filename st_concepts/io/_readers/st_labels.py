"""Layers drawn on the histology: one-hot tables and two-column tables, matched to spots by array position."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from st_concepts._counts.labels import check_name, fold, missing_words, taken_as_missing, tidy
from st_concepts._log import get_logger
from st_concepts.io._text import read_rows

from .spot_names import mostly_spot_names, parse_spot_names, round_to_array
from .st_labels_xy import as_two_columns

_YES_NO = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False}
logger = get_logger("io")


def read_annotation(
    path: Path, column: str | None = None, *, missing: Iterable[str] | str | None = None, keep: Collection[str] = ()
) -> tuple[list[str], list[str | None], list[str]]:
    """Spots as written, their labels (`None`: without), and the distinct labels in the order of the file.

    Words that mean missing, but for those in ``keep``, are none. Three forms are recognised: one-hot with labels in
    rows and spots (``X_Y``) in columns, as Splotch writes it; the transpose of that; two columns, spot and label, with
    or without a header; more columns, the spots by name or by ``x`` and ``y``, the label in ``column`` (see
    `as_two_columns`).
    """
    spots, labels, order = _as_written(path, column)
    words = missing_words(missing)
    kept = {tidy(k) for k in keep}
    none = [name for name in dict.fromkeys([*order, *filter(None, labels)]) if name not in kept and fold(name) in words]
    taken = {name: n for name in none if (n := labels.count(name))}
    if taken:
        logger.info("%s: %s", path, taken_as_missing(taken))
    for name in order:
        if name not in none:
            check_name(name, str(path))
    return spots, [None if label in none else label for label in labels], [name for name in order if name not in none]


def _as_written(path: Path, column: str | None) -> tuple[list[str], list[str | None], list[str]]:
    rows = list(read_rows(path))
    if (two := as_two_columns(path, rows, column)) is not None:
        return _two_columns(path, two)
    header = rows[0][1]
    first = [fields[0] for _, fields in rows]
    # a one-hot table of a single label has two columns as well, but of zeros and ones
    zeros_and_ones = {fields[-1].strip() for _, fields in rows[1:]} <= {"0", "1"}
    if len(header) == 2 and mostly_spot_names(first) and not zeros_and_ones:
        return _two_columns(path, rows)
    if mostly_spot_names(header[1:]) or mostly_spot_names(header):
        return _one_hot(path, rows, spots_in_columns=True)
    if mostly_spot_names(first[1:]):
        return _one_hot(path, rows, spots_in_columns=False)
    raise ValueError(
        f"{path}: no spots found. Expected a one-hot table (labels in rows, spots such as '17_9' in columns, or the "
        f"other way round) or two columns (spot, label); the first line starts {header[:3]!r}."
    )


def _two_columns(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[list[str], list[str | None], list[str]]:
    if not mostly_spot_names([rows[0][1][0]]):
        rows = rows[1:]
    spots: list[str] = []
    labels: list[str | None] = []
    for line, fields in rows:
        if len(fields) != 2:
            raise ValueError(f"{path}, line {line}: {len(fields)} columns, expected two (spot, label).")
        spots.append(fields[0].strip())
        labels.append(fields[1].strip() or None)
    return spots, labels, list(dict.fromkeys(label for label in labels if label is not None))


def _one_hot(
    path: Path, rows: list[tuple[int, list[str]]], *, spots_in_columns: bool
) -> tuple[list[str], list[str | None], list[str]]:
    header, body = rows[0][1], rows[1:]
    if not body:
        raise ValueError(f"{path}: a header and nothing below it.")
    columns = header if len(body[0][1]) == len(header) + 1 else header[1:]
    names = [fields[0].strip() for _, fields in body]
    table = np.zeros((len(names), len(columns)), dtype=bool)
    for i, (line, fields) in enumerate(body):
        if len(fields) != len(columns) + 1:
            raise ValueError(
                f"{path}, line {line}: {len(fields) - 1} values, but the header names {len(columns)} columns."
            )
        for j, field in enumerate(fields[1:]):
            value = _YES_NO.get(field.strip().lower())
            if value is None:
                raise ValueError(f"{path}, line {line}, column {columns[j]!r}: {field!r} is neither 0 nor 1.")
            table[i, j] = value
    spots, order = (columns, names) if spots_in_columns else (names, columns)
    hot = table if spots_in_columns else table.T
    twice = np.flatnonzero(hot.sum(axis=0) > 1)
    if twice.size:
        at = int(twice[0])
        both = [order[k] for k in np.flatnonzero(hot[:, at])]
        raise ValueError(f"{path}: spot {spots[at]!r} has {len(both)} labels, {both}. A spot may have one at most.")
    which = hot.argmax(axis=0)
    any_label: list[bool] = np.asarray(hot.any(axis=0)).tolist()
    return spots, [order[k] if yes else None for k, yes in zip(which, any_label, strict=True)], order


def match_labels(
    coords: np.ndarray,
    spots: Sequence[str],
    labels: Sequence[str | None],
    *,
    where: str,
) -> np.ndarray:
    """Labels for the spots of a count table, by exact array coordinates, else by the nearest array position.

    Object ``(n_obs,)``, `None` where the annotation (``spots`` and ``labels`` of `read_annotation`) says nothing; that
    of fewer than half of the spots is warned of.
    """
    annotated = parse_spot_names(spots, where=where)
    exact = _lookup(annotated, coords)
    rounded = _lookup(round_to_array(annotated), round_to_array(coords))
    # a name that happens to be whole must not decide for the exact match
    found, distinct = exact if (exact[0] >= 0).sum() >= (rounded[0] >= 0).sum() else rounded
    hit = found >= 0
    if not hit.any():
        example = f"{coords[0, 0]:g}x{coords[0, 1]:g}" if len(coords) else "none"
        raise ValueError(
            f"{where}: none of its {len(annotated)} spots (first: {list(spots)[:1]}) is at the array position of a "
            f"spot of the count table (first: {example}). The two files belong to different sections, or x and y are "
            "swapped."
        )
    if not distinct or np.unique(found[hit]).size < hit.sum():
        raise ValueError(
            f"{where}: after rounding to whole array positions two spots coincide, so labels cannot be matched. "
            "Name the spots of the annotation exactly as in the count table."
        )
    if hit.mean() < 0.5:
        warnings.warn(
            f"{where}: only {hit.sum()} of {hit.size} spots of the count table are annotated; the rest get no label.",
            UserWarning,
            stacklevel=3,
        )
    values = np.array(list(labels), dtype=object)[found]
    values[~hit] = None
    return values


def _lookup(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, bool]:
    """Row of ``table`` for each row of ``keys`` (-1: none), and whether the rows of ``table`` are distinct."""
    rows = {tuple(row): i for i, row in enumerate(table.tolist())}
    return np.array([rows.get(tuple(row), -1) for row in keys.tolist()], dtype=np.int64), len(rows) == len(table)


def as_categorical(
    labels: np.ndarray, order: Sequence[str], layers: Sequence[str] | Mapping[str, str] | None, *, where: str
) -> pd.Categorical:
    """Labels as a categorical: in the order of the file, or renamed and ordered as ``layers`` says."""
    if layers is None:
        return pd.Categorical(labels, categories=list(order))
    rename = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers}
    unknown = sorted({label for label in labels if label is not None} - set(rename))
    if unknown:
        raise ValueError(f"{where}: label(s) {unknown} are not in `layers`, which names {list(rename)}.")
    renamed = [None if label is None else rename[label] for label in labels]
    return pd.Categorical(renamed, categories=list(dict.fromkeys(rename.values())), ordered=True)
