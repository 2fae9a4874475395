"""Output of Space Ranger as people have it: images of every mode, counts in text, raw or alone, other folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from tests.io._readers.space_ranger import H5, headerless, positions_of, same, write_mtx, zipped

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:(?!st_concepts)"),
]


@pytest.mark.parametrize(
    ("gone", "kept", "remark"),
    [
        (["hires"], ["lowres"], r"tissue_hires_image\.png is missing"),
        (["lowres"], ["hires"], r"tissue_lowres_image\.png is missing"),
        (["hires", "lowres"], [], "no histology image"),
    ],
)
def test_without_images(
    visium_folder: Path, whole: AnnData, tmp_path: Path, gone: list[str], kept: list[str], remark: str
) -> None:
    for name in gone:
        (visium_folder / "spatial" / f"tissue_{name}_image.png").unlink()
    with pytest.warns(UserWarning, match=remark):
        adata = stc.io.read(visium_folder)
    same(adata, whole)
    entry = adata.uns["spatial"]["S1"]
    assert list(entry["images"]) == kept
    assert entry["scalefactors"] == whole.uns["spatial"]["S1"]["scalefactors"]
    stc.io.write(adata, tmp_path / "a.h5ad")
    assert list(stc.io.read(tmp_path / "a.h5ad").uns["spatial"]["S1"].get("images", {})) == kept


def test_images_that_are_not_wanted_are_not_opened(visium_folder: Path, whole: AnnData, tmp_path: Path) -> None:
    (visium_folder / "spatial" / "tissue_hires_image.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"tissue_hires_image\.png is no readable image.*load_images=False"):
        stc.io.read(visium_folder)
    same(adata := stc.io.read(visium_folder, load_images=False), whole)  # and no remark
    assert adata.uns["spatial"]["S1"]["images"] == {}
    whole.write_h5ad(tmp_path / "a.h5ad")
    assert stc.io.read(tmp_path / "a.h5ad", load_images=False).uns["spatial"]["S1"]["images"] == {}


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16"])
def test_images_of_every_mode_become_rgb(visium_folder: Path, mode: str) -> None:
    from PIL import Image

    grey = np.full((160, 200), 120, dtype=np.uint8)
    pixels = Image.fromarray(grey.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    pixels.save(visium_folder / "spatial" / "tissue_hires_image.png")
    hires = stc.io.read(visium_folder).uns["spatial"]["S1"]["images"]["hires"]
    assert hires.shape == (160, 200, 3)
    assert hires.dtype == np.uint8
    assert (hires == 120).all()


def test_huge_images_are_reduced_and_their_scale_with_them(visium_folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (2500, 2000)).save(visium_folder / "spatial" / "tissue_hires_image.png")
    entry = stc.io.read(visium_folder).uns["spatial"]["S1"]
    assert entry["images"]["hires"].shape == (1600, 2000, 3)
    assert entry["scalefactors"]["tissue_hires_scalef"] == pytest.approx(0.2 * 0.8)


def test_without_scale_factors_no_image_can_be_placed(visium_folder: Path, whole: AnnData) -> None:
    factors = visium_folder / "spatial" / "scalefactors_json.json"
    stored = json.loads(factors.read_text())
    factors.unlink()
    with pytest.warns(UserWarning, match="no scale factors"):
        adata = stc.io.read(visium_folder)
    same(adata, whole)
    assert adata.uns["spatial"]["S1"]["images"] == {}
    factors.write_text(json.dumps({k: v for k, v in stored.items() if k != "tissue_lowres_scalef"} | {"bin": None}))
    with pytest.warns(UserWarning, match="no tissue_lowres_scalef"):
        entry = stc.io.read(visium_folder).uns["spatial"]["S1"]
    assert list(entry["images"]) == ["hires"]
    assert "bin" not in entry["scalefactors"]
    for broken in ("{", "[1]", json.dumps(stored | {"tissue_hires_scalef": "NaN"}), '{"tissue_hires_scalef": -1}'):
        factors.write_text(broken)
        with pytest.raises(ValueError, match=r"scalefactors_json\.json.*(no JSON of scale factors|positive number)"):
            stc.io.read(visium_folder)


@pytest.mark.parametrize("version", [2, 3])
def test_matrix_folders(visium_folder: Path, whole: AnnData, version: int) -> None:
    inner = visium_folder / "filtered_feature_bc_matrix"
    write_mtx(visium_folder / H5, inner, version=version)
    (visium_folder / H5).unlink()
    for path in (visium_folder, visium_folder.parent, inner, next(inner.glob("matrix.mtx*"))):
        assert stc.io.detect_kind(path) == "visium"
        same(adata := stc.io.read(path), whole)
        assert adata.var["gene_ids"].tolist() == whole.var["gene_ids"].tolist()
        assert adata.obs["section"].unique().tolist() == ["V1_Bulb"]


def test_the_count_file_alone_with_positions_beside_it(visium_folder: Path, whole: AnnData) -> None:
    assert stc.io.detect_kind(visium_folder / H5) == "visium"
    same(stc.io.read(visium_folder / H5), whole)
    # any name, positions flat beside it
    (visium_folder / H5).rename(visium_folder / "bulb.h5")
    (visium_folder / "spatial" / "tissue_positions.csv").rename(visium_folder / "tissue_positions.csv")
    same(stc.io.read(visium_folder / "bulb.h5"), whole)
    (visium_folder / "tissue_positions.csv").unlink()
    with pytest.raises(ValueError, match="count matrix without coordinates; name the output folder"):
        stc.io.read(visium_folder / "bulb.h5")


def test_raw_counts_stand_in_for_filtered_ones(visium_folder: Path, whole: AnnData) -> None:
    _, positions = positions_of(visium_folder)
    order = positions.sort_values(["array_row", "array_col"])["barcode"]
    full = AnnData(np.zeros((42, 6)), obs=pd.DataFrame(index=order.to_numpy()))
    counts = np.zeros((42, 6), dtype=np.int32)
    counts[:30] = whole[order[:30]].X.toarray()
    shuffled = np.random.default_rng(0).permutation(42)
    with h5py.File(visium_folder / H5, "r+") as f:
        from scipy.sparse import csc_matrix

        matrix = csc_matrix(counts[shuffled].T)
        for name, values in {
            "barcodes": full.obs_names[shuffled].to_numpy().astype("S"),
            "data": matrix.data,
            "indices": matrix.indices,
            "indptr": matrix.indptr,
            "shape": np.array(matrix.shape),
        }.items():
            del f[f"matrix/{name}"]
            f[f"matrix/{name}"] = values
    (visium_folder / H5).rename(visium_folder / "raw_feature_bc_matrix.h5")
    with pytest.warns(UserWarning, match=r"of 42 barcodes of raw_feature_bc_matrix\.h5 the 30 in tissue are kept"):
        adata = stc.io.read(visium_folder)
    same(adata[whole.obs_names], whole)
    path, positions = positions_of(visium_folder)
    positions.assign(in_tissue=0).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"no barcode of raw_feature_bc_matrix\.h5 is in tissue"):
        stc.io.read(visium_folder)
    positions.drop(columns="in_tissue").to_csv(path, index=False)
    with pytest.raises(ValueError, match="no column in_tissue"):
        stc.io.read(visium_folder)


def test_features_that_are_no_genes_are_left_out(visium_folder: Path, whole: AnnData) -> None:
    with h5py.File(visium_folder / H5, "r+") as f:
        kinds = f["matrix/features/feature_type"][:].astype("S20")
        kinds[2] = b"Antibody Capture"
        del f["matrix/features/feature_type"]
        f["matrix/features/feature_type"] = kinds
    with pytest.warns(UserWarning, match="features that are no genes are left out: 1 Antibody Capture"):
        adata = stc.io.read(visium_folder)
    keep = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(adata.X.toarray(), whole.X.toarray()[:, keep])
    assert adata.var["gene_ids"].tolist() == whole.var["gene_ids"].iloc[keep].tolist()
    with h5py.File(visium_folder / H5, "r+") as f:
        f["matrix/features/feature_type"][:] = b"CRISPR"
    with pytest.raises(ValueError, match=r"holds no genes .*, only 6 CRISPR"):
        stc.io.read(visium_folder)


def test_genome_chooses(visium_folder: Path) -> None:
    assert stc.io.read(visium_folder, genome="mm10").n_vars == 6
    with pytest.raises(ValueError, match=r"no genes of genome='GRCh38'; there are: mm10"):
        stc.io.read(visium_folder, genome="GRCh38")


def test_parts_of_a_matrix_that_do_not_fit(visium_folder: Path) -> None:
    inner = visium_folder / "filtered_feature_bc_matrix"
    write_mtx(visium_folder / H5, inner, version=2)
    (visium_folder / H5).unlink()
    barcodes = inner / "barcodes.tsv"
    kept = barcodes.read_text()
    barcodes.write_text("barcode\n" + kept)  # a header that another program wrote
    assert stc.io.read(visium_folder).n_obs == 30
    barcodes.write_text("\n".join(kept.splitlines()[:9]))
    with pytest.raises(ValueError, match=r"names 6 features and barcodes\.tsv 9 barcodes"):
        stc.io.read(visium_folder)
    barcodes.unlink()
    with pytest.raises(ValueError, match=r"barcodes\.tsv is missing"):
        stc.io.read(visium_folder)
    barcodes.write_text(kept)
    matrix = inner / "matrix.mtx"
    matrix.write_text("\n".join(matrix.read_text().splitlines()[:20]))
    with pytest.raises(ValueError, match=r"matrix\.mtx is not a whole Matrix Market file"):
        stc.io.read(visium_folder)


@pytest.fixture
def flat(visium_folder: Path, tmp_path: Path) -> Path:
    """The same section as GEO keeps it: flat, prefixed, gzipped."""
    folder = tmp_path / "GSE1"
    folder.mkdir()
    shutil.copy(visium_folder / H5, folder / f"GSM1_S1_{H5}")
    path, table = positions_of(visium_folder)
    headerless(table, path)
    images = ("tissue_hires_image.png", "tissue_lowres_image.png")
    for name in ("tissue_positions_list.csv", "scalefactors_json.json", *images):
        target = folder / f"GSM1_S1_{name}"
        shutil.copy(visium_folder / "spatial" / name, target)
        zipped(target)
    return folder


def test_a_flat_folder(flat: Path, whole: AnnData) -> None:
    assert stc.io.detect_kind(flat) == "visium"
    same(adata := stc.io.read(flat), whole)
    assert adata.uns["spatial"]["S1"]["images"]["hires"].shape == (160, 200, 3)
    with h5py.File(flat / f"GSM1_S1_{H5}", "r+") as f:
        del f.attrs["library_ids"]
    (flat / "._GSM1_S1_tissue_positions_list.csv").write_bytes(b"\x00\x05")  # what macOS leaves behind
    assert stc.io.read(flat).obs["section"].unique().tolist() == ["GSM1_S1"]


def test_a_flat_folder_in_text(flat: Path, whole: AnnData) -> None:
    write_mtx(flat / f"GSM1_S1_{H5}", flat, prefix="GSM1_S1_")
    (flat / f"GSM1_S1_{H5}").unlink()
    same(stc.io.read(flat), whole)
    same(stc.io.read(flat / "GSM1_S1_matrix.mtx.gz"), whole)


def test_several_samples_in_a_flat_folder(flat: Path, whole: AnnData) -> None:
    for path in list(flat.iterdir()):
        name = path.name.replace("GSM1_S1", "GSM2_S2")
        shutil.copy(path, flat / name)
    moved = flat / "GSM2_S2_tissue_positions_list.csv.gz"
    table = pd.read_csv(moved, header=None)
    table[5] += 7
    table.to_csv(moved, index=False, header=False)
    with pytest.raises(ValueError, match=rf"several count files, GSM1_S1_{H5}, GSM2_S2_{H5}; name one of them"):
        stc.io.read(flat)
    same(stc.io.read(flat / f"GSM1_S1_{H5}"), whole)
    for adata in (stc.io.read(flat / f"GSM2_S2_{H5}"), stc.io.read(flat, counts_file=f"GSM2_S2_{H5}")):
        np.testing.assert_array_equal(adata.obsm["spatial"], whole.obsm["spatial"] + [7, 0])
    moved.unlink()
    name = "tissue_positions_list.csv.gz"
    shutil.copy(flat / f"GSM1_S1_{name}", flat / f"GSM3_S3_{name}")
    with pytest.raises(ValueError, match="named after GSM2_S2_filtered"):
        stc.io.read(flat / f"GSM2_S2_{H5}")


def test_a_spatial_folder_with_the_prefix(flat: Path, visium_folder: Path, whole: AnnData) -> None:
    for path in flat.glob("*.gz"):
        path.unlink()
    shutil.copytree(visium_folder / "spatial", flat / "GSM1_S1_spatial" / "spatial")
    same(stc.io.read(flat), whole)


def test_folders_of_no_kind_say_what_is_missing(flat: Path, visium_folder: Path, tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(ValueError, match="of no kind that can be read") as caught:
            stc.io.read(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for path in flat.glob("*.gz"):
        path.unlink()
    (flat / "GSM1_S1_spatial.tar.gz").touch()
    assert "a count matrix, GSM1_S1_filtered" in said(flat)
    assert "unpack GSM1_S1_spatial.tar.gz there first" in said(flat)
    assert f"it holds {visium_folder.parent.name}; name one of these" in said(tmp_path)
    (tmp_path / "nothing").mkdir()
    assert "the folder is empty" in said(tmp_path / "nothing")


def test_some_bin_folders_without_the_rest(visium_hd_folder: Path, tmp_path: Path) -> None:
    whole = {size: stc.io.read(visium_hd_folder, bin_size=size) for size in (8, 16)}
    series = tmp_path / "series"
    series.mkdir()
    for size in (8, 16):
        shutil.move(visium_hd_folder / "binned_outputs" / f"square_{size:03d}um", series)
    for path, bin_size, size in (
        (series / "square_016um", None, 16),
        (series / "square_016um" / H5, None, 16),
        (series, None, 8),
        (series, 16, 16),
    ):
        assert stc.io.detect_kind(path) == "visium_hd"
        adata = stc.io.read(path, bin_size=bin_size)
        same(adata, whole[size])
        assert adata.obs["section"].unique().tolist() == [f"series_square_{size:03d}um"]
    (series / "square_016um").rename(series / "GSM1_coarse")  # known by its scale factors
    assert stc.io.detect_kind(series / "GSM1_coarse") == "visium_hd"
    same(stc.io.read(series / "GSM1_coarse"), whole[16])


def test_the_bins_are_still_packed(tmp_path: Path) -> None:
    (tmp_path / "binned_outputs").mkdir()
    with pytest.raises(ValueError, match=r"unpack binned_outputs\.tar\.gz there"):
        stc.io.read(tmp_path)
