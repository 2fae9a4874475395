"""Layers from tables, QuPath, napari and SpatialData; point in polygon checked against matplotlib's own."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.path
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
]


def section(n: int = 10, pitch: float = 10.0) -> AnnData:
    """A square of n x n spots, 0, 10, ... in x and y, named by barcodes."""
    rows, cols = (a.ravel() for a in np.mgrid[:n, :n])
    adata = AnnData(np.ones((n * n, 2), dtype=np.float32))
    adata.obs_names = [f"AAAC{'ACGT'[i % 4]}{i:04d}-1" for i in range(n * n)]
    adata.obsm["spatial"] = np.column_stack([cols, rows]) * pitch
    return adata


def square(low: float, high: float) -> list[list[float]]:
    return [[low, low], [high, low], [high, high], [low, high], [low, low]]


def feature(name: str | None, geometry: dict[str, Any], /, **properties: Any) -> dict[str, Any]:
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"} | properties}


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def save(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def inside(adata: AnnData, low: float, high: float) -> np.ndarray:
    return ((adata.obsm["spatial"] >= low) & (adata.obsm["spatial"] <= high)).all(1)


# tables


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [("Barcode,Layers", ","), ("barcode,Graph-based", ","), ("spot_id\tlayer", "\t"), (";Region", ";"), (None, ",")],
)
def test_barcode_tables(tmp_path: Path, header: str | None, delimiter: str) -> None:
    adata = section(4)
    labels = ["GL", "", "ONL, outer", "NA"] * 4
    rows = [f'{b}{delimiter}"{v}"' for b, v in zip(adata.obs_names, labels, strict=True)]
    path = tmp_path / "layers.csv"
    path.write_text("\ufeff" + "\n".join([header, *rows][::-1][::-1] if header else rows) + "\n")
    stc.io.read_annotation(adata, path)
    assert (
        adata.obs["layer"].astype(object).where(adata.obs["layer"].notna(), None).tolist()
        == [
            "GL",
            None,
            "ONL, outer",
            None,
        ]
        * 4
    )


def test_barcodes_without_lane_and_in_another_order(tmp_path: Path) -> None:
    adata = section(4)
    labels = np.array(["a", "b", "c", "d"] * 4)
    order = np.random.default_rng(0).permutation(16)
    frame = pd.DataFrame({"Barcode": adata.obs_names.str.removesuffix("-1"), "x": labels}).iloc[order]
    frame.to_csv(tmp_path / "a.csv", index=False)
    out = stc.io.read_annotation(adata, tmp_path / "a.csv", key="drawn", copy=True)
    assert out.obs["drawn"].tolist() == labels.tolist()
    assert "drawn" not in adata.obs


def test_several_columns_need_a_choice(tmp_path: Path) -> None:
    adata = section(3)
    frame = pd.DataFrame({"Barcode": adata.obs_names, "Graph": "1", "Layers": "GL"})
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"Choose with column=: Graph, Layers"):
        stc.io.read_annotation(adata, tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"no column 'no'; there are: Graph, Layers"):
        stc.io.read_annotation(adata, tmp_path / "a.csv", column="no")
    stc.io.read_annotation(adata, tmp_path / "a.csv", column="Layers")
    assert set(adata.obs["layer"]) == {"GL"}
    stc.io.read_annotation(adata, tmp_path / "a.csv", key="Graph")  # the column of that name
    assert set(adata.obs["Graph"]) == {"1"}


def test_unmatched_barcodes_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = section(3)
    path = tmp_path / "a.csv"
    path.write_text("Barcode,L\n" + "".join(f"{b},x\n" for b in adata.obs_names[:5]) + "GGGG-1,x\nTTTT-1,y\n")
    with (
        pytest.warns(UserWarning, match=r"2 of 7 barcodes are not in the data \(first: 'GGGG-1'\)"),
        caplog.at_level(logging.INFO, "st_concepts.io"),
    ):
        stc.io.read_annotation(adata, path)
    assert "5 of 9 spots labelled" in caplog.text
    assert adata.obs["layer"].isna().sum() == 4
    assert adata.obs["layer"].cat.categories.tolist() == ["x"]
    path.write_text("Barcode,L\nGGGG-1,x\n")
    with pytest.raises(ValueError, match=r"none of its 1 barcodes \(first: 'GGGG-1'\) is a spot"):
        stc.io.read_annotation(adata, path)
    path.write_text(f"Barcode,L\n{adata.obs_names[0]},x\n{adata.obs_names[0]},y\n")
    with pytest.raises(ValueError, match="has two labels, 'x' and 'y'"):
        stc.io.read_annotation(adata, path)


def test_st_positions(tmp_path: Path) -> None:
    adata = AnnData(np.ones((2, 1), dtype=np.float32))
    adata.obs_names = ["16.92x9.015", "18.1x9.1"]
    path = tmp_path / "a.tsv"
    path.write_text("\t17_9\t18_9\nGL\t1\t0\nONL\t0\t1\n")
    stc.io.read_annotation(adata, path)
    assert adata.obs["layer"].tolist() == ["GL", "ONL"]


# polygons


def test_polygons_with_holes_and_islands(tmp_path: Path) -> None:
    adata = section()
    ring = polygon(square(5, 85), square(25, 65))
    islands = {"type": "MultiPolygon", "coordinates": [[square(28, 42)], [square(48, 62)]]}
    stc.io.read_annotation(adata, save(tmp_path / "a.geojson", feature("ring", ring), feature("islands", islands)))
    expected = np.array([None] * 100, dtype=object)
    expected[inside(adata, 5, 85) & ~inside(adata, 25, 65)] = "ring"
    expected[inside(adata, 28, 42) | inside(adata, 48, 62)] = "islands"
    got = adata.obs["layer"].astype(object).where(adata.obs["layer"].notna(), None)
    assert got.tolist() == expected.tolist()
    assert adata.obs["layer"].cat.categories.tolist() == ["ring", "islands"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.lists(st.floats(0, 6.28), min_size=3, max_size=9, unique=True),
    radius=st.floats(15, 60),
)
def test_point_in_polygon_as_matplotlib_has_it(tmp_path: Path, angles: list[float], radius: float) -> None:
    adata = section()
    angles = sorted(angles)
    k = np.arange(len(angles)) % 2
    r = radius * np.where(k, 1.0, 0.6)
    corners = np.column_stack([45.03 + r * np.cos(angles), 45.07 + r * np.sin(angles)])
    path = matplotlib.path.Path(corners)
    truth = path.contains_points(adata.obsm["spatial"])
    near = path.contains_points(adata.obsm["spatial"], radius=1e-6) != path.contains_points(
        adata.obsm["spatial"], radius=-1e-6
    )
    area = 0.5 * abs(np.sum(corners[:, 0] * np.roll(corners[:, 1], 1) - corners[:, 1] * np.roll(corners[:, 0], 1)))
    if area < 1e-3 or not truth.any() or near.any() or np.diff(angles).max() > 3.1:
        return
    ring = [*corners.tolist(), corners[0].tolist()]
    stc.io.read_annotation(adata, save(tmp_path / "a.geojson", feature("in", polygon(ring))))
    np.testing.assert_array_equal(adata.obs["layer"].notna(), truth)


def test_overlap(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.geojson", feature("small", polygon(square(20, 50))), feature("big", polygon(square(0, 90)))
    )
    adata = section()
    with pytest.warns(UserWarning, match="16 spots are in polygons of different labels and take that of the smallest"):
        stc.io.read_annotation(adata, path)
    np.testing.assert_array_equal(adata.obs["layer"] == "small", inside(adata, 20, 50))
    with pytest.warns(UserWarning, match="get no label"), pytest.warns(UserWarning, match="no spot is in small"):
        stc.io.read_annotation(adata, path, overlap="none")
    np.testing.assert_array_equal(adata.obs["layer"].isna(), inside(adata, 20, 50))
    with pytest.raises(ValueError, match=r"16 spots are in polygons of different labels \(the first in big, small\)"):
        stc.io.read_annotation(adata, path, overlap="error")
    # two outlines of one layer may overlap
    twice = save(tmp_path / "b.geojson", feature("a", polygon(square(0, 50))), feature("a", polygon(square(20, 90))))
    stc.io.read_annotation(adata, twice)


def test_what_qupath_writes_beside_annotations(tmp_path: Path) -> None:
    adata = section()
    point = {"type": "Point", "coordinates": [5, 5]}
    bow = [[0, 60], [30, 90], [30, 60], [0, 90], [0, 60]]  # crosses itself
    path = save(
        tmp_path / "a.json",
        feature(None, polygon(square(0, 20))),
        feature(None, polygon(square(30, 50)), name="from its name"),
        feature("cell", polygon(square(60, 70)), objectType="cell"),
        feature("p", point),
        feature("bow", polygon(bow)),
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stc.io.read_annotation(adata, path)
    text = " ".join(str(w.message) for w in said)
    for remark in ("1 polygons without a class", "1 cell objects", "1 Point objects"):
        assert remark in text
    assert (adata.obs["layer"] == "from its name").sum() == 9
    assert (adata.obs["layer"] == "bow").sum() > 4
    # older versions write a bare list; a derived class has several names
    bare = feature(None, polygon(square(0, 20)))
    bare["properties"] = {"classification": {"names": ["Tumor", "margin"]}}
    (tmp_path / "b.geojson").write_text(json.dumps([bare]))
    stc.io.read_annotation(adata, tmp_path / "b.geojson")
    assert adata.obs["layer"].cat.categories.tolist() == ["Tumor: margin"]


def test_wrong_frame_shows_both_boxes(tmp_path: Path) -> None:
    adata = section()
    adata.uns["spatial"] = {"s": {"images": {}, "scalefactors": {"tissue_hires_scalef": 0.01}}}
    away = save(tmp_path / "a.geojson", feature("a", polygon(square(1000, 2000))))
    with pytest.raises(
        ValueError, match=r"polygons span x 1000\.\.2000, y 1000\.\.2000, the spots x 0\.\.90, y 0\.\.90.*scale="
    ):
        stc.io.read_annotation(adata, away)
    reduced = save(tmp_path / "b.geojson", feature("a", polygon(square(0.15, 0.55))))
    with pytest.raises(ValueError, match="scale='hires' is given"):
        stc.io.read_annotation(adata, reduced)
    stc.io.read_annotation(adata, reduced, scale="hires")
    np.testing.assert_array_equal(adata.obs["layer"].notna(), inside(adata, 15, 55))
    adata.obsm["spatial"] = adata.obsm["spatial"] + [500.0, 0.0]
    swapped = save(tmp_path / "c.geojson", feature("a", polygon([[0, 500], [50, 500], [50, 550], [0, 550], [0, 500]])))
    with pytest.raises(ValueError, match="x and y are swapped"):
        stc.io.read_annotation(adata, swapped)


def test_mistakes(tmp_path: Path) -> None:
    adata = section()
    good = save(tmp_path / "a.geojson", feature("a", polygon(square(0, 50))))
    for bad, match in (
        ({"kind": "qupath"}, "kind='qupath' is unknown"),
        ({"overlap": "first"}, "overlap='first' is unknown"),
        ({"scale": "hires"}, "no such image; there are: none"),
        ({"scale": -1.0}, "must be a positive number"),
        ({"categories": ["b"]}, r"label\(s\) a are not in categories=, b"),
    ):
        with pytest.raises(ValueError, match=match):
            stc.io.read_annotation(adata, good, **bad)
    assert "layer" not in adata.obs
    (tmp_path / "b.geojson").write_text("{ not json")
    with pytest.raises(ValueError, match="is not GeoJSON"):
        stc.io.read_annotation(adata, tmp_path / "b.geojson")
    with pytest.raises(ValueError, match="no polygons"):
        stc.io.read_annotation(adata, save(tmp_path / "c.geojson"))
    with pytest.raises(ValueError, match="none of its 1 polygons has a class"):
        stc.io.read_annotation(adata, save(tmp_path / "d.geojson", feature(None, polygon(square(0, 50)))))
    broken = feature("a", {"type": "Polygon", "coordinates": [[["x", 1], [2, 3]]]})
    with pytest.raises(ValueError, match="a polygon cannot be read"):
        stc.io.read_annotation(adata, save(tmp_path / "e.geojson", broken))
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="polygons are matched by the coordinates"):
        stc.io.read_annotation(adata, good)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        stc.io.read_annotation(adata, tmp_path / "no.csv")


def test_categories_order_the_layers(tmp_path: Path) -> None:
    adata = section()
    stc.io.read_annotation(
        adata, save(tmp_path / "a.geojson", feature("in", polygon(square(0, 50)))), categories=["out", "in"]
    )
    assert adata.obs["layer"].cat.ordered
    assert adata.obs["layer"].cat.categories.tolist() == ["out", "in"]


# napari, SpatialData


def napari_csv(path: Path, shapes: list[tuple[str, Any]]) -> Path:
    """The CSV that napari's shapes writer makes: rows, columns; one row a vertex."""
    rows = [
        (i, kind, v, y, x)
        for i, (kind, xy) in enumerate(shapes)
        for v, (x, y) in enumerate(np.asarray(xy, dtype=float))
    ]
    pd.DataFrame(rows, columns=["index", "shape-type", "vertex-index", "axis-0", "axis-1"]).to_csv(path, index=False)
    return path


