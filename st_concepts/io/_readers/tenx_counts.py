"""Count matrices of 10x Genomics: HDF5 of all versions, and folders of matrix, barcodes and features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._files.content import ClearError, check_content, existing, open_plain

from .others import others_warnings
from .tenx_files import sample_of

_GENES = "Gene Expression"
_TABLE = r"\.(?:tsv|txt|csv)"


def read_counts(path: Path, *, genome: str | None = None) -> tuple[AnnData, dict[str, str], list[str]]:
    """A count matrix as it is stored, float32 CSR, genes only; what an HDF5 file says of itself; and what was left out.

    ``path`` is ``.h5``; a folder with ``matrix.mtx``; or a ``.mtx`` with barcodes and features of the same prefix
    beside it. ``genome`` is the one to keep, of a reference with several.
    """
    if path.suffix == ".h5":
        adata, about = _read_h5(path)
    else:
        adata, about = _read_mtx(path), {}
    remarks = []
    if genome is not None:
        known = adata.var["genome"].astype(str) if "genome" in adata.var else pd.Series(dtype=str)
        if not (known == genome).any():
            raise ClearError(
                f"{path}: no genes of genome={genome!r}; there are: {', '.join(known.unique()) or 'none'}."
            )
        adata = adata[:, (known == genome).to_numpy()].copy()
    kinds = adata.var["feature_types"].astype(str) if "feature_types" in adata.var else None
    if kinds is not None and (kinds != _GENES).any():
        others = kinds[kinds != _GENES].value_counts()
        what = ", ".join(f"{n} {kind}" for kind, n in others.items())
        if (kinds == _GENES).sum() == 0:
            raise ClearError(f"{path} holds no genes (feature type {_GENES!r}), only {what}.")
        remarks.append(f"{path.name}: features that are no genes are left out: {what}")
        adata = adata[:, (kinds == _GENES).to_numpy()].copy()
    return adata, about, remarks


def _read_h5(path: Path) -> tuple[AnnData, dict[str, str]]:
    import h5py

    check_content(path)
    try:
        with others_warnings():
            import scanpy as sc

            adata = sc.read_10x_h5(path, gex_only=False)
        with h5py.File(path, "r") as handle:
            names = ("library_ids", "chemistry_description", "software_version")
            about = {name: _text(handle.attrs[name]) for name in names if name in handle.attrs}
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        # scanpy's own message for a file without the matrix is a Python dictionary
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ClearError(f"{path} is no whole count matrix of 10x, it is damaged or incomplete: {reason}") from error
    return adata, {name: text for name, text in about.items() if text}


def _text(value: object) -> str:
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read_mtx(path: Path) -> AnnData:
    from scipy.io import mmread

    matrix, barcodes, features = _mtx_files(path)
    try:
        with open_plain(matrix) as handle:
            counts = sp.csr_matrix(mmread(handle))
    except (OSError, EOFError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ClearError(f"{matrix} is not a whole Matrix Market file ({error}); fetch it again.") from error
    genes, spots = _table(features, counts.shape), _table(barcodes, counts.shape)
    if counts.shape != (len(genes), len(spots)):
        if counts.shape != (len(spots), len(genes)) or len(spots) == len(genes):
            raise ClearError(
                f"{matrix} has {counts.shape[0]} rows and {counts.shape[1]} columns, but {features.name} names "
                f"{len(genes)} features and {barcodes.name} {len(spots)} barcodes; the files are of different sections."
            )
        counts = counts.T
    var = pd.DataFrame({"gene_ids": genes[0].to_numpy()})
    if genes.shape[1] > 2:
        var["feature_types"] = genes[2].to_numpy()
    with others_warnings():  # names that occur twice get their numbers later
        var.index = pd.Index(genes[min(1, genes.shape[1] - 1)].astype(str).to_numpy())
        obs = pd.DataFrame(index=pd.Index(spots[0].astype(str).to_numpy()))
        return AnnData(sp.csr_matrix(counts.T, dtype=np.float32), obs=obs, var=var)


def _mtx_files(path: Path) -> tuple[Path, Path, Path]:
    folder = path if path.is_dir() else path.parent
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    if path.is_dir():
        matrix = next((folder / n for n in ("matrix.mtx.gz", "matrix.mtx") if n in names), folder / "matrix.mtx")
        sample = ""
    else:
        matrix, own = path, sample_of(path.name, r"(?:(?:filtered|raw)_(?:feature|gene)_bc_)?matrix", r"\.mtx")
        sample = own[0] if own else ""
    found = [existing(matrix)]
    for what in ("barcodes", "features|genes"):
        prefix = r"(?:(?:filtered|raw)_(?:feature|gene)_bc_(?:matrix_)?)?"
        of_sample = [n for n in names if (own := sample_of(n, f"{prefix}(?:{what})", _TABLE)) and own[0] == sample]
        if not of_sample:
            raise ClearError(f"{matrix}: {what.split('|')[0]}.tsv is missing beside it; copy it there.")
        found.append(existing(folder / of_sample[0]))
    return found[0], found[1], found[2]


def _table(path: Path, shape: tuple[int, int]) -> pd.DataFrame:
    """Names of features or barcodes; a header, which some programs add, is known by one line too many."""
    try:
        with open_plain(path) as handle:
            table = pd.read_csv(handle, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    except (OSError, EOFError, ValueError) as error:
        raise ClearError(f"{path} is no table of names, one a line ({error}).") from error
    return table.iloc[1:].reset_index(drop=True) if len(table) - 1 in shape and len(table) not in shape else table
