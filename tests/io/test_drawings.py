"""Drawings as many programs and many mistakes leave them: read as meant, left out with a remark, or one clear line."""

from __future__ import annotations

import gzip
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc

# left and right half of the section below
LEFT, RIGHT = (-1.0, -1.0, 41.0, 91.0), (41.0, -1.0, 91.0, 91.0)


def section(n: int = 10) -> AnnData:
    """A square of n x n spots, 0, 10, ... in x and y, named as cells of Xenium."""
    rows, cols = (a.ravel() for a in np.mgrid[:n, :n])
    adata = AnnData(np.ones((n * n, 2), dtype=np.float32))
    adata.obs_names = [f"aaaa{chr(97 + i // 16)}{chr(97 + i % 16)}aa-1" for i in range(n * n)]
    adata.obsm["spatial"] = np.column_stack([cols, rows]) * 10.0
    return adata


def ring(box: tuple[float, float, float, float]) -> list[list[float]]:
    x, y, u, v = box
    return [[x, y], [u, y], [u, v], [x, v], [x, y]]


def polygon(box: tuple[float, float, float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [ring(box)]}


def feature(geometry: Any, properties: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties} | more


def classed(name: str, **more: Any) -> dict[str, Any]:
    return {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}} | more


def save(path: Path, stored: Any) -> Path:
    if isinstance(stored, bytes):
        path.write_bytes(stored)
    else:
        path.write_text(stored if isinstance(stored, str) else json.dumps(stored), encoding="utf-8")
    return path


def read(path: Path, adata: AnnData | None = None, **kwargs: Any) -> tuple[dict[str, int], str]:
    """How many spots have each label, and the remarks."""
    adata = section() if adata is None else adata
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stc.io.read_annotation(adata, path, **kwargs)
    # another package's warning must not reach the user
    assert all(str(path) in str(w.message) for w in said)
    return adata.obs["layer"].value_counts().to_dict(), " ".join(str(w.message) for w in said)


# QuPath


@pytest.mark.parametrize(
    "kind", ["PathCellObject", "PathDetectionObject", "PathTileObject", "TMACoreObject", "PathRootObject"]
)
def test_older_exports_name_the_kind_of_object_in_the_id(tmp_path: Path, kind: str) -> None:
    stored = [
        feature(polygon(LEFT), {"classification": {"name": "a", "colorRGB": -1}}, id="PathAnnotationObject"),
        feature(polygon(RIGHT), {"classification": {"name": "b", "colorRGB": -1}}, id=kind),
    ]
    counts, said = read(save(tmp_path / "a.json", stored))
    assert counts == {"a": 50}
    assert "1 " in said
    assert "objects are no areas" in said


def test_the_stated_type_wins_over_the_id(tmp_path: Path) -> None:
    # scripts write cells under the old id that are to be annotations; QuPath believes the type as well
    counts, _ = read(save(tmp_path / "a.json", feature(polygon(LEFT), classed("a"), id="PathCellObject")))
    assert counts == {"a": 50}
    for kind in ("cell", "detection", "tile", "tmaCore", "tma_core", "root"):
        stored = [feature(polygon(LEFT), classed("a")), feature(polygon(RIGHT), classed("b", objectType=kind))]
        assert read(save(tmp_path / "a.json", stored))[0] == {"a": 50}
    own = [
        feature(polygon(LEFT), {"type": "Tumor", "layer": "a"}),
        feature(polygon(RIGHT), {"type": "b", "layer": "b"}),
    ]
    assert read(save(tmp_path / "a.json", own))[0] == {"a": 50, "b": 50}


@pytest.mark.parametrize(
    ("classification", "label"),
    [
        ({"name": "Positive", "parentClass": {"name": "Tumor", "colorRGB": -1}}, "Tumor: Positive"),
        ({"name": "C", "parentClass": {"name": "B", "parentClass": {"name": "A"}}}, "A: B: C"),
        ({"name": "Tumor: Positive", "parentClass": {"name": "Tumor"}}, "Tumor: Positive"),
        ({"name": "Positive", "parentClass": "Tumor"}, "Tumor: Positive"),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        (["Tumor", "Positive"], "Tumor: Positive"),
        ("Tumor", "Tumor"),
        (3, "3"),
        ('{ "name": "Tumor", "color": [ 200, 0, 0 ] }', "Tumor"),  # as GeoPandas writes it
        ({"name": "Ödem ü/§"}, "Ödem ü/§"),
    ],
)
def test_classes(tmp_path: Path, classification: Any, label: str) -> None:
    counts, said = read(save(tmp_path / "a.json", feature(polygon(LEFT), {"classification": classification})))
    assert counts == {label: 50}
    assert said == ""