def test_napari(tmp_path: Path) -> None:
    adata = section()
    rectangle = np.array([[-1, 39], [91, 39], [91, 61], [-1, 61]])  # wide and low: a swap would show
    folder = tmp_path / "layers"
    folder.mkdir()
    napari_csv(folder / "GL.csv", [("rectangle", rectangle), ("line", [[0, 0], [5, 5]])])
    circle = np.array([[20, 0], [40, 0], [40, 20], [20, 20]])  # box of a circle of radius 10
    napari_csv(folder / "ONL.csv", [("ellipse", circle)])
    with pytest.warns(UserWarning, match="1 lines and paths"):
        stc.io.read_annotation(adata, folder)
    x, y = adata.obsm["spatial"].T
    np.testing.assert_array_equal(adata.obs["layer"] == "GL", (y >= 39) & (y <= 61))
    close = (x - 30) ** 2 + (y - 10) ** 2
    # an inscribed polygon may miss spots on the circle itself
    np.testing.assert_array_equal((adata.obs["layer"] == "ONL")[close < 99], True)
    assert not (adata.obs["layer"] == "ONL")[close > 101].any()
    with pytest.warns(UserWarning, match="1 lines"):
        stc.io.read_annotation(adata, folder / "GL.csv", label="mine")
    assert adata.obs["layer"].cat.categories.tolist() == ["mine"]


