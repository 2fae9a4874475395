"""Output folders of the platforms, written in their true on-disk layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

GENES = ["Penk", "Omp", "Kctd12", "Doc2g", "Penk", "Th"]  # a symbol twice, as in real references
IDS = [f"ENSMUSG{i:011d}" for i in range(len(GENES))]


def counts_of(n_obs: int, n_vars: int = len(GENES), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (n_obs, n_vars)).astype(np.int32)


def write_10x_h5(path: Path, counts: np.ndarray, barcodes: list[str], *, library: str | None = "S1") -> None:
    """Count matrix in the layout of Cell Ranger 3 and later: genes x barcodes, CSC."""
    matrix = sp.csc_matrix(counts.T)
    with h5py.File(path, "w") as f:
        if library is not None:
            f.attrs["library_ids"] = np.array([library], dtype="S")
        f.attrs["chemistry_description"] = "Visium V2 Slide"
        f.attrs["software_version"] = "spaceranger-3.1.0"
        f.attrs["filetype"] = "matrix"
        f.attrs["version"] = 2
        group = f.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"] = matrix.data.astype(np.int32)
        group["indices"] = matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        features = group.create_group("features")
        n = matrix.shape[0]
        features["id"] = np.array(IDS[:n], dtype="S")
        features["name"] = np.array(GENES[:n], dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * n, dtype="S")
        features["genome"] = np.array(["mm10"] * n, dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def barcode(i: int) -> str:
    letters = "ACGT"
    return "".join(letters[(i >> (2 * k)) & 3] for k in range(16)) + "-1"


def write_png(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def visium_folder(tmp_path: Path) -> Path:
    """30 in-tissue spots of 42, image of 1000 x 800 pixels at full resolution."""
    outs = tmp_path / "V1_Bulb" / "outs"
    (outs / "spatial").mkdir(parents=True)
    rows, cols = np.divmod(np.arange(42), 7)
    inside = np.arange(42) < 30
    positions = pd.DataFrame(
        {
            "barcode": [barcode(i) for i in range(42)],
            "in_tissue": inside.astype(int),
            "array_row": rows,
            "array_col": cols,
            "pxl_row_in_fullres": 100 + 100 * rows,
            "pxl_col_in_fullres": 150 + 110 * cols,
        }
    )
    positions.sample(frac=1.0, random_state=0).to_csv(outs / "spatial" / "tissue_positions.csv", index=False)
    write_10x_h5(outs / "filtered_feature_bc_matrix.h5", counts_of(30), positions["barcode"][inside].tolist())
    (outs / "spatial" / "scalefactors_json.json").write_text(
        json.dumps(
            {
                "tissue_hires_scalef": 0.2,
                "tissue_lowres_scalef": 0.06,
                "fiducial_diameter_fullres": 90.0,
                "spot_diameter_fullres": 55.0,
            }
        )
    )
    write_png(outs / "spatial" / "tissue_hires_image.png", 160, 200)
    write_png(outs / "spatial" / "tissue_lowres_image.png", 48, 60)
    return outs


@pytest.fixture
def visium_hd_folder(tmp_path: Path) -> Path:
    """Bins of 8 um (6 x 8) and 16 um (3 x 4); a full-resolution pixel is half a micrometre."""
    path = tmp_path / "Visium_HD_Bulb" / "outs"
    (path / "spatial").mkdir(parents=True)
    um_per_pixel = 0.5
    common = {
        "microns_per_pixel": um_per_pixel,
        "regist_target_img_scalef": 1.0,
        "tissue_hires_scalef": 0.5,
        "tissue_lowres_scalef": 0.1,
        "fiducial_diameter_fullres": 100.0,
    }
    for size, (n_rows, n_cols) in {8: (6, 8), 16: (3, 4)}.items():
        folder = path / "binned_outputs" / f"square_{size:03d}um"
        (folder / "spatial").mkdir(parents=True)
        rows, cols = (a.ravel() for a in np.mgrid[:n_rows, :n_cols])
        names = [f"s_{size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(rows, cols, strict=True)]
        pitch = size / um_per_pixel
        pd.DataFrame(
            {
                "barcode": names,
                "in_tissue": 1,
                "array_row": rows,
                "array_col": cols,
                "pxl_row_in_fullres": (rows + 0.5) * pitch,
                "pxl_col_in_fullres": (cols + 0.5) * pitch,
            }
        ).to_parquet(folder / "spatial" / "tissue_positions.parquet")
        write_10x_h5(folder / "filtered_feature_bc_matrix.h5", counts_of(len(names)), names)
        factors = common | {"spot_diameter_fullres": pitch, "bin_size_um": float(size)}
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    for folder in (path / "spatial", *(path / "binned_outputs").glob("square_*/spatial")):
        write_png(folder / "tissue_hires_image.png", 48, 64)
        write_png(folder / "tissue_lowres_image.png", 10, 13)
    (path / "spatial" / "scalefactors_json.json").write_text(json.dumps(common))
    with h5py.File(path / "feature_slice.h5", "w") as f:
        identity = np.eye(3).tolist()
        layout = {
            "file_format": "1.0",
            "transform_matrices": dict.fromkeys(
                (
                    "cytassist_colrow_to_spot_colrow",
                    "spot_colrow_to_cytassist_colrow",
                    "microscope_colrow_to_spot_colrow",
                    "spot_colrow_to_microscope_colrow",
                ),
                identity,
            ),
        }
        # the layout is JSON within JSON
        f.attrs["metadata_json"] = json.dumps(
            {"hd_layout_json": json.dumps(layout), "transform_matrices": layout["transform_matrices"]}
        )
    return path


@pytest.fixture
def xenium_folder(tmp_path: Path) -> Path:
    """36 cells; a pixel is 0.2125 um."""
    import zarr

    path = tmp_path / "output-XETG00001__region_1"
    path.mkdir()
    n = 36
    ids = [f"aaaa{chr(97 + i // 16)}{chr(97 + i % 16)}aa-1" for i in range(n)]
    prefixes = np.array([int("".join(f"{ord(c) - 97:x}" for c in name[:8]), 16) for name in ids], dtype=np.uint32)
    x, y = (a.ravel().astype(float) for a in np.meshgrid(np.arange(6) * 12.0 + 5, np.arange(6) * 10.0 + 4))
    write_10x_h5(path / "cell_feature_matrix.h5", counts_of(n), ids, library=None)
    pd.DataFrame(
        {
            "cell_id": ids,
            "x_centroid": x,
            "y_centroid": y,
            "transcript_counts": counts_of(n).sum(1),
            "control_probe_counts": 0,
            "total_counts": counts_of(n).sum(1),
            "cell_area": 60.0,
            "nucleus_area": 20.0,
        }
    ).to_parquet(path / "cells.parquet")
    store = zarr.storage.ZipStore(path / "cells.zarr.zip", mode="w")
    root = zarr.create_group(store, zarr_format=2)
    root.create_array("cell_id", data=np.column_stack([prefixes, np.ones(n, dtype=np.uint32)]))
    names = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
    root.create_array(
        "cell_summary",
        data=np.column_stack([x, y, *np.ones((6, n))]),
        attributes={"column_names": [*names, "nucleus_area", "z_level", "nucleus_count"]},
    )
    sets = root.create_group("polygon_sets")
    for k in "01":
        sets.create_group(k).create_array("cell_index", data=np.arange(n, dtype=np.uint32))
    store.close()
    (path / "experiment.xenium").write_text(
        json.dumps(
            {
                "analysis_sw_version": "xenium-3.0.0.15",
                "pixel_size": 0.2125,
                "run_name": "test",
                "region_name": "region_1",
                "num_cells": n,
            }
        )
    )
    return path


@pytest.fixture
def spatialdata_store(tmp_path: Path) -> Callable[..., Path]:
    """Writer of a store: circles of 40 spots, image of 60 x 80 pixels, a second table on demand."""

    def write(name: str = "section.zarr", *, tables: tuple[str, ...] = ("table",), scale: float = 1.0) -> Path:
        import anndata as ad
        import spatialdata as sd
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Scale

        rows, cols = (a.ravel() for a in np.mgrid[:5, :8])
        xy = np.column_stack([cols * 10.0 + 5, rows * 12.0 + 6])
        ids = np.arange(100, 140)
        to_global = {"global": Scale([scale, scale], axes=("x", "y"))}
        circles = ShapesModel.parse(xy, geometry=0, radius=4.0, index=pd.Index(ids), transformations=to_global)
        pixels = np.random.default_rng(0).integers(0, 255, (3, 60, 80), dtype=np.uint8)
        image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=to_global)
        made = {}
        for k, table in enumerate(tables):
            order = np.random.default_rng(k).permutation(40)
            obs = pd.DataFrame(
                {
                    "region": pd.Categorical(["spots"] * 40),
                    "instance_id": ids[order],
                    "layer": np.where(rows < 2, "top", "bottom")[order],
                },
                index=[f"spot{i}" for i in ids[order]],
            )
            adata = ad.AnnData(sp.csr_matrix(counts_of(40, seed=k).astype(np.float32))[order], obs=obs)
            adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
            made[table] = TableModel.parse(adata, region="spots", region_key="region", instance_key="instance_id")
        path = tmp_path / name
        sd.SpatialData(images={"he": image}, shapes={"spots": circles}, tables=made).write(path)
        return path

    return write
