"""Any JSON and any bytes are read as a drawing, or refused in one line."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc
from tests.io._annotations.drawings import (
    CELLS,
    HEADER,
    LEFT,
    ONE,
    RIGHT,
    TWO,
    classed,
    feature,
    polygon,
    save,
    section,
)

_WORDS = st.sampled_from(
    ["Polygon", "MultiPolygon", "GeometryCollection", "Feature", "FeatureCollection", "a", "PathCellObject", "", "*"]
)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | _WORDS | st.text(max_size=3)


_KEYS = st.sampled_from(
    [
        "type",
        "geometry",
        "properties",
        "coordinates",
        "geometries",
        "features",
        "classification",
        "name",
        "names",
        "parentClass",
        "objectType",
        "id",
        "plane",
        "metadata",
        "layer",
        "childObjects",
        "nucleusGeometry",
    ]
)


_ANYTHING = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=12
)


@st.composite
def _damaged(draw: st.DrawFn) -> Any:
    """A good file with one value, anywhere in it, replaced by anything."""
    stored: Any = {
        "type": "FeatureCollection",
        "features": [
            feature(polygon(LEFT), classed("a", metadata={"x": 1}), id="PathAnnotationObject"),
            feature({"type": "GeometryCollection", "geometries": [polygon(RIGHT)]}, {"classification": {"name": "b"}}),
        ],
    }
    at = stored
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.integers(0, 3)) == 0:
            at[key] = draw(_ANYTHING)
            return stored
        at = at[key]


SECTION = section(4)


def fault_of(adata: AnnData, path: Path, **kwargs: Any) -> str | None:
    """The message of the only kind of error that may come, a single line."""
    try:
        stc.io.read_annotation(adata, path, **kwargs)
    except ValueError as error:
        message = str(error)
    else:
        return None
    assert "\n" not in message
    return message


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(stored=_damaged() | _ANYTHING, column=st.none() | st.sampled_from(["classification", "name", "layer"]))
def test_any_json_is_read_or_is_one_line(tmp_path: Path, stored: Any, column: str | None) -> None:
    path = save(tmp_path / "a.geojson", stored)
    adata = SECTION.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", message=".*a.geojson")
        fault = fault_of(adata, path, column=column)
    assert (fault is None) == ("layer" in adata.obs)
    if fault is None:
        assert adata.obs["layer"].notna().any()
    else:
        assert str(path) in fault


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    head=st.sampled_from([HEADER, ONE + "X,Y\n", TWO + "Selection,X,Y\n", ONE + CELLS, '{"type":"Feature"', ""]),
    rest=st.binary(max_size=60) | st.text("01.,-\n\"'naif;\te", max_size=60).map(str.encode),
    packed=st.booleans(),
)
def test_any_bytes_are_read_or_are_one_line(tmp_path: Path, head: str, rest: bytes, packed: bool) -> None:
    stored = head.encode() + rest
    if packed:
        stored = gzip.compress(stored)[: len(stored) + 20]
    path = save(tmp_path / "a.csv", stored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fault_of(SECTION.copy(), path)
