"""Every kind of input in its true layout: detected, forced, read; broken ones give one line that names the fix."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc

pytest.importorskip("spatialdata", reason="spatialdata is not installed")

# libraries that read these formats warn about themselves and each other when they are imported
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:(?!st_concepts)"),
]
GENES = ["Penk", "Omp", "Kctd12", "Doc2g", "Penk-1", "Th"]


def counts_of(n_obs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (n_obs, 6))


def test_visium(visium_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "st_concepts.io"):
        adata = stc.io.read(visium_folder.parent)  # the folder above outs/ will do
    assert "Visium" in caplog.text
    assert "detected" in caplog.text
    assert stc.io.detect_kind(visium_folder) == "visium"
    np.testing.assert_array_equal(adata.X.toarray(), counts_of(30))
    assert adata.var_names.tolist() == GENES
    assert adata.var["gene_ids"].is_unique
    # x is the pixel column, y the pixel row
    k = np.arange(30)
    np.testing.assert_array_equal(adata.obsm["spatial"], np.column_stack([150 + 110 * (k % 7), 100 + 100 * (k // 7)]))
    assert adata.obsm["spatial"].dtype == np.float64
    assert adata.obs["section"].unique().tolist() == ["S1"]
    assert adata.uns["spatial"]["S1"]["images"]["hires"].shape == (160, 200, 3)
    assert adata.uns["spatial"]["S1"]["scalefactors"]["tissue_hires_scalef"] == 0.2


def test_visium_count_file_with_a_prefix_and_no_library(visium_folder: Path) -> None:
    old = visium_folder / "filtered_feature_bc_matrix.h5"
    new = visium_folder / "GSM1_filtered_feature_bc_matrix.h5"
    old.rename(new)
    with h5py.File(new, "r+") as f:
        del f.attrs["library_ids"]
    assert stc.io.read(visium_folder).obs["section"].unique().tolist() == ["V1_Bulb"]


def test_visium_of_another_section(visium_folder: Path) -> None:
    positions = visium_folder / "spatial" / "tissue_positions.csv"
    positions.write_text("\n".join(positions.read_text().splitlines()[:20]))
    with pytest.raises(ValueError, match=r"of 30 barcodes .* belong to different sections"):
        stc.io.read(visium_folder)


@pytest.mark.parametrize(("bin_size", "n"), [(None, 48), (8, 48), (16, 12)])
def test_visium_hd(visium_hd_folder: Path, bin_size: int | None, n: int) -> None:
    adata = stc.io.read(visium_hd_folder, bin_size=bin_size)
    assert stc.io.detect_kind(visium_hd_folder) == "visium_hd"
    np.testing.assert_array_equal(adata.X.toarray(), counts_of(n))
    assert adata.var_names.tolist() == GENES
    size = bin_size or 8
    columns = 8 if size == 8 else 4
    k = np.arange(n)
    expected = (np.column_stack([k % columns, k // columns]) + 0.5) * size / 0.5
    np.testing.assert_allclose(adata.obsm["spatial"], expected)
    (entry,) = adata.uns["spatial"].values()
    assert adata.obs["section"].unique().tolist() == list(adata.uns["spatial"])
    assert entry["scalefactors"]["spot_diameter_fullres"] == size / 0.5
    assert list(adata.uns["spatial"]) == [f"Visium_HD_Bulb_square_{size:03d}um"]
    # the image is drawn where the spots are: its longest side covers the 128 pixels of the section
    pixels = entry["images"]["hires"]
    assert max(pixels.shape) == pytest.approx(128 * entry["scalefactors"]["tissue_hires_scalef"], rel=0.02)


def test_visium_hd_by_the_folder_of_a_bin_size(visium_hd_folder: Path) -> None:
    one = visium_hd_folder / "binned_outputs" / "square_016um"
    assert stc.io.read(one).n_obs == 12
    with pytest.raises(ValueError, match="holds bins of 16 um"):
        stc.io.read(one, bin_size=8)
    with pytest.raises(ValueError, match="bin_size can be 8, 16"):
        stc.io.read(visium_hd_folder, bin_size=2)


def test_xenium(xenium_folder: Path) -> None:
    pytest.importorskip("spatialdata_io")
    assert stc.io.detect_kind(xenium_folder) == "xenium"
    adata = stc.io.read(xenium_folder)
    np.testing.assert_array_equal(adata.X.toarray(), counts_of(36))
    k = np.arange(36)
    np.testing.assert_allclose(adata.obsm["spatial"], np.column_stack([k % 6 * 12.0 + 5, k // 6 * 10.0 + 4]))
    assert adata.obs_names[0] == "aaaaaaaa-1"
    assert adata.var_names.tolist() == GENES
    (xenium_folder / "cells.parquet").unlink()
    with pytest.raises(ValueError, match=r"cells\.parquet is missing"):
        stc.io.read(xenium_folder)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_spatialdata(spatialdata_store: Callable[..., Path], scale: float) -> None:
    path = spatialdata_store(scale=scale)
    assert stc.io.detect_kind(path) == "spatialdata"
    adata = stc.io.read(path)
    ids = adata.obs["instance_id"].to_numpy() - 100
    np.testing.assert_allclose(adata.obsm["spatial"], scale * np.column_stack([ids % 8 * 10 + 5, ids // 8 * 12 + 6]))
    factors = adata.uns["spatial"]["spots"]["scalefactors"]
    assert factors["spot_diameter_fullres"] == pytest.approx(8 * scale)
    # each pixel of the image is where the element's own pixel is
    import spatialdata as sd

    truth = np.asarray(sd.read_zarr(path)["he"])
    drawn = adata.uns["spatial"]["spots"]["images"]["hires"]
    at = np.array([[15.5, 20.5], [60.5, 40.5]])  # centres of pixels
    where = np.rint(at * scale * factors["tissue_hires_scalef"] - 0.5).astype(int)
    for (x, y), (px, py) in zip(at.astype(int), where, strict=True):
        np.testing.assert_array_equal(drawn[py, px], truth[:, y, x])


def test_spatialdata_in_spatialdata_out(spatialdata_store: Callable[..., Path], tmp_path: Path) -> None:
    import spatialdata as sd

    path = spatialdata_store()
    adata = stc.io.read(path)
    model = stc.SpotVAE(adata, n_latent=2).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, n_null=0)
    out = tmp_path / "result.zarr"
    stc.io.write(adata, out, source=path)
    stc.io.write(adata, out, source=path)  # over an earlier result
    sdata = sd.read_zarr(out)
    assert sorted(sdata.images) == ["he"]
    table = sdata["table"]
    assert table.uns["spatialdata_attrs"]["region"] == "spots"
    assert "spatial" not in table.uns  # the image is an element, not a copy in the table
    np.testing.assert_array_equal(table.obsm["concept_score"], adata.obsm["concept_score"])
    assert stc.get.markers(table, "top")["names"].tolist() == stc.get.markers(adata, "top")["names"].tolist()
    again = stc.io.read(out)
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"])
    assert "concept_score" not in sd.read_zarr(path)["table"].obsm
    with pytest.raises(ValueError, match="is the source, which is never changed"):
        stc.io.write(adata, path, source=path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_spatialdata_tables_by_name(spatialdata_store: Callable[..., Path]) -> None:
    path = spatialdata_store(tables=("spots_8um", "spots_16um"))
    with pytest.raises(ValueError, match=r"several tables, spots_.*choose one with table="):
        stc.io.read(path)
    with pytest.raises(ValueError, match="No table 'nope'"):
        stc.io.read(path, table="nope")
    assert stc.io.read(path, table="spots_16um").n_obs == 40
    import spatialdata as sd

    assert stc.io.read(sd.read_zarr(path), table="spots_8um").n_obs == 40


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_anndata_round_trip(simulated: AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    stc.io.write(simulated, path)
    stc.io.write(simulated, path)
    assert stc.io.detect_kind(path) == suffix[1:]
    back = stc.io.read(path)
    np.testing.assert_array_equal(back.X.toarray(), simulated.X.toarray())
    assert back.obs["layer"].tolist() == simulated.obs["layer"].tolist()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_lazy_result_is_written(simulated: AnnData, tmp_path: Path, suffix: str) -> None:
    simulated.layers["counts"] = simulated.X.copy()
    simulated.obsm["concept_score"] = pd.DataFrame({"GCL": np.arange(simulated.n_obs) / 7}, index=simulated.obs_names)
    stc.io.write(simulated, tmp_path / f"first{suffix}")
    lazy = ad.experimental.read_lazy(tmp_path / f"first{suffix}")
    lazy.obsm["more"] = np.ones((simulated.n_obs, 2))
    stc.io.write(lazy, tmp_path / f"second{suffix}")
    found = stc.io.read(tmp_path / f"second{suffix}")
    assert (found.X != simulated.X).nnz == 0
    assert (found.layers["counts"] != simulated.X).nnz == 0
    pd.testing.assert_frame_equal(found.obs, simulated.obs)
    pd.testing.assert_frame_equal(found.obsm["concept_score"], simulated.obsm["concept_score"])
    assert set(found.uns) == set(simulated.uns)
    assert found.obsm["more"].sum() == 2 * simulated.n_obs


def test_st_table(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv.gz"
    with gzip.open(path, "wt") as f:
        f.write("\tPenk\tOmp\n17x9\t3\t0\n18x9\t0\t5\n")
    assert stc.io.detect_kind(path) == "st"
    assert stc.io.read(path, library_id="mine").obs["section"].tolist() == ["mine", "mine"]


def test_duplicated_gene_names_are_made_unique(simulated: AnnData, tmp_path: Path) -> None:
    names = simulated.var_names.tolist()
    names[1] = names[0]
    simulated.var_names = names
    simulated.write_h5ad(tmp_path / "a.h5ad")
    back = stc.io.read(tmp_path / "a.h5ad")
    assert back.var_names.is_unique
    assert back.var["gene_symbols"].tolist() == names


def test_mistakes(
    tmp_path: Path, simulated: AnnData, visium_folder: Path, spatialdata_store: Callable[..., Path]
) -> None:
    def fails(path: Path, match: str, error: type[Exception] = ValueError, **kwargs: object) -> None:
        with pytest.raises(error, match=match) as caught:
            stc.io.read(path, **kwargs)
        assert "\n" not in str(caught.value)

    h5ad = tmp_path / "a.h5ad"
    simulated.write_h5ad(h5ad)
    fails(tmp_path / "no.h5ad", "does not exist", FileNotFoundError)
    fails(h5ad, "kind='loom' is unknown; use 'h5ad'", kind="loom")
    fails(h5ad, "table='x' is for SpatialData", table="x")
    fails(h5ad, "bin_size=8 is for Visium HD", bin_size=8)
    fails(h5ad, "no filtered_feature_bc_matrix.h5.*Leave out kind='visium'", kind="visium")
    fails(visium_folder, "cannot be read as AnnData, .h5ad.*Leave out", kind="h5ad")
    fails(visium_folder / "spatial", "no count matrix; name the folder that has both, ")
    broken = tmp_path / "broken.h5ad"
    broken.write_bytes(h5ad.read_bytes()[:3000])
    fails(broken, "damaged or truncated")
    text = tmp_path / "text.h5ad"
    text.write_text("a,b\n1,2\n")
    fails(text, "not an .h5ad file")
    empty = tmp_path / "empty.tsv"
    empty.touch()
    fails(empty, "is empty")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as f:
        f["x"] = 1
    fails(other, "holds no AnnData; it has x")
    (tmp_path / "pic.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    fails(tmp_path / "pic.png", "of no kind")
    store = spatialdata_store()
    shutil.rmtree(store / "tables" / "table" / "X")
    fails(store, "holds no counts")


def test_write_refuses(tmp_path: Path, simulated: AnnData) -> None:
    (tmp_path / "keep.zarr").mkdir()
    (tmp_path / "keep.zarr" / "precious").touch()
    with pytest.raises(ValueError, match="no zarr store; it is not replaced"):
        stc.io.write(simulated, tmp_path / "keep.zarr")
    with pytest.raises(ValueError, match=r"must end in \.h5ad or \.zarr"):
        stc.io.write(simulated, tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"written as \.zarr"):
        stc.io.write(simulated, tmp_path / "a.h5ad", source=tmp_path / "keep.zarr")
