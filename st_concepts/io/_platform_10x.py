"""Space Ranger and Xenium output folders, read by squidpy and spatialdata-io; here only their habits are evened out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._keys import KEYS, safe_labels

from ._platform_spatialdata import table_as_anndata
from ._platforms import COUNTS_10X, ClearError, logger

_BIN = re.compile(r"square_(\d+)um")
_DEFAULT_BIN = 8  # what the maker recommends to start with


@contextmanager
def others_warnings() -> Iterator[None]:
    """Warnings that other libraries give about themselves go to the log, level DEBUG."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        logger.debug("%s: %s", warning.category.__name__, warning.message)


def read_visium(path: Path, *, library_id: str | None = None, **kwargs: Any) -> AnnData:
    """Visium by ``squidpy.read.visium``; in-tissue spots, full-resolution pixels."""
    counts = kwargs.pop("counts_file", None) or _one_file(path, f"*{COUNTS_10X}")
    with others_warnings():
        import squidpy as sq

        adata = sq.read.visium(path, counts_file=counts, library_id=library_id or _named(path / counts), **kwargs)
    library = next(iter(adata.uns[KEYS.SPATIAL]))
    safe = safe_labels([library])[0]
    adata.uns[KEYS.SPATIAL] = {safe: adata.uns[KEYS.SPATIAL][library]}
    images = adata.uns[KEYS.SPATIAL][safe].get("images", {})
    adata.uns[KEYS.SPATIAL][safe]["images"] = {name: _rgb(pixels) for name, pixels in images.items()}
    if KEYS.SPATIAL in adata.obsm:
        coords = np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)
        lost = int(np.isnan(coords).any(1).sum())
        if lost:
            raise ClearError(
                f"{path}: {lost} of {adata.n_obs} barcodes of {counts} are not in spatial/tissue_positions*.csv; the "
                "files belong to different sections."
            )
        adata.obsm[KEYS.SPATIAL] = coords
    adata.obs[KEYS.BATCH] = pd.Categorical([safe] * adata.n_obs)
    return adata


def read_visium_hd(path: Path, *, bin_size: int | None = None, **kwargs: Any) -> AnnData:
    """One bin size of Visium HD by ``spatialdata_io.visium_hd``; full-resolution pixels."""
    if (own := _BIN.fullmatch(path.name)) and path.parent.name == "binned_outputs":
        # the folder of one bin size was named
        if bin_size not in (None, int(own[1])):
            raise ClearError(f"{path} holds bins of {int(own[1])} um, but bin_size={bin_size} was asked for.")
        path, bin_size = path.parent.parent, int(own[1])
    sizes = sorted(int(m[1]) for p in (path / "binned_outputs").glob("square_*um") if (m := _BIN.fullmatch(p.name)))
    if not sizes:
        raise ClearError(f"{path}: no binned_outputs/square_*um; unpack binned_outputs.tar.gz there.")
    if bin_size is None:
        bin_size = _DEFAULT_BIN if _DEFAULT_BIN in sizes else sizes[0]
        logger.info("%s: bins of %d um (there are: %s)", path, bin_size, ", ".join(map(str, sizes)))
    if bin_size not in sizes:
        raise ClearError(f"{path} has no bins of {bin_size} um; bin_size can be {', '.join(map(str, sizes))}.")
    if not any(path.glob("*feature_slice.h5")):
        raise ClearError(f"{path}: feature_slice.h5 is missing; it is part of the Space Ranger output, copy it there.")
    with others_warnings():
        io = _spatialdata_io("Visium HD")
        options: dict[str, Any] = {"load_segmentations_only": False, "gex_only": True} | kwargs
        options.setdefault("dataset_id", _hd_name(path))
        sdata = io.visium_hd(path, bin_size=bin_size, **options)
    return table_as_anndata(sdata, f"square_{bin_size:03}um", linked=False)


def read_xenium(path: Path, **kwargs: Any) -> AnnData:
    """Cells of Xenium by ``spatialdata_io.xenium``, without transcripts, outlines and images; micrometres."""
    light = dict.fromkeys(
        (
            "cells_boundaries",
            "nucleus_boundaries",
            "cells_labels",
            "nucleus_labels",
            "transcripts",
            "morphology_mip",
            "morphology_focus",
            "aligned_images",
        ),
        False,
    )
    for name in ("cell_feature_matrix.h5", "cells.parquet", "cells.zarr.zip"):
        if not (path / name).is_file():
            raise ClearError(f"{path}: {name} is missing; it is part of the Xenium output, copy it there.")
    with others_warnings():
        io = _spatialdata_io("Xenium")
        sdata = io.xenium(path, **(light | {"cells_as_circles": True} | kwargs))
    adata = table_as_anndata(sdata, None, linked=False)
    if "cell_id" in adata.obs:
        adata.obs_names = adata.obs["cell_id"].astype(str).to_numpy()
    adata.obs[KEYS.BATCH] = pd.Categorical([safe_labels([path.name])[0]] * adata.n_obs)
    return adata


def _spatialdata_io(what: str) -> ModuleType:
    try:
        import spatialdata_io
    except ImportError:
        raise ImportError(f"{what} is read by spatialdata-io: pip install 'st_concepts[spatialdata]'.") from None
    return spatialdata_io


def _one_file(path: Path, pattern: str) -> str:
    found = sorted(p.name for p in path.glob(pattern))
    if not found:
        raise ClearError(f"{path}: no {pattern.lstrip('*')}.")
    if len(found) > 1:
        raise ClearError(f"{path}: several count files, {', '.join(found)}; name one with counts_file=.")
    return found[0]


def _named(counts: Path) -> str | None:
    """`None` where the count file names its library, else the name of the folder."""
    import h5py

    with h5py.File(counts, "r") as handle:
        if len(handle.attrs.get("library_ids", ())) > 0:
            return None
    folder = counts.parent
    return folder.parent.name if folder.name == "outs" else folder.name


def _hd_name(path: Path) -> str:
    prefix = next(path.glob("*feature_slice.h5")).name.removesuffix("feature_slice.h5").rstrip("_")
    return prefix or safe_labels([path.parent.name if path.name == "outs" else path.name])[0]


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 of shape (height, width, 3): grey and transparent images are common too."""
    from ._image import reduce_image

    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return reduce_image(pixels, {"own": max(pixels.shape[:2])})[1]["own"]