def test_classes_that_qupath_ignores(tmp_path: Path) -> None:
    stored = [feature(polygon(LEFT), classed("a")), feature(polygon(RIGHT), classed("Ignore*"))]
    counts, said = read(save(tmp_path / "a.json", stored))
    assert counts == {"a": 50}
    assert "1 polygons of classes that QuPath ignores (Ignore*) are left out" in said
    with pytest.raises(ValueError, match=r"no polygons \(1 polygons of classes that QuPath ignores"):
        read(save(tmp_path / "b.json", stored[1:]))


def test_children_and_planes(tmp_path: Path) -> None:
    child = feature(polygon(RIGHT) | {"plane": {"c": -1, "z": 1, "t": 0}}, classed("b"))
    stored = feature(polygon(LEFT) | {"plane": {"c": -1, "z": 0, "t": 0}}, classed("a", childObjects=[child]))
    counts, said = read(save(tmp_path / "a.json", stored))
    assert counts == {"a": 50, "b": 50}
    assert "2 planes" in said


# geometries


def test_nested_collections_lose_nothing(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"type": "MultiPolygon", "coordinates": [[ring(LEFT)]]}
    for _ in range(200):
        inner = {"type": "GeometryCollection", "geometries": [inner, None]}
    outer = {"type": "GeometryCollection", "geometries": [inner, polygon(RIGHT), {"type": "Point", "coordinates": []}]}
    counts, said = read(save(tmp_path / "a.json", feature(outer, classed("a"))))
    assert counts == {"a": 100}
    assert "200 empty objects" in said
    assert "1 Point objects" in said


def test_a_degenerate_ring_among_good_ones(tmp_path: Path) -> None:
    flat = [
        {"type": "Polygon", "coordinates": rings}
        for rings in ([[]], [[[0, 0]]], [[[0, 0], [1, 1]]], [[[0, 0], [1, 1], [2, 2], [0, 0]]], [[[5, 5]] * 9])
    ]
    stored = [feature(g, classed("x")) for g in flat]
    good = {"type": "Polygon", "coordinates": [[[*p, 7.0] for p in ring(LEFT)][:-1], [[1, 1], [2, 2]]]}
    counts, said = read(save(tmp_path / "a.json", [*stored, feature(good, classed("a"))]))
    assert counts == {"a": 50}
    assert "5 outlines with fewer than three corners or no area" in said
    assert "1 holes with fewer than three corners" in said
    with pytest.raises(ValueError, match=r"no polygons \(5 outlines with fewer"):
        read(save(tmp_path / "b.json", stored))


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "1e400", str(10**400), "1e200", '"5"', "true", "null", "{}", "[]", "[1]"]
)
def test_coordinates_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    good = json.dumps(feature(polygon(LEFT), classed("a")))
    bad = good.replace("41.0, 91.0", f"{value}, 91.0")
    assert bad != good
    with pytest.raises(ValueError, match=r"a\.json, feature 2: a polygon cannot be read"):
        read(save(tmp_path / "a.json", f"[{good}, {bad}]"))


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"type":"GeometryCollection","geometries":[' * 50_000 + "]}" * 50_000, "nested too deeply"),
        ("1" * 5000, "is not GeoJSON"),
        ("", "is empty"),
        ("5", "a single value"),
        ([None], "feature 1: not GeoJSON"),
        ([feature(polygon(LEFT), [1])], "feature 1: its properties are no object"),
        ([feature(polygon(LEFT), "a")], "feature 1: its properties are no object"),
        ([feature({"type": "GeometryCollection", "geometries": [None]}, classed("a"))], "no polygons.*1 empty"),
        ([feature({"type": "GeometryCollection", "geometries": {}}, classed("a"))], "feature 1.*geometries must be"),
        ([feature({"type": "Polygon", "coordinates": [1, 2]}, classed("a"))], "feature 1.*a ring must be a list"),
        ([feature({"type": "Polygon"}, classed("a"))], "feature 1.*coordinates must be a list"),
        ([feature({"type": 5}, classed("a"))], "feature 1.*no geometry"),
        ({"type": "FeatureCollection", "features": None}, "its features are no list"),
        ({"type": "Topology", "objects": {}}, "with the names type, objects"),
        ({"images": [], "annotations": []}, "with the names images, annotations"),
        ([feature(polygon(LEFT), classed("a\0b"))], "no text"),
        ([feature(polygon(LEFT), classed("\ud800"))], "no text"),
    ],
)
def test_what_is_no_drawing_is_one_line(tmp_path: Path, stored: Any, match: str) -> None:
    path = save(tmp_path / "a.geojson", stored)
    with pytest.raises(ValueError, match=match) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


