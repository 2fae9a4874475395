"""Xenium output folders, read by spatialdata-io; here only its habits are evened out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from st_concepts._files.content import ClearError, check_content
from st_concepts._slots import KEYS, safe_labels

from .base import READERS, Reader
from .others import others_warnings
from .spatialdata import table_as_anndata
from .tenx_files import in_xenium


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
        check_content(path / name, archives=name.endswith(".zip"))
    with others_warnings():
        try:
            import spatialdata_io
        except ImportError:
            raise ImportError("Xenium is read by spatialdata-io: pip install 'st_concepts[spatialdata]'.") from None
        sdata = spatialdata_io.xenium(path, **(light | {"cells_as_circles": True} | kwargs))
    adata = table_as_anndata(sdata, None, linked=False)
    if "cell_id" in adata.obs:
        adata.obs_names = adata.obs["cell_id"].astype(str).to_numpy()
    adata.obs[KEYS.BATCH] = pd.Categorical([safe_labels([path.name])[0]] * adata.n_obs)
    return adata


READERS.register(
    Reader(
        "xenium",
        "Xenium output",
        "a folder with experiment.xenium",
        detect=lambda path: path.is_dir() and in_xenium(path),
        read=read_xenium,
        clear_errors=False,
        order=40,
    )
)
