"""GeoJSON as QuPath, GeoPandas and many mistakes leave it: read as meant, left out with a remark, or one clear line."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import st_concepts as stc
from tests.io._annotations.drawings import (
    LEFT,
    RIGHT,
    classed,
    feature,
    polygon,
    read,
    ring,
    save,
    section,
)


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
