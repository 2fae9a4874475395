"""A reader of one's own: registered, detected, read, used on the command line, and gone again."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main

ORDER = ["h5ad", "zarr", "spatialdata", "visium", "visium_hd", "xenium", "st"]


def read_box(path: Path, *, table: str | None = None) -> AnnData:
    if not (path / "inner.h5ad").is_file():
        raise ValueError(f"{path}: inner.h5ad is missing, pack the box again.")
    adata = ad.read_h5ad(path / "inner.h5ad")
    adata.uns["table"] = str(table)
    return adata


def is_box(path: Path) -> bool:
    return (path / "box.txt").is_file()


BOX = stc.io.Reader("a_box2", "Box", "a folder with box.txt", is_box, read_box, options=("table",), short="boxes")


@pytest.fixture
def readers() -> Iterator[None]:
    before = dict(stc.io.READERS)
    yield
    stc.io.READERS._held = before


@pytest.fixture
def box(tmp_path: Path) -> Path:
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "box.txt").touch()
    stc.datasets.simulated_bulb(n_obs=120, n_vars=100, n_markers=8, n_smooth=5, seed=1).write_h5ad(
        folder / "inner.h5ad"
    )
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["run", *map(str, argv), "--groupby", "layer", "--max-epochs", "0", "--n-latent", "3"])
    return stop.value.code, *capsys.readouterr()


@pytest.mark.usefixtures("readers")
def test_a_registered_reader_is_detected_and_read(box: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert stc.io.register(BOX) is BOX
    assert stc.io.detect_kind(box) == "a_box2"
    with caplog.at_level(logging.INFO, "st_concepts.io"):
        adata = stc.io.read(box)
    assert f"{box}: Box (detected)" in caplog.text
    assert (adata.shape, adata.uns["table"]) == ((120, 100), "None")
    assert stc.io.read(box, kind="a_box2", table="x").uns["table"] == "x"
    with pytest.raises(ValueError, match=r"bin_size=8 is for Visium HD, but .* is read as Box"):
        stc.io.read(box, bin_size=8)
    with pytest.raises(ValueError, match=r"table='x' is for SpatialData stores or boxes, but .* AnnData"):
        stc.io.read(box / "inner.h5ad", table="x")
    (box / "inner.h5ad").unlink()
    with pytest.raises(ValueError, match=r"box: inner\.h5ad is missing, pack the box again\.$"):
        stc.io.read(box)
    with pytest.raises(ValueError, match=r"as Box \(expected: a folder with box\.txt\).*Leave out kind='a_box2'"):
        stc.io.read(box, kind="a_box2")


@pytest.mark.usefixtures("readers")
def test_the_command_line_takes_it_and_it_goes_again(
    box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5ad"
    code, _, err = run(capsys, box, "--out", out)
    assert (code, "of no kind that can be read" in err) == (2, True)
    stc.io.register(BOX)
    for more in ((), ("--kind", "a_box2")):
        code, said, err = run(capsys, box, "--out", out, *more)
        assert code == 0, err
        assert f"data: {box} (Box), 120 spots x 100 genes" in said
    assert "concepts" in stc.io.read(out).uns
    (box / "he.png").touch()
    assert f"--image {box / 'he.png'} is for ST tables" in run(capsys, box, "--out", out, "--image", box / "he.png")[2]
    del stc.io.READERS._held["a_box2"]
    assert "kind a_box2 is unknown; use 'h5ad', 'zarr'" in run(capsys, box, "--out", out, "--kind", "a_box2")[2]
    with pytest.raises(ValueError, match="of no kind that can be read"):
        stc.io.detect_kind(box)


def test_a_reader_that_is_not_registered_is_passed_as_an_object(box: Path) -> None:
    assert stc.io.read(box, kind=BOX).n_obs == 120
    with pytest.raises(ValueError, match="kind='a_box2' is unknown; use " + ", ".join(map(repr, ORDER))):
        stc.io.read(box, kind="a_box2")
    with pytest.raises(ValueError, match="of no kind"):
        stc.io.read(box)


@pytest.mark.usefixtures("readers")
def test_own_readers_are_asked_before_tables_and_before_a_file_is_refused(tmp_path: Path) -> None:
    assert list(stc.io.READERS) == ORDER
    table, loom = tmp_path / "a.tsv", tmp_path / "a.loom"
    table.write_text("\tPenk\n17x9\t3\n")
    with h5py.File(loom, "w") as f:
        f.create_group("row_attrs")
        f.create_group("col_attrs")
    assert stc.io.detect_kind(table) == "st"
    with pytest.raises(ValueError, match="is a loom file"):
        stc.io.detect_kind(loom)
    for name in ("zz", "loom"):
        suffix = ".tsv" if name == "zz" else ".loom"
        stc.io.register(stc.io.Reader(name, name, name, lambda path, s=suffix: path.suffix == s, ad.read_h5ad))
    assert list(stc.io.READERS) == [*ORDER[:-1], "loom", "zz", "st"]
    assert stc.io.detect_kind(table) == "zz"
    assert stc.io.detect_kind(loom) == "loom"


@pytest.mark.usefixtures("readers")
def test_registering_knows_the_readers_of_the_package() -> None:
    visium = stc.io.READERS["visium"]
    with pytest.raises(ValueError, match="The reader 'visium' is there already"):
        stc.io.register(dataclasses.replace(visium, what="x"))
    stc.io.register(dataclasses.replace(visium, what="x"), replace=True)
    assert stc.io.READERS["visium"].what == "x"
    with pytest.raises(TypeError, match="takes a Reader"):
        stc.io.register("visium")
    with pytest.raises(ValueError, match="needs a name that is a word"):
        stc.io.register(dataclasses.replace(visium, kind="my kind"))


def test_a_reader_can_be_replaced_before_anything_was_read() -> None:
    code = (
        "import st_concepts as stc\nmine = stc.io.Reader('visium', 'x', 'y', lambda path: False, stc.io.read_st)\n"
        "stc.io.register(mine, replace=True)\nassert stc.io.READERS['visium'] is mine and len(stc.io.READERS) == 7"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_positions_in_a_folder_are_no_section(tmp_path: Path) -> None:
    (tmp_path / "S1" / "spatial").mkdir(parents=True)
    (tmp_path / "S1" / "spatial" / "tissue_positions.csv").touch()
    with pytest.raises(ValueError, match=r"it has tissue_positions\.csv but no count matrix"):
        stc.io.detect_kind(tmp_path / "S1")