# the text


def test_encodings_and_packing(tmp_path: Path) -> None:
    text = json.dumps([feature(polygon(LEFT), classed("Ä"))] * 30, ensure_ascii=False)
    for code in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        for name, stored in (("a.geojson", text.encode(code)), ("a.geojson.gz", gzip.compress(text.encode(code)))):
            assert read(save(tmp_path / name, stored))[0] == {"Ä": 50}
    assert read(save(tmp_path / "b.geojson", gzip.compress(text.encode())))[0] == {"Ä": 50}  # packed, not called so
    with pytest.raises(ValueError, match="not text in UTF-8 or UTF-16"):
        read(save(tmp_path / "c.geojson", text.encode("latin-1")))
    packed = gzip.compress(text.encode())
    for damaged in (packed[:-12], packed[:30] + b"\xff" * 20 + packed[50:], packed[:3], packed[:-8] + b"\0" * 8):
        with pytest.raises(ValueError, match=r"d\.geojson\.gz.* truncated or (damaged|corrupt)"):
            read(save(tmp_path / "d.geojson.gz", damaged))


def test_a_feature_a_line(tmp_path: Path) -> None:
    lines = [json.dumps(feature(polygon(box), classed(name))) for box, name in ((LEFT, "a"), (RIGHT, "b"))]
    for separator in ("\n", "\n\x1e", "\r\n"):
        assert read(save(tmp_path / "a.geojson", separator.join(lines)))[0] == {"a": 50, "b": 50}
    with pytest.raises(ValueError, match="is not GeoJSON"):
        read(save(tmp_path / "a.geojson", "\n".join(lines)[:-20]))


def test_too_much_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from st_concepts.io._annotations import drawn_text as _drawn_text

    monkeypatch.setattr(_drawn_text, "_LARGEST", 2**20)
    bomb = gzip.compress(b" " * 2**24)
    with pytest.raises(ValueError, match="too much for a drawing"):
        read(save(tmp_path / "a.geojson.gz", bomb))


@pytest.mark.parametrize(
    ("name", "stored", "what"),
    [
        ("a.roi", b"Iout\x00\xe4", "ImageJ ROI"),
        ("a.xml", b"\xef\xbb\xbf<?xml version='1.0'?><ASAP_Annotations/>", "XML"),
        ("a.qpdata", b"\xac\xed\x00\x05sr", "qpdata"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "picture"),
    ],
)
def test_files_of_other_programs(tmp_path: Path, name: str, stored: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=f"is .*{what}.* not read as an annotation. Read are"):
        read(save(tmp_path / name, stored))


def test_zip_files(tmp_path: Path) -> None:
    for name, what in (("RoiSet.zip", "a zip archive"), ("a.xlsx", "an Excel workbook")):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("a.roi", "Iout")
        with pytest.raises(ValueError, match=what):
            read(tmp_path / name)


# labels from properties


