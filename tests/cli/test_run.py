from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main
from st_concepts.cli._pipeline import PICTURES

PNGS = [
    "concept_scores.png",
    "layers.png",
    "marker_dotplot.png",
    "marker_heatmap.png",
    "saliency_maps.png",
    "score_histograms.png",
]


@pytest.fixture(scope="module")
def section() -> AnnData:
    adata = stc.datasets.simulated_bulb(n_obs=150, n_vars=120, n_markers=8, n_smooth=5, unlabelled=0.2, seed=2)
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    return adata


@pytest.fixture
def source(section, tmp_path) -> Path:
    path = tmp_path / "in.h5ad"
    section.write_h5ad(path)
    return path


@pytest.fixture
def cli(capsys):
    def call(*argv: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(cli, *argv: str | Path) -> str:
    """The one line that a user's mistake gives."""
    code, _, err = cli(*argv)
    lines = err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, err
    assert lines[0].startswith("st-concepts: error: ")
    return lines[0]


def test_run_writes_everything_asked_for_and_leaves_the_input_alone(cli, source, tmp_path):
    before, stamp = digest(source), source.stat().st_mtime_ns
    out, markers = tmp_path / "new" / "out.h5ad", tmp_path / "markers.csv"
    model, pictures = tmp_path / "m.stc", tmp_path / "pictures"
    code, text, err = cli(
        "run", source, "--groupby", "layer", "--out", out, "--markers", markers, "--model", model,
        "--pictures", pictures, "--maps", "2", "--seed", "3", "--max-epochs", "1",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert (digest(source), source.stat().st_mtime_ns) == (before, stamp)
    assert "L2/3" in text
    assert sorted(p.name for p in pictures.iterdir()) == PNGS == sorted(PICTURES)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["out.h5ad"]

    result = ad.read_h5ad(out)
    assert (result.X != ad.read_h5ad(source).X).nnz == 0
    assert list(stc.get.concept_scores(result)) == ["ONL", "GL", "OPL", "L2/3", "GCL"]
    assert result.layers["concept_saliency_L2_3"].getnnz(axis=0).astype(bool).sum() == 2
    table = pd.read_csv(markers)
    assert set(table["concept"]) == {"ONL", "GL", "OPL", "L2/3", "GCL"}
    assert len(table) == 5 * result.n_vars
    pd.testing.assert_series_equal(
        table.loc[table["concept"] == "L2/3", "names"].reset_index(drop=True),
        sc.get.rank_genes_groups_df(result, group="L2/3", key="rank_genes_concepts")["names"].astype(object),
        check_dtype=False,
    )
    again = stc.SpotVAE.load(model)
    assert again.fingerprint == result.uns["concepts"]["model"]
    np.testing.assert_allclose(again.embed(result), result.obsm["X_stc"], atol=1e-5)


def test_run_goes_on_from_its_checkpoint(cli, source, tmp_path):
    asked = ["run", source, "--groupby", "layer", "--max-epochs", "2", "--checkpoint", tmp_path / "fit"]
    code, first, _ = cli(*asked, "--out", tmp_path / "first.h5ad")
    assert code == 0
    assert (tmp_path / "fit" / "checkpoint.stc").is_file()
    _, second, _ = cli(*asked, "--out", tmp_path / "second.h5ad")
    assert next(x for x in first.splitlines() if x.startswith("model:")) in second.splitlines()
    line = refused(cli, *asked, "--n-latent", "7", "--out", tmp_path / "third.h5ad")
    assert "belongs to another fit (n_latent was 20, is 7)" in line


def test_run_does_what_the_functions_do(cli, source, section, tmp_path):
    options = [
        "--method",
        "gradient_x_input",
        "--estimator",
        "mean_difference",
        "--null",
        "permutation",
        "--seed",
        "5",
        "--max-epochs",
        "2",
    ]
    code, _, _ = cli("run", source, "--groupby", "layer", "--out", tmp_path / "o.h5ad", "--n-latent", "6", *options)
    assert code == 0
    result = ad.read_h5ad(tmp_path / "o.h5ad")
    expected = section.copy()
    model = stc.SpotVAE(expected, n_latent=6, seed=5).fit(max_epochs=2, progress=False)
    stc.tl.concepts(expected, model, groupby="layer", estimator="mean_difference", seed=5)
    stc.tl.saliency(expected, model, method="gradient_x_input")
    stc.tl.rank_genes_concepts(expected, null="permutation", seed=5)
    for ours, theirs in (
        (result.obsm["concept_score"], expected.obsm["concept_score"]),
        (result.varm["concept_saliency"], expected.varm["concept_saliency"]),
        (stc.get.markers(result), stc.get.markers(expected)),
    ):
        pd.testing.assert_frame_equal(ours, theirs, check_names=False)


def test_counts_in_a_layer_and_results_of_an_earlier_run(cli, section, tmp_path):
    adata = section.copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    source, first, second = tmp_path / "i.h5ad", tmp_path / "1.h5ad", tmp_path / "2.h5ad"
    adata.write_h5ad(source)
    assert "pass --layer counts" in refused(cli, "run", source, "--groupby", "layer", "--out", first)
    assert not first.exists()
    common = ["--groupby", "layer", "--layer", "counts", "--null", "none", "--max-epochs", "0"]
    assert cli("run", source, "--out", first, "--maps", "1", *common)[0] == 0
    code, _, err = cli("run", first, "--out", second, *common)
    assert code == 0
    assert err.startswith("st-concepts: note: ")
    assert "layers['concept_saliency_GCL']" in err
    one, two = ad.read_h5ad(first), ad.read_h5ad(second)
    assert "concept_saliency_GCL" in one.layers
    assert "concept_saliency_GCL" not in two.layers
    pd.testing.assert_frame_equal(one.obsm["concept_score"], two.obsm["concept_score"])


def test_genes_seen_in_few_spots_can_be_left_out_and_coordinates_may_lack(cli, section, tmp_path):
    adata = section.copy()
    del adata.obsm["spatial"]
    adata.write_h5ad(tmp_path / "i.h5ad")
    out = tmp_path / "o.h5ad"
    code, text, err = cli(
        "run",
        tmp_path / "i.h5ad",
        "--groupby",
        "layer",
        "--out",
        out,
        "--min-spots",
        "30",
        "--pictures",
        tmp_path / "p",
    )
    assert code == 0
    assert "--null permutation" in err
    seen = np.asarray((adata.X > 0).sum(0)).ravel() >= 30
    assert 0 < seen.sum() < adata.n_vars
    assert ad.read_h5ad(out).var_names.tolist() == adata.var_names[seen].tolist()
    assert f"{seen.sum()} of {adata.n_vars}" in text
    assert "layers.png" not in {p.name for p in (tmp_path / "p").iterdir()}
    line = refused(cli, "run", tmp_path / "i.h5ad", "--groupby", "layer", "--out", out, "--null", "moran")
    assert "obsm['spatial']" in line


@pytest.mark.parametrize("kind", ["same", "relative", "symlink", "hardlink", "parent link"])
def test_the_input_is_never_the_output(cli, source, tmp_path, monkeypatch, kind):
    target = tmp_path / "out.h5ad"
    if kind == "same":
        target = source
    elif kind == "relative":
        monkeypatch.chdir(tmp_path)
        target = Path("./in.h5ad")
    elif kind == "symlink":
        target.symlink_to(source)
    elif kind == "hardlink":
        os.link(source, target)
    else:
        (tmp_path / "link").symlink_to(tmp_path)
        target = tmp_path / "link" / "in.h5ad"
    before = digest(source)
    assert "is the input file" in refused(cli, "run", source, "--groupby", "layer", "--out", target)
    for option in ("--markers", "--model"):
        line = refused(cli, "run", source, "--groupby", "layer", "--out", tmp_path / "x.h5ad", option, target)
        assert f"{option} " in line
    assert digest(source) == before


def test_mistakes_in_the_options(cli, source, tmp_path):
    out = tmp_path / "o.h5ad"
    run = ["run", source, "--out", out]
    assert "Did you mean 'layer'?" in refused(cli, *run, "--groupby", "layr")
    assert "There are: " in refused(cli, *run, "--groupby", "zzz")
    assert "measurements, not labels" in refused(cli, *run, "--groupby", "true_depth")
    assert "Available: gradient, " in refused(cli, *run, "--groupby", "layer", "--method", "magic")
    assert "choose one of: discriminant, " in refused(cli, *run, "--groupby", "layer", "--estimator", "magic")
    assert "moran, permutation, none" in refused(cli, *run, "--groupby", "layer", "--null", "magic")
    assert "'nope'" in refused(cli, *run, "--groupby", "layer", "--layer", "nope")
    assert "--batch-key" in refused(cli, *run, "--groupby", "layer", "--batch-key", "nope")
    assert "n_latent" in refused(cli, *run, "--groupby", "layer", "--n-latent", "500")
    assert "lower --min-spots" in refused(cli, *run, "--groupby", "layer", "--min-spots", "5000")
    assert "--seed" in refused(cli, *run, "--groupby", "layer", "--seed", "x")
    assert "Missing option '--groupby'" in refused(cli, *run)
    assert "No such command" in refused(cli, "rum")
    assert "auto, mob, simulated" in refused(cli, "demo", "--dataset", "brain", "--out", tmp_path / "d")
    assert ".h5ad" in refused(cli, "run", source, "--groupby", "layer", "--out", tmp_path / "o.csv")
    assert "is a folder" in refused(cli, "run", source, "--groupby", "layer", "--out", out, "--markers", tmp_path)
    assert "same file" in refused(cli, "run", source, "--groupby", "layer", "--out", out, "--model", out)
    assert "is not a folder" in refused(cli, "run", source, "--groupby", "layer", "--out", source / "o.h5ad")
    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5ad"]


def test_inputs_that_cannot_be_read(cli, tmp_path):
    def line(path: Path) -> str:
        return refused(cli, "run", path, "--groupby", "layer", "--out", tmp_path / "o.h5ad")

    assert "does not exist" in line(tmp_path / "none.h5ad")
    line(tmp_path)
    (tmp_path / "a.h5ad").write_text("spot\tPenk\n1x2\t3\n")
    assert "not HDF5" in line(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "b.h5ad", "w") as handle:
        handle["x"] = [1]
    assert "holds no AnnData" in line(tmp_path / "b.h5ad")


def test_a_classic_table_with_layers_in_a_csv(cli, section, tmp_path):
    x, y = section.obs["array_x"], section.obs["array_y"]
    spots = [f"{a:.3f}x{b:.3f}" for a, b in zip(x, y, strict=True)]
    pd.DataFrame(section.X.toarray().astype(int), spots, section.var_names).to_csv(tmp_path / "t.tsv", sep="\t")
    layers = pd.DataFrame({"barcode": spots, "layer": section.obs["layer"].astype(object)}).dropna()
    layers.to_csv(tmp_path / "layers.csv", index=False)
    out = tmp_path / "o.h5ad"
    code, text, _ = cli(
        "run", tmp_path / "t.tsv", "--annotation", tmp_path / "layers.csv", "--groupby", "layer", "--out", out,
        "--max-epochs", "0", "--null", "none",
    )  # fmt: skip
    assert code == 0
    assert "L2/3" in text
    result = ad.read_h5ad(out)
    assert result.obs["layer"].astype(object).tolist() == section.obs["layer"].astype(object).tolist()


def test_results_do_not_land_in_an_input_folder(cli, section, tmp_path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        section.write_zarr(tmp_path / "in.zarr")
    line = refused(cli, "run", tmp_path / "in.zarr", "--groupby", "layer", "--out", tmp_path / "in.zarr" / "o.h5ad")
    assert "lies in the input folder" in line


def test_data_that_cannot_be_used(cli, section, tmp_path):
    source = tmp_path / "i.h5ad"

    def line(adata: AnnData) -> str:
        adata.write_h5ad(source)
        return refused(cli, "run", source, "--groupby", "layer", "--out", tmp_path / "o.h5ad")

    negative = section.copy()
    negative.X.data[0] = -1
    assert "negative" in line(negative)
    one = section[section.obs["layer"] == "GCL"].copy()
    assert "at least two labels" in line(one)
    nothing = section.copy()
    nothing.obs["layer"] = pd.Categorical([None] * section.n_obs, categories=["a"])
    assert "unlabelled" in line(nothing)
    names = section.copy()
    names.obs["layer"] = names.obs_names.astype(str)
    assert "looks like names" in line(names)
    few = section[:12].copy()
    assert "too few" in line(few)


def test_a_truncated_file_is_refused(cli, source, tmp_path):
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert "truncated" in refused(cli, "run", cut, "--groupby", "layer", "--out", tmp_path / "o.h5ad")


def test_outlines_in_another_unit_need_their_scale(cli, section, source, tmp_path):
    drawn, out = tmp_path / "a.geojson", tmp_path / "o.h5ad"
    stc.io.write_annotation(section, drawn, scale=100.0)
    run = ["run", source, "--groupby", "drawn", "--annotation", drawn, "--out", out]
    assert "give --scale" in refused(cli, *run)
    assert "has no such image" in refused(cli, *run, "--scale", "hires")
    code, _, err = cli(*run, "--scale", "100", "--max-epochs", "0", "--null", "none")
    assert code == 0, err
    drawn_labels, truth = ad.read_h5ad(out).obs["drawn"].astype(object), section.obs["layer"].astype(object)
    assert drawn_labels.fillna("").tolist() == truth.fillna("").tolist()


def test_a_report_with_another_model_is_refused_before_work(cli, section, source, tmp_path):
    result, model = tmp_path / "o.h5ad", tmp_path / "m.stc"
    code, _, err = cli("run", source, "--groupby", "layer", "--out", result, "--null", "none", "--max-epochs", "0")
    assert code == 0, err
    stc.SpotVAE(section, n_latent=3, seed=9).fit(max_epochs=0, progress=False).save(model)
    line = refused(cli, "report", result, "-o", tmp_path / "a.html", "--model", model)
    assert ad.read_h5ad(result).uns["concepts"]["model"] in line


def test_a_failed_write_leaves_the_old_result(cli, source, tmp_path, monkeypatch):
    out = tmp_path / "o.h5ad"
    out.write_text("old")

    def full(self, path, **_):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(AnnData, "write_h5ad", full)
    line = refused(cli, "run", source, "--groupby", "layer", "--out", out, "--null", "none", "--max-epochs", "0")
    assert "No space left on device" in line
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5ad", "o.h5ad"]


def test_the_command_itself(source, tmp_path):
    command = Path(sys.executable).with_name("st-concepts")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"st-concepts {stc.__version__}\n"
    argv = [command, "run", source, "--groupby", "nope", "--out", tmp_path / "o.h5ad"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_datasets_are_listed(cli):
    code, text, err = cli("datasets")
    assert (code, err) == (0, "")
    for name in stc.datasets.available()["name"]:
        assert name in text


def test_demo_on_the_simulated_section_says_so(cli, tmp_path):
    code, text, err = cli("demo", "--dataset", "simulated", "--out", tmp_path / "demo")
    assert (code, err) == (0, "")
    assert "SIMULATED" in text
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == sorted([*PNGS, "markers.csv", "result.h5ad"])
    table = pd.read_csv(tmp_path / "demo" / "markers.csv")
    for layer, part in table.groupby("concept"):
        top = part["names"].head(10)
        assert top.str.startswith(f"{layer}-marker").mean() >= 0.9


def test_demo_without_data_or_network_falls_back_and_says_why(cli, tmp_path, monkeypatch):
    from st_concepts.cli import _demo
    from st_concepts.cli._errors import UsageError

    def away(replicate: int) -> AnnData:
        raise stc.datasets.DataUnavailableError("no network")

    monkeypatch.setattr(stc.datasets, "mouse_olfactory_bulb", away)
    assert "no network" in refused(cli, "demo", "--dataset", "mob", "--out", tmp_path / "d")
    monkeypatch.setattr(_demo, "analyse", lambda *_: (_ for _ in ()).throw(UsageError("stopped here")))
    code, text, err = cli("demo", "--out", tmp_path / "d")
    assert code == 2
    assert "stopped here" in err
    assert "cannot be had: no network" in text
    assert "SIMULATED" in text