def test_spatialdata_shapes(spatialdata_store: Callable[..., Path]) -> None:
    sd = pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Scale

    path = spatialdata_store(scale=2.0)
    sdata = sd.read_zarr(path)
    # drawn at a scale of its own: the frames must be brought together
    drawn = gpd.GeoDataFrame({"layer": ["left", "right"]}, geometry=[shapely.box(0, 0, 4, 6), shapely.box(4, 0, 8, 6)])
    sdata["layers"] = ShapesModel.parse(drawn, transformations={"global": Scale([20.0, 20.0], axes=("x", "y"))})
    adata = stc.io.read(sdata)
    stc.io.read_annotation(adata, sdata, key="drawn", element="layers")
    expected = np.where((adata.obs["instance_id"] - 100) % 8 < 4, "left", "right")
    assert adata.obs["drawn"].tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"element= names the shapes.*layers"):
        stc.io.read_annotation(adata, sdata)
    with pytest.raises(ValueError, match=r"column= names the label"):
        stc.io.read_annotation(adata, sdata, element="spots")


# round trips


def test_round_trip(simulated: AnnData, tmp_path: Path) -> None:
    simulated.obs.loc[simulated.obs_names[:20], "layer"] = np.nan
    for scale in (1.0, 37.5):
        stc.io.write_annotation(simulated, tmp_path / "a.geojson", scale=scale)
        stc.io.read_annotation(simulated, tmp_path / "a.geojson", key="back", scale=scale)
        assert simulated.obs["back"].astype(str).tolist() == simulated.obs["layer"].astype(str).tolist()
    stored = json.loads((tmp_path / "a.geojson").read_text())
    assert {f["properties"]["objectType"] for f in stored["features"]} == {"annotation"}
    assert all(len(f["properties"]["classification"]["color"]) == 3 for f in stored["features"])


@pytest.mark.real_data
def test_round_trip_of_the_bulb(mob11: AnnData, tmp_path: Path) -> None:
    stc.io.write_annotation(mob11, tmp_path / "layers.geojson")
    stc.io.read_annotation(
        mob11, tmp_path / "layers.geojson", key="back", categories=mob11.obs["layer"].cat.categories.tolist()
    )
    pd.testing.assert_series_equal(mob11.obs["back"], mob11.obs["layer"], check_names=False)


def test_writer_refuses(simulated: AnnData, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="'no' is not a column"):
        stc.io.write_annotation(simulated, tmp_path / "a.geojson", key="no")
    simulated.obsm["spatial"][:] = 1.0
    with pytest.raises(ValueError, match="at the place of another spot"):
        stc.io.write_annotation(simulated, tmp_path / "a.geojson")
    simulated.obs["one"] = "a"
    stc.io.write_annotation(simulated, tmp_path / "a.geojson", key="one")
    simulated.obs["none"] = pd.Categorical([None] * simulated.n_obs)
    with pytest.raises(ValueError, match="has no label"):
        stc.io.write_annotation(simulated, tmp_path / "a.geojson", key="none")
    assert [p.name for p in tmp_path.iterdir()] == ["a.geojson"]
