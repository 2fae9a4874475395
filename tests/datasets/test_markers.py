from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from st_concepts import datasets
from st_concepts.datasets import _markers

LAYERS = {"ONL", "GL", "OPL", "MCL", "GCL"}


def test_table_is_tidy():
    markers = datasets.bulb_markers()
    assert markers.columns.tolist() == ["gene", "label", "kind", "layer", "table", "source"]
    assert not markers.drop(columns="layer").isna().any(axis=None)
    assert not markers.duplicated(["gene", "label", "source"]).any()
    assert set(markers["kind"]) == {"layer", "cell type"}
    layers = markers[markers["kind"] == "layer"]
    assert (layers["layer"] == layers["label"]).all()
    assert set(markers["layer"].dropna()) == LAYERS
    # only vessels are in no layer
    assert set(markers.loc[markers["layer"].isna(), "label"]) == {"Mural", "EC"}
    assert markers["source"].str.contains(r"(?:19|20)\d\d").all()
    assert not markers.map(lambda text: isinstance(text, str) and text != text.strip()).any(axis=None)


def test_facts_of_the_papers():
    markers = datasets.bulb_markers()
    genes = markers.groupby("label")["gene"].agg(set)
    assert genes["GC"] == {"Gria2", "Meis2", "Prkca", "Penk"}
    assert {"Slc17a7", "Reln", "Cdhr1", "Doc2g"} <= genes["MCL"]
    assert {"Kctd12", "Omp"} <= genes["ONL"]
    assert "Penk" in genes["GCL"]


@pytest.mark.real_data
def test_genes_exist_in_the_sections(mob1, mob2, mob11):
    """Two thirds at least of each table are measured in every section, so that checks against it mean something."""
    markers = datasets.bulb_markers()
    for adata in (mob1, mob2, mob11):
        share = pd.Series(markers["gene"].isin(adata.var_names)).groupby(markers["table"]).mean()
        assert (share > 2 / 3).all(), share


def test_tables_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    """importlib.resources may hand out a path inside a zip file: nothing may rely on a folder on disk."""
    source = Path(__file__).resolve().parents[2] / "data" / "markers"
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        for path in source.glob("*.tsv"):
            handle.write(path, f"st_concepts/datasets/markers/{path.name}")
    expected = datasets.bulb_markers()
    monkeypatch.setattr(_markers, "files", lambda _: zipfile.Path(archive) / "st_concepts" / "datasets")
    # no checkout in reach either
    monkeypatch.setattr(_markers, "__file__", str(tmp_path / "a" / "b" / "c" / "_markers.py"))
    pd.testing.assert_frame_equal(datasets.bulb_markers(), expected)
    monkeypatch.setattr(_markers, "files", lambda _: tmp_path)
    with pytest.raises(FileNotFoundError, match="pip install"):
        datasets.bulb_markers()