def test_properties_as_geopandas_writes_them(tmp_path: Path) -> None:
    gpd = pytest.importorskip("geopandas", reason="geopandas is not installed")
    import shapely

    shapes = [shapely.box(*LEFT), shapely.box(*RIGHT)]
    frame = gpd.GeoDataFrame({"id": [1, 2], "area": [3.5, 4.5], "layer": ["L1", "L2/3"]}, geometry=shapes)
    save(tmp_path / "a.geojson", frame.to_json())
    assert read(tmp_path / "a.geojson") == ({"L1": 50, "L2/3": 50}, "")
    assert read(tmp_path / "a.geojson", column="id")[0] == {"1": 50, "2": 50}
    save(tmp_path / "b.geojson", frame.rename(columns={"layer": "tissue"}).to_json())
    with pytest.raises(ValueError, match=r"column=: id \(1\), area \(3.5\), tissue \('L1'\)"):
        read(tmp_path / "b.geojson")
    assert read(tmp_path / "b.geojson", column="tissue")[0] == {"L1": 50, "L2/3": 50}
    with pytest.raises(ValueError, match=r"no property 'no'; there are: id"):
        read(tmp_path / "b.geojson", column="no")
    with pytest.raises(ValueError, match=r"'area' of polygon 1 is 3.5, which is no label"):
        read(tmp_path / "b.geojson", column="area")
    stored = feature(polygon(LEFT), {"measurements": [{"name": "Area", "value": 1.5}], "size": {"x": 1}})
    for column in ("measurements", "size"):
        with pytest.raises(ValueError, match="which is no label"):
            read(save(tmp_path / "d.geojson", stored), column=column)
    # a gap makes whole numbers of a table fractional
    frame["cluster"] = [1, None]
    save(tmp_path / "c.geojson", frame.to_json())
    assert read(tmp_path / "c.geojson", column="cluster")[0] == {"1": 50}


def test_a_property_that_is_called_like_a_label(tmp_path: Path) -> None:
    stored = [feature(polygon(b), {"Region": n, "name": n * 2, "label": 0.5}) for b, n in ((LEFT, "a"), (RIGHT, "b"))]
    path = save(tmp_path / "a.geojson", stored)
    counts, said = read(path)
    assert counts == {"a": 50, "b": 50}
    assert "taken from the property 'Region'" in said
    adata = section()
    stc.io.read_annotation(adata, path, key="name")
    assert set(adata.obs["name"]) == {"aa", "bb"}


def test_outlines_without_any_label(tmp_path: Path) -> None:
    for stored in (polygon(LEFT), feature(polygon(LEFT)), feature(polygon(LEFT), {"area": 3.5})):
        path = save(tmp_path / "a.geojson", stored)
        with pytest.raises(ValueError, match="none of its 1 polygons has a class or a name"):
            read(path)
        assert read(path, label="tumour") == ({"tumour": 50}, "")
    both = [feature(polygon(LEFT), classed("a")), feature(polygon(RIGHT), {"objectType": "annotation"})]
    assert read(save(tmp_path / "a.geojson", both), label="rest") == ({"a": 50, "rest": 50}, "")


# napari

HEADER = "index,shape-type,vertex-index,axis-0,axis-1\n"


def napari(*shapes: tuple[str, list[Any]]) -> str:
    rows = [f"{i},{kind},{v},{y},{x}\n" for i, (kind, corners) in enumerate(shapes) for v, (x, y) in enumerate(corners)]
    return HEADER + "".join(rows)


GOOD = ("rectangle", ring(LEFT)[:4])


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "x", ""])
def test_napari_corners_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    text = napari(GOOD, ("polygon", [(0, 0), (value, 4), (5, 5)]))
    with pytest.raises(ValueError, match=r"a\.csv, shape 1: "):
        read(save(tmp_path / "a.csv", text))


def test_napari_shapes_without_an_area(tmp_path: Path) -> None:
    few = [("polygon", [(0, 0), (5, 5)]), ("ellipse", [(0, 0), (5, 5), (9, 1)]), ("polygon", [(1, 1)] * 5)]
    counts, said = read(save(tmp_path / "a.csv", napari(GOOD, *few, ("path", [(0, 0), (1, 1)]))))
    assert counts == {"a": 50}
    assert "3 outlines with fewer than three corners or no area" in said
    assert "1 lines and paths" in said
    with pytest.raises(ValueError, match=r"b\.csv: no polygons, rectangles or ellipses \(3 outlines"):
        read(save(tmp_path / "b.csv", napari(*few)))


