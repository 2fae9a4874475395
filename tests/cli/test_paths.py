"""What a command reads and writes: every pair of an input and an output with one path is refused, before any work."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main
from st_concepts.cli._errors import UsageError
from st_concepts.cli._paths import Input, Output, Plan, files_in
from st_concepts.cli._pipeline import PICTURES
from st_concepts.cli._run import Files

WAYS = ("directly", "symlink", "hard link", "parent", "child", "link to parent", "dots")
INPUTS = {"IN": "in.h5ad", "--annotation": "labels.csv", "--image": "image.png"}
# of each output a name that it could have
OUTPUTS = {
    "--out": "o.h5ad",
    "--markers": "m.csv",
    "--model": "m.stc",
    "--report": "r.html",
    "--pictures": "pictures",
    "--checkpoint": "fit",
}


def contents(folder: Path) -> dict[str, object]:
    """Everything below a folder, byte for byte."""
    return {
        str(p.relative_to(folder)): (
            os.readlink(p) if p.is_symlink() else (p.read_bytes(), p.stat().st_mtime_ns) if p.is_file() else None
        )
        for p in sorted(folder.rglob("*"))
    }


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which a command refuses."""

    def call(*args: object) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in args])
        said = capsys.readouterr().err
        assert left.value.code == 2, said
        assert said.count("\n") == 1, said
        return said

    return call


def led_to(place: Path, way: str) -> Path:
    """A path that is, contains or lies in a place, in one of seven ways."""
    if way == "symlink":
        link = place.with_name(f"link-{place.name}")
        link.symlink_to(place)
        return link
    if way == "hard link":
        if place.is_dir():
            pytest.skip("folders have no hard links")
        link = place.with_name(f"twin-{place.name}")
        os.link(place, link)
        return link
    if way == "link to parent":
        (place.parent / "around").symlink_to(place.parent)
        return place.parent / "around" / place.name
    return {
        "directly": place,
        "parent": place.parent,
        "child": place / "new",
        "dots": place.parent / "no" / ".." / place.name,
    }[way]


def name_for(option: str, place: Path) -> Path:
    """A path with the ending that an output must have; the place itself where it has it already."""
    suffix = Path(OUTPUTS[option]).suffix
    return place.with_name(place.name + suffix) if option in ("--out", "--report") else place


# ------------------------------------------------------------------------------------------- every pair


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("given", INPUTS)
def test_every_pair_of_one_path_is_refused_and_the_input_stays(tmp_path, cli, given, output, way):
    folder = tmp_path / "data"
    folder.mkdir()
    # an input whose name has the ending of the output, so that nothing but the place is wrong
    names = dict(INPUTS)
    if output in ("--out", "--report"):
        names[given] = "thing" + Path(OUTPUTS[output]).suffix
    for option, name in names.items():
        (folder / name).write_text(f"precious {option}")
    target = led_to(folder / names[given], way)
    if way == "child" and output in ("--out", "--report"):
        target = target.with_suffix(Path(OUTPUTS[output]).suffix)
    argv = ["run", folder / names["IN"], "--groupby", "layer"]
    for option in ("--annotation", "--image"):
        argv += [option, folder / names[option]]
    if output != "--out":
        argv += ["--out", tmp_path / "o.h5ad"]
    before = contents(tmp_path)
    said = cli(*argv, output, target)
    assert output in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", ["IN", "--model"])
