"""Small real outputs of instruments and programs: read as their own programs read them, or refused in a clear line."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import st_concepts as stc

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:(?!st_concepts)"),
]


@pytest.fixture(scope="module")
def platforms() -> Path:
    folder = Path(os.environ.get("ST_CONCEPTS_DATA", "")) / "platforms"
    if not os.environ.get("ST_CONCEPTS_DATA") or not folder.is_dir():
        pytest.skip("no ST_CONCEPTS_DATA with a folder platforms")
    return folder


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["visium_spaceranger1", "visium_truncated"])
def test_real_visium_reads_as_squidpy_reads_it(platforms: Path, name: str) -> None:
    import squidpy as sq

    adata = stc.io.read(platforms / name)
    library = adata.obs["section"].iloc[0]
    theirs = sq.read.visium(platforms / name, library_id=library)
    np.testing.assert_array_equal(adata.X.toarray(), theirs.X.toarray())
    np.testing.assert_array_equal(adata.obsm["spatial"], theirs.obsm["spatial"])
    pd.testing.assert_frame_equal(adata.obs[theirs.obs.columns], theirs.obs)
    pd.testing.assert_frame_equal(adata.var, theirs.var)
    ours, entry = adata.uns["spatial"][library], theirs.uns["spatial"][library]
    assert set(ours) == set(entry)
    assert ours["scalefactors"] == entry["scalefactors"]
    assert set(ours["metadata"]) == set(entry["metadata"])
    assert all(isinstance(text, str) for text in ours["metadata"].values())
    for resolution, pixels in entry["images"].items():
        np.testing.assert_array_equal(
            ours["images"][resolution], pixels[..., :3] if pixels.dtype == np.uint8 else np.rint(pixels[..., :3] * 255)
        )


@pytest.mark.real_data
def test_real_visium_hd(platforms: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "st_concepts.io"):
        adata = stc.io.read(platforms / "visium_hd_truncated")
    assert "bins of 8 um (there are: 8, 16)" in caplog.text
    assert adata.shape == (2695, 100)
    table = pd.read_parquet(
        platforms / "visium_hd_truncated/binned_outputs/square_008um/spatial/tissue_positions.parquet"
    ).set_index("barcode")
    at = table.loc[adata.obs_names, ["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    np.testing.assert_array_equal(adata.obsm["spatial"], at)
    (entry,) = adata.uns["spatial"].values()
    # the image of 6000 x 5575 pixels is kept at a third
    assert entry["images"]["hires"].shape == (1858, 2000, 3)
    # the coarse bins were cut so that counts and positions no longer fit
    with pytest.raises(ValueError, match=r"2053 of 2695 barcodes .* belong to different sections"):
        stc.io.read(platforms / "visium_hd_truncated", bin_size=16)


@pytest.mark.real_data
def test_a_real_matrix_folder(platforms: Path, tmp_path: Path) -> None:
    import scanpy as sc

    with pytest.raises(ValueError, match=r"a count matrix, matrix\.mtx\.gz, but no tissue_positions"):
        stc.io.read(platforms / "mtx" / "filtered_feature_bc_matrix")
    shutil.copytree(platforms / "mtx" / "filtered_feature_bc_matrix", tmp_path / "filtered_feature_bc_matrix")
    theirs = sc.read_10x_mtx(tmp_path / "filtered_feature_bc_matrix")
    (tmp_path / "spatial").mkdir()
    pd.DataFrame(
        {
            "barcode": theirs.obs_names,
            "in_tissue": 1,
            "array_row": 0,
            "array_col": np.arange(theirs.n_obs),
            "pxl_row_in_fullres": 0,
            "pxl_col_in_fullres": np.arange(theirs.n_obs),
        }
    ).to_csv(tmp_path / "spatial" / "tissue_positions.csv", index=False)
    with pytest.warns(UserWarning, match="no scale factors"):
        adata = stc.io.read(tmp_path, load_images=False)
    np.testing.assert_array_equal(adata.X.toarray(), theirs.X.toarray())
    assert adata.var_names.tolist() == theirs.var_names.tolist()
    np.testing.assert_array_equal(adata.obsm["spatial"][:, 0], np.arange(theirs.n_obs))


@pytest.mark.real_data
@pytest.mark.parametrize("version", ["v0.7.0", "v0.7.8", "v0.11.4"])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_files_of_old_anndata(platforms: Path, tmp_path: Path, version: str, form: str) -> None:
    path = platforms / "anndata" / version / "adata.h5ad"
    if form == "zarr":
        packed = platforms / "anndata" / version / "adata.zarr.zip"
        with pytest.raises(ValueError, match=r"unzip adata\.zarr\.zip -d adata\.zarr"):
            stc.io.read(packed)
        path = tmp_path / "adata.zarr"
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(path)
    assert stc.io.detect_kind(path) == form
    if version == "v0.11.4":  # a table of nothing but obs and var
        with pytest.raises(ValueError, match="holds no counts: neither X nor layers"):
            stc.io.read(path)
    else:
        assert stc.io.read(path).shape == (30, 20)