@pytest.mark.parametrize(
    "text",
    [
        napari(GOOD) + "1,polygon\n",
        napari(GOOD) + "1,polygon,0,1,2,3,4\n",
        napari(GOOD) + '1,"' + "x" * 200_000 + '",0,1,2\n',
        napari(GOOD) + '1,"polygon,0,1,2\n',
        napari(GOOD).replace("axis-1", "axis-x"),
        HEADER.replace("\n", ",label\n") + "".join(f"0,polygon,{v},{v % 2},{v // 2},l{v}\n" for v in range(4)),
        napari(GOOD).replace("index,", "axis-0,", 1),
        HEADER,
    ],
)
def test_napari_tables_that_are_damaged(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match=r"a\.csv") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_napari_as_spreadsheets_leave_it(tmp_path: Path) -> None:
    lines = napari(GOOD).splitlines()
    shuffled = "\n".join([lines[0], *(lines[i] for i in (3, 1, 4, 2))])
    capital = napari(GOOD).replace("rectangle", "Rectangle")
    padded = "".join(f"{line},,\n" for line in lines)
    for text in (napari(GOOD).replace(",", ";"), napari(GOOD).encode("utf-16"), shuffled, capital, padded):
        assert read(save(tmp_path / "a.csv", text))[0] == {"a": 50}
    planes = HEADER.replace("axis-1", "axis-1,axis-2") + "".join(
        f"{i},polygon,{v},{i},{y},{x}\n" for i, b in enumerate((LEFT, RIGHT)) for v, (x, y) in enumerate(ring(b)[:4])
    )
    counts, said = read(save(tmp_path / "a.csv", planes))
    assert counts == {"a": 100}
    assert "several planes" in said


# Xenium Explorer

ONE = "#Selection name: Tumor é\n#Area (µm^2): 1234.5\n"
TWO = "#Selection names: A, B\n#Areas (µm^2): 12, 34\n"
CELLS = "Cell ID,Cluster,Transcripts,Area (µm^2)\n"


def corners(box: tuple[float, float, float, float], before: str = "", after: str = "") -> str:
    return "".join(f"{before}{x},{y}{after}\n" for x, y in ring(box))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE + "X,Y\n" + corners(LEFT), {"Tumor é": 50}),
        ("\ufeff" + (ONE + "X,Y\n" + corners(LEFT)).replace("\n", "\r\n"), {"Tumor é": 50}),
        (ONE + "Selection,X,Y\n" + corners(LEFT, "Tumor é,"), {"Tumor é": 50}),
        (TWO + "Selection,X,Y\n" + corners(LEFT, "A,") + corners(RIGHT, "B,"), {"A": 50, "B": 50}),
        ("Selection,X,Y\n" + corners(LEFT, "A,") + corners(RIGHT, "B,"), {"A": 50, "B": 50}),
        ("X,Y\n" + corners(LEFT), {"file": 50}),
        # as a spreadsheet saves it
        ('"#Selection name: A, b",,\n#Area (um^2): 1,,\nX,Y,\n' + corners(LEFT, "", ","), {"A, b": 50}),
    ],
)
def test_xenium_coordinates(tmp_path: Path, text: str, expected: dict[str, int]) -> None:
    assert read(save(tmp_path / "file.csv", text)) == (expected, "")


def test_xenium_classes(tmp_path: Path) -> None:
    text = TWO + "Selection,X,Y,Class,Color\n" + corners(LEFT, "A,", ",T,#c2c2c2")
    path = save(tmp_path / "a.csv", text + corners(RIGHT, "B,", ",Unclassified,#c2c2c2"))
    counts, said = read(path)
    assert counts == {"A": 50, "B": 50}
    assert "column='Class'" in said
    assert read(path, column="Class")[0] == {"T": 50}


