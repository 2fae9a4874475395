"""Files that are something else than their name says: each is named as what it is, wherever it is read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from anndata import AnnData

import st_concepts as stc
from tests.io._readers.space_ranger import H5, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:(?!st_concepts)"),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "is a Git LFS pointer.*git lfs pull"),
        (b"/annex/objects/MD5E-s12--0\n", "is a git-annex pointer.*git annex get"),
        (b"", r"is empty \(0 bytes\)"),
        (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is the error of a server"),
        (gzip.compress(b"version https://git-lfs.github.com/spec/v1\n", mtime=0), "is a Git LFS pointer"),
        (gzip.compress(b"", mtime=0), "empty inside"),
        (b"\x1f\x8b\x08\x00broken", "truncated or corrupt"),
    ],
    ids=["lfs", "annex", "empty", "page", "server", "lfs gz", "empty gz", "broken gz"],
)
def test_files_that_only_stand_for_others(
    visium_folder: Path, whole: AnnData, tmp_path: Path, content: bytes, message: str
) -> None:
    def says(read: Callable[[], object], path: Path) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    for name in ("a.h5ad", "a.tsv.gz", "a.h5"):
        path = tmp_path / name
        path.write_bytes(content)
        says(lambda path=path: stc.io.read(path), path)
    for name in ("l.csv", "l.geojson"):
        path = tmp_path / name
        path.write_bytes(content)
        says(lambda path=path: stc.io.read_annotation(whole, path), path)
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    table = tmp_path / "table.tsv"
    table.write_text("\tPenk\tOmp\n17x9\t3\t0\n")
    says(lambda: stc.io.read_st(table, image=path), path)
    model = tmp_path / "model.stc"
    model.write_bytes(content)
    says(lambda: stc.SpotVAE.load(model), model)
    inner = visium_folder / "spatial"
    names = ("tissue_positions.csv", "scalefactors_json.json", "tissue_lowres_image.png")
    for path in (visium_folder / H5, *(inner / name for name in names)):
        kept = path.read_bytes()
        path.write_bytes(content)
        says(lambda: stc.io.read(visium_folder), path)
        path.write_bytes(kept)
    same(stc.io.read(visium_folder), whole)


def test_archives_and_files_of_other_programs_are_named(tmp_path: Path) -> None:
    import tarfile
    import zipfile

    def said(name: str) -> str:
        with pytest.raises(ValueError, match=name) as caught:
            stc.io.read(tmp_path / name)
        return str(caught.value)

    (tmp_path / "t.csv").write_text("a,b\n")
    with tarfile.open(tmp_path / "spatial.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "t.csv", "t.csv")
    assert "tar archive; unpack it" in said("spatial.tar.gz")
    for name, inner in (("a.zip", "t.csv"), ("a.zarr.zip", ".zgroup"), ("labels.xlsx", "xl/workbook.xml")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inner, "{}")
    assert "zip archive; unpack it" in said("a.zip")
    assert "unzip a.zarr.zip -d a.zarr" in said("a.zarr.zip")
    assert "save its sheet as CSV" in said("labels.xlsx")
    for name, content in (
        ("a.rds", gzip.compress(b"X\n\x00\x00\x00\x03", mtime=0)),
        ("a.RData", gzip.compress(b"RDX3\nX\n")),
        ("a.qs", b"\x0b\x0e\x0a\xc1"),
    ):
        (tmp_path / name).write_bytes(content)
        assert "holds R objects" in said(name)
    with h5py.File(tmp_path / "a.h5ad", "w") as f:
        f["x"] = 1
    (tmp_path / "a.h5ad.gz").write_bytes(gzip.compress((tmp_path / "a.h5ad").read_bytes()))
    assert "HDF5 within gzip" in said("a.h5ad.gz")
    for name, groups, text in (
        ("a.h5mu", ("mod", "obs", "var"), "MuData"),
        ("a.loom", ("matrix", "row_attrs", "col_attrs"), "loom"),
        ("a.h5seurat", ("assays", "cell.names"), "Seurat"),
    ):
        with h5py.File(tmp_path / name, "w") as f:
            for group in groups:
                f.create_group(group)
        assert text in said(name)
    (tmp_path / "gone.h5ad").symlink_to(".git/annex/objects/xx/MD5E-s12--0.h5ad")
    with pytest.raises(FileNotFoundError, match="git annex get"):
        stc.io.read(tmp_path / "gone.h5ad")
