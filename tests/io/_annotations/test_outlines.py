"""Drawings on the spots: without coordinates, on a reduced image, in several sections; there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import st_concepts as stc
from tests.io._annotations.drawings import (
    LEFT,
    classed,
    feature,
    polygon,
    read,
    save,
    section,
)


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


def test_cells_beside_a_fine_outline(tmp_path: Path) -> None:
    cells = [feature(polygon((x, y, x + 1, y + 1)), {"objectType": "cell"}) for x in range(40) for y in range(50)]
    angle = np.linspace(0, 2 * np.pi, 20_000)
    circle = np.column_stack([45 + 40 * np.cos(angle), 45 + 40 * np.sin(angle)]).tolist()
    path = save(tmp_path / "a.geojson", [*cells, feature({"type": "Polygon", "coordinates": [circle]}, classed("a"))])
    counts, said = read(path)
    assert counts == {"a": int((((section().obsm["spatial"] - 45) ** 2).sum(1) < 1600).sum())}
    assert "2000 cell objects" in said