def test_xenium_cells(tmp_path: Path) -> None:
    adata = section()
    folder = tmp_path / "selections"
    folder.mkdir()
    rows = [f"{name},{i % 3},10,5.5\n" for i, name in enumerate(adata.obs_names)]
    save(folder / "one.csv", ONE + CELLS + "".join(rows[:7]))
    assert read(folder / "one.csv")[0] == {"Tumor é": 7}
    assert read(folder / "one.csv", column="Cluster")[0] == {"0": 3, "1": 2, "2": 2}
    save(folder / "two.csv", ONE.replace("Tumor é", "Stroma") + CELLS + "".join(rows[5:17]) + "zzzz-1,1,1,1\n")
    counts, said = read(folder, adata)
    assert counts == {"Tumor é": 7, "Stroma": 10}
    assert adata.obs["layer"].tolist()[:8] == ["Tumor é"] * 7 + ["Stroma"]
    assert "2 cells are in selections of different labels and take that of the smallest" in said
    assert "1 of 18 barcodes are not in the data" in said
    assert read(folder, overlap="none")[0] == {"Tumor é": 5, "Stroma": 10}
    with pytest.raises(ValueError, match="is in Stroma, Tumor é"):
        read(folder, overlap="error")
    with pytest.raises(ValueError, match="none of its 1 barcodes"):
        read(save(tmp_path / "a.csv", ONE + CELLS + "zzzz-1,1,1,1\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (ONE, "not a selection of Xenium Explorer"),
        (ONE + "A,B\n1,2\n", r"expected the columns X, Y .* found: A, B"),
        (ONE + "X,Y\n1,nan\n2,2\n3,4\n", "selection Tumor é: a coordinate is not finite"),
        (ONE + "X,Y\n1,a\n2,2\n3,4\n", "corner 1 has no number in Y"),
        (ONE + "X,Y\n1,1\n2,2\n", "no selection with an area"),
        (TWO.replace("B", "A") + "Selection,X,Y\n" + corners(LEFT, "A,"), "two selections are called 'A'"),
    ],
)
def test_xenium_mistakes(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read(save(tmp_path / "a.csv", text))


def test_xenium_micrometres_on_spots_in_pixels(tmp_path: Path) -> None:
    adata = section()
    adata.obsm["spatial"] = (adata.obsm["spatial"] + 1000) / 0.2125
    path = save(tmp_path / "a.csv", ONE + "X,Y\n" + corners((999, 999, 1041, 1091)))
    with pytest.raises(ValueError, match=r"They fit if scale=0\.2125 is given"):
        read(path, adata)
    assert read(path, adata, scale=0.2125)[0] == {"Tumor é": 50}


def test_one_name_in_several_files_is_said(tmp_path: Path) -> None:
    for name, box in (("a.csv", LEFT), ("b.csv", RIGHT)):
        save(tmp_path / name, ONE + "X,Y\n" + corners(box))
    counts, said = read(tmp_path)
    assert counts == {"Tumor é": 100}
    assert "'Tumor é' is the selection of 2 files" in said


@pytest.mark.parametrize("kind", [None, "napari", "xenium"])
def test_folders_without_tables(tmp_path: Path, kind: str | None) -> None:
    save(tmp_path / "a.png", b"")
    with pytest.raises(ValueError, match="is a folder without CSV files"):
        read(tmp_path, kind=kind)


def test_folders_of_several_programs(tmp_path: Path) -> None:
    save(tmp_path / "a.csv", napari(GOOD))
    save(tmp_path / "._a.csv", b"\0\0\0")  # macOS leaves such files on shared disks
    assert read(tmp_path)[0] == {"a": 50}
    save(tmp_path / "b.csv", TWO + "Selection,X,Y\n" + corners(LEFT, "A,"))
    with pytest.raises(ValueError, match=r"found: b.csv \(xenium\), a.csv \(napari\)"):
        read(tmp_path)


# the spots


def test_spots_without_coordinates(tmp_path: Path) -> None:
    path = save(tmp_path / "a.geojson", feature(polygon(LEFT), classed("a")))
    adata = section()
    adata.obsm["spatial"][:5, 0] = np.nan
    adata.obsm["spatial"][5, 1] = np.inf
    counts, said = read(path, adata)
    assert counts == {"a": 45}
    assert "6 spots without finite coordinates get no label" in said
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match="none of the 100 spots has finite coordinates"):
        read(path, adata)
    adata.obsm["spatial"] = np.zeros((100, 1))
    with pytest.raises(ValueError, match=r"has the shape \(100, 1\)"):
        read(path, adata)
    adata.obsm["spatial"] = pd.DataFrame([["x", "y"]] * 100, index=adata.obs_names)
    with pytest.raises(ValueError, match="no number"):
        read(path, adata)


@pytest.mark.parametrize(
    "stored", ["junk", {"a": "junk"}, {"a": {"scalefactors": 5}}, {"a": {"scalefactors": {"tissue_hires_scalef": "x"}}}]
)
def test_image_entries_that_are_none(tmp_path: Path, stored: Any) -> None:
    adata = section()
    adata.uns["spatial"] = stored
    path = save(tmp_path / "a.geojson", feature(polygon(LEFT), classed("a")))
    assert read(path, adata)[0] == {"a": 50}
    with pytest.raises(ValueError, match="there are: none"):
        read(path, adata, scale="hires")