def test_every_pair_of_the_report(tmp_path, cli, given, way):
    folder = tmp_path / "data"
    folder.mkdir()
    names = {"IN": "r.h5ad", "--model": "m.stc"} | {given: "thing.html"}
    for name in names.values():
        (folder / name).write_text("precious")
    target = led_to(folder / names[given], way)
    target = target.with_suffix(".html") if way == "child" else target
    before = contents(tmp_path)
    cli("report", folder / names["IN"], "--model", folder / names["--model"], "-o", target)
    assert contents(tmp_path) == before


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store whose table is an AnnData of its own; its folder is the only thing in ``data``."""
    path = tmp_path / "data" / "in.zarr"
    (path / "tables" / "table" / "obs").mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text('{"spatialdata_attrs": {}}')
    (path / "tables" / ".zgroup").write_text('{"zarr_format": 2}')
    table = path / "tables" / "table"
    (table / ".zgroup").write_text('{"zarr_format": 2}')
    (table / ".zattrs").write_text('{"encoding-type": "anndata"}')
    (table / "obs" / "column").write_text("precious")
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("given", ["IN", "--annotation"])
@pytest.mark.parametrize("part", [".", "tables/table"])
def test_every_pair_with_a_store(tmp_path, cli, store, given, output, way, part):
    place = store / part
    target = led_to(place, way)
    if output == "--out" and target.suffix not in (".zarr", ".h5ad"):
        target = target / "x.zarr" if way != "child" else target.with_suffix(".zarr")
        if way == "parent" and part == ".":
            pytest.skip("the folder around a store is no input")
    if output == "--report":
        target = target / "x.html" if way != "child" else target.with_suffix(".html")
        if way == "parent" and part == ".":
            pytest.skip("the folder around a store is no input")
    (tmp_path / "labels.csv").write_text("barcode,layer\n")
    (tmp_path / "in.h5ad").write_text("x")
    argv = ["run", place if given == "IN" else tmp_path / "in.h5ad", "--groupby", "layer"]
    argv += ["--annotation", place if given == "--annotation" else tmp_path / "labels.csv"]
    if output != "--out":
        argv += ["--out", tmp_path / "o.h5ad"]
    before = contents(tmp_path)
    said = cli(*argv, output, target)
    assert output in said
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------- as they were seen


def test_a_table_of_a_store_and_the_store(tmp_path, cli, store):
    before = contents(tmp_path)
    for target in (store, store / "result.zarr", store / "tables" / "other.zarr"):
        said = cli("run", store / "tables" / "table", "--groupby", "layer", "--out", target)
        assert "never changed" in said
    said = cli("run", store, "--groupby", "layer", "--out", tmp_path / "o.h5ad", "--checkpoint", store / "ck")
    assert "--checkpoint" in said
    assert "lies in the input folder, which is never changed" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_an_input(tmp_path, cli, name):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (tmp_path / "he.png").write_text("precious")
    os.link(tmp_path / "he.png", pictures / name)  # the folder does not hold the input, but its twin
    (tmp_path / "t.tsv").write_text("\tPenk\n1x2\t3\n")
    argv = ["run", tmp_path / "t.tsv", "--groupby", "layer", "--image", tmp_path / "he.png", "--pictures", pictures]
    assert f"{name} is the file of --image" in cli(*argv, "--out", tmp_path / "o.h5ad")
    assert (pictures / name).read_text() == "precious"


def test_twins_and_links_inside_an_input_folder(tmp_path, cli, store):
    os.link(store / "tables" / "table" / "obs" / "column", tmp_path / "m.csv")
    run = ["run", store, "--groupby", "layer", "--out", tmp_path / "o.h5ad"]
    assert "column in the input folder, which is never changed" in cli(*run, "--markers", tmp_path / "m.csv")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "X.csv").write_text("precious")
    (store / "tables" / "far").symlink_to(tmp_path / "far")
    for target in ("X.csv", "new.csv"):
        assert "never changed" in cli(*run, "--markers", tmp_path / "far" / target)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "/dev/stdout", "/proc/self/fd/1"])
@pytest.mark.parametrize("option", ["--markers", "--model"])
def test_places_of_the_system(tmp_path, cli, option, path):
    (tmp_path / "in.h5ad").write_text("x")
    before = os.stat("/dev/full").st_mode
    said = cli("run", tmp_path / "in.h5ad", "--groupby", "layer", "--out", tmp_path / "o.h5ad", option, path)
    assert f"{option} {path} is a place of the system" in said
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert os.stat("/dev/full").st_mode == before


# ------------------------------------------------------------------------------------------- outputs among themselves


def plan(tmp_path: Path, **paths: str) -> Plan:
    """The plan of a run with these outputs."""
    named = {name: tmp_path / path for name, path in paths.items()}
    return Files(tmp_path / "in.h5ad", named.pop("out", tmp_path / "o.h5ad"), **named).plan()


@pytest.mark.parametrize("first", ["out", "markers", "model", "report", "pictures", "checkpoint"])
@pytest.mark.parametrize("second", ["out", "markers", "model", "report", "pictures", "checkpoint"])
def test_two_outputs_are_never_one(tmp_path, first, second):
    if first == second:
        return
    for a, b in (("x", "x"), ("x", "no/../x"), ("x", "link"), ("x", "X"), ("x", "é/../x")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("x")
        with pytest.raises(UsageError, match="name the same"):
            plan(tmp_path, **{first: a, second: b}).check()


def test_what_may_lie_in_what(tmp_path):
    plan(tmp_path, pictures="p", markers="p/m.csv", out="p/o.h5ad", checkpoint="p/fit").check()
    plan(tmp_path, checkpoint="fit", model="fit/model.stc", report="fit/r.html").check()
    for wrong in (
        {"out": "o.zarr", "markers": "o.zarr/m.csv"},
        {"out": "o.zarr", "pictures": "O.zarr/p"},
        {"markers": "m", "model": "m/model.stc"},
        {"pictures": "p", "markers": "p/layers.png"},
        {"pictures": "p", "markers": "p/Layers.PNG"},
        {"checkpoint": "p", "model": "p/checkpoint.stc"},
        {"checkpoint": "p/layers.png", "pictures": "p"},
    ):
        with pytest.raises(UsageError, match=r"name the same|written as a whole"):
            plan(tmp_path, **wrong).check()
    assert os.listdir(tmp_path) == []


def test_pictures_and_checkpoints_that_cannot_be_replaced(tmp_path):
    (tmp_path / "p").mkdir()
    os.mkfifo(tmp_path / "p" / "layers.png")
    with pytest.raises(UsageError, match=r"--pictures .*layers\.png is a pipe"):
        plan(tmp_path, pictures="p").check()
    (tmp_path / "fit" / "next.stc").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"--checkpoint .*next\.stc is a folder"):
        plan(tmp_path, checkpoint="fit").check()
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match=r"--pictures .* is a file; name a folder"):
        plan(tmp_path, pictures="f").check()


def test_the_demo_replaces_only_files(tmp_path, cli):
    (tmp_path / "markers.csv").mkdir()
    assert "markers.csv is a folder" in cli("demo", "--dataset", "simulated", "--out", tmp_path)


def test_the_plan_knows_every_path_option_of_the_commands():
    """An option with a path that is added later must be put into the plan too."""
    import inspect

    from st_concepts.cli import _app

    def paths(command: Callable[..., None]) -> set[str]:
        hints = inspect.get_annotations(command)
        return {name for name, hint in hints.items() if "Path" in str(hint)}

    files = Files(Path("in"), Path("o"), *map(Path, ("markers", "model", "pictures", "annotation", "report")),
                  image=Path("image"), checkpoint=Path("checkpoint")).plan()  # fmt: skip
    known = {one.option.removeprefix("--") for one in (*files.inputs, *files.outputs)}
    assert paths(_app.run) == known - {"IN"} | {"source"}
    assert paths(_app.report) == {"source", "out", "model"}
    assert paths(_app.demo) == {"out"}


def test_equal_runs_write_equal_models(tmp_path, simulated: AnnData):
    for name in ("a.stc", "b.stc"):
        stc.SpotVAE(simulated, n_latent=3, seed=1).fit(max_epochs=0, progress=False).save(tmp_path / name)
    assert (tmp_path / "a.stc").read_bytes() == (tmp_path / "b.stc").read_bytes()
    for target in ("/dev/full", tmp_path):
        with pytest.raises(ValueError, match=r"place of the system|is a folder"):
            stc.SpotVAE.load(tmp_path / "a.stc").save(target)
        with pytest.raises(ValueError, match=r"place of the system|is a folder"):
            stc.io.write_annotation(simulated, target)


def test_missing_inputs_are_left_to_the_reader(tmp_path):
    Plan((Input("IN", tmp_path / "no.h5ad"),), (Output("--out", tmp_path / "o.h5ad"),)).check()
    assert files_in("--pictures", None, PICTURES) == ()


def test_markers_are_replaced_as_a_whole(tmp_path):
    from st_concepts.cli._files import write_csv

    path = tmp_path / "deep" / "m.csv"
    write_csv(pd.DataFrame({"x": np.arange(3)}), path)
    (tmp_path / "link.csv").symlink_to(path)
    write_csv(pd.DataFrame({"x": [7]}), tmp_path / "link.csv")
    assert path.read_text() == "x\n7\n"
