"""Parts of an output folder of Space Ranger, taken and written; two sections compared."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

H5 = "filtered_feature_bc_matrix.h5"


def same(a: AnnData, b: AnnData) -> None:
    """Spots, genes, counts and places agree."""
    assert a.obs_names.tolist() == b.obs_names.tolist()
    assert a.var_names.tolist() == b.var_names.tolist()
    np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])


def positions_of(folder: Path) -> tuple[Path, pd.DataFrame]:
    path = folder / "spatial" / "tissue_positions.csv"
    return path, pd.read_csv(path)


def write_mtx(h5: Path, folder: Path, *, version: int = 3, prefix: str = "") -> None:
    """The same counts as ``h5``, as the pipelines write them in text."""
    from scipy.io import mmwrite
    from scipy.sparse import csc_matrix

    folder.mkdir(exist_ok=True)
    with h5py.File(h5) as f:
        g = f["matrix"]
        matrix = csc_matrix((g["data"][:], g["indices"][:], g["indptr"][:]), shape=tuple(g["shape"][:]))
        barcodes = [b.decode() for b in g["barcodes"][:]]
        features = [
            [x.decode() for x in row]
            for row in zip(*(g["features"][k][:] for k in ("id", "name", "feature_type")), strict=True)
        ]
    names = {"barcodes.tsv": "\n".join(barcodes)}
    if version == 2:
        names["genes.tsv"] = "\n".join("\t".join(row[:2]) for row in features)
    else:
        names["features.tsv"] = "\n".join("\t".join(row) for row in features)
    mmwrite(folder / f"{prefix}matrix.mtx", matrix)
    for name, text in names.items():
        (folder / f"{prefix}{name}").write_text(text + "\n")
    if version == 3:
        for path in list(folder.glob(f"{prefix}*")):
            if path.suffix in (".mtx", ".tsv"):
                zipped(path)


def zipped(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def headerless(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path.with_name("tissue_positions_list.csv"), index=False, header=False)