def test_one_drawing_on_sections_over_each_other(tmp_path: Path) -> None:
    import anndata as ad

    path = save(tmp_path / "a.geojson", feature(polygon(LEFT), classed("a")))
    both = ad.concat({"s1": section(), "s2": section()}, label="section", index_unique="-")
    _, said = read(path, both)
    assert "several sections that lie over each other are labelled (section: s1, s2)" in said
    both.obsm["spatial"][100:, 0] += 1000
    assert read(path, both) == ({"a": 50}, "")


def test_an_outline_of_a_reduced_image_that_touches_spots_by_chance(tmp_path: Path) -> None:
    adata = section()
    adata.uns["spatial"] = {"s": {"images": {}, "scalefactors": {"tissue_hires_scalef": 0.1}}}
    path = save(tmp_path / "a.geojson", feature(polygon((-1, -1, 4.1, 9.1)), classed("a")))
    counts, said = read(path, adata)
    assert counts == {"a": 1}
    assert "only 1 of 100 spots are in an outline, with scale='hires' it would be 50" in said
    assert read(path, adata, scale="hires") == ({"a": 50}, "")


def test_y_counted_upwards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="They fit if y is counted downwards"):
        read(save(tmp_path / "a.geojson", feature(polygon((5, -40, 40, -5)), classed("a"))))


# round trips


def test_round_trip_of_unusual_names(tmp_path: Path) -> None:
    names = ["Tumor: Positive", "Tumor:Positive", "Ignore*", "L2/3", "Öl", "β <3>", "=1+1", "a\nb", "{x", "1"]
    adata = section()
    adata.obs["layer"] = pd.Categorical(np.repeat(names, 10), categories=names)
    stc.io.write_annotation(adata, tmp_path / "a.geojson")
    stc.io.read_annotation(adata, tmp_path / "a.geojson", key="back")
    assert adata.obs["back"].tolist() == adata.obs["layer"].tolist()
    # QuPath rewrites a class with a colon, and a class that was changed there is the one that counts
    stored = json.loads((tmp_path / "a.geojson").read_text())
    for f, name in zip(stored["features"], names, strict=True):
        if ":" in name:
            f["properties"]["classification"] = {"names": [part.strip() for part in name.split(":")]}
    stored["features"][3]["properties"]["classification"] = {"name": "changed"}
    stc.io.read_annotation(adata, save(tmp_path / "b.geojson", stored), key="back")
    expected = adata.obs["layer"].astype(object).replace("L2/3", "changed")
    assert adata.obs["back"].tolist() == expected.tolist()


def test_what_could_not_come_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    for values, match in (
        ([1, "1"], "differ in type only, '1'"),
        (["a", " "], "which no drawing can hold"),
        (["a", "\ud800"], "which no drawing can hold"),
    ):
        adata = section()
        adata.obs["layer"] = pd.Categorical(values * 50)
        with pytest.raises(ValueError, match=match):
            stc.io.write_annotation(adata, path)
    adata.obs["layer"] = pd.Categorical(["a", None] * 50)
    adata.uns["layer_colors"] = "junk"
    adata.obsm["spatial"][1] = np.nan  # has no label
    stc.io.write_annotation(adata, path)
    stc.io.read_annotation(adata[::2].copy(), path)
    adata.obsm["spatial"][0] = np.nan
    with pytest.raises(ValueError, match=r"1 spots with a label in obs\['layer'\] have no finite coordinates"):
        stc.io.write_annotation(adata, path)
    with pytest.raises(ValueError, match="must be positive and finite"):
        stc.io.write_annotation(adata, path, scale=float("inf"))


# anything


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


def test_cells_beside_a_fine_outline(tmp_path: Path) -> None:
    cells = [feature(polygon((x, y, x + 1, y + 1)), {"objectType": "cell"}) for x in range(40) for y in range(50)]
    angle = np.linspace(0, 2 * np.pi, 20_000)
    circle = np.column_stack([45 + 40 * np.cos(angle), 45 + 40 * np.sin(angle)]).tolist()
    path = save(tmp_path / "a.geojson", [*cells, feature({"type": "Polygon", "coordinates": [circle]}, classed("a"))])
    counts, said = read(path)
    assert counts == {"a": int((((section().obsm["spatial"] - 45) ** 2).sum(1) < 1600).sum())}
    assert "2000 cell objects" in said
