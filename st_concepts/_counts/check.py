"""Checks of the counts that a model is given; every message says what, where and what to do next."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.elsewhere import callers_level, counts_elsewhere, refuse_minified
from st_concepts._counts.layers import layer_names
from st_concepts._counts.rows import iter_rows

_CHUNK = 4096
MOST = 2**24  # molecules of a gene in a spot: more was never counted, and beyond it float32 skips integers


@dataclass(frozen=True)
class CountSummary:
    """What one pass over the counts tells: totals per spot ``(n_obs,)`` and per gene ``(n_vars,)``, float64."""

    spot_totals: np.ndarray
    gene_totals: np.ndarray


def count_matrix(adata: AnnData, layer: str | None) -> Any:
    """``adata.X`` or ``adata.layers[layer]``, with a clear error where it is missing or was emptied by scvi-tools."""
    refuse_minified(adata)
    if layer is None:
        if adata.X is None:
            hint = counts_elsewhere(adata, layer) or "Name the layer that holds the raw counts: layer='counts'."
            raise ValueError(f"adata.X is empty. {hint}")
        return _numbers(adata.X, "adata.X")
    if layer not in adata.layers:
        have = ", ".join(repr(k) for k in layer_names(adata)) or "none"
        raise KeyError(f"Layer {layer!r} is not in adata.layers (it has: {have}). Pass layer=None to use adata.X.")
    return _numbers(adata.layers[layer], where_of(layer))


def _numbers(X: Any, where: str) -> Any:
    """The matrix, where its type can hold counts."""
    dtype = getattr(X, "dtype", None)
    if dtype is None or np.dtype(dtype).kind not in "iuf":
        what = "objects" if dtype is None else "True and False" if dtype == np.bool_ else f"values of type {dtype}"
        raise ValueError(
            f"{where} holds {what}, which are no counts; raw counts are needed. Name the layer that holds them: "
            "layer='counts'."
        )
    return X


def where_of(layer: str | None) -> str:
    """A matrix of counts as messages call it."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def check_block(block: sp.csr_matrix, names: pd.Index, where: str, elsewhere: Callable[[], str] = lambda: "") -> None:
    """Raise `ValueError` on NaN, infinite, negative or non-integer values in one block of rows.

    ``elsewhere`` says where the counts are instead, if it knows; it is asked only then.
    """
    values = block.data
    if not np.isfinite(values).all():
        gene = names[block.indices[np.flatnonzero(~np.isfinite(values))[0]]]
        raise ValueError(
            f"{where} holds NaN or infinite values (gene {gene!r}). Remove those spots, or set missing counts to 0."
        )
    if (values < 0).any():
        gene = names[block.indices[np.flatnonzero(values < 0)[0]]]
        advice = elsewhere() or "Keep the counts in a layer and pass layer='counts'."
        raise ValueError(
            f"{where} holds negative values (gene {gene!r}); raw counts are needed, scaled or corrected data cannot be "
            f"used. {advice}"
        )
    if (values > MOST).any():
        i = np.flatnonzero(values > MOST)[0]
        raise ValueError(
            f"{where} holds values that are no counts: {values[i]:.4g} of gene {names[block.indices[i]]!r} in one "
            f"spot, and more than {MOST:,} molecules are never counted. Raw counts are needed; name the layer that "
            "holds them: layer='counts'."
        )
    bad = np.flatnonzero(values != np.round(values))
    if bad.size:
        gene, value = names[block.indices[bad[0]]], values[bad[0]]
        hint = " It looks log-normalised." if values.max() < 20 else ""
        advice = elsewhere() or (
            "Keep the counts in a layer before sc.pp.normalize_total and sc.pp.log1p "
            "(adata.layers['counts'] = adata.X.copy()) and pass layer='counts'."
        )
        raise ValueError(
            f"{where} holds non-integer values (gene {gene!r}: {value:.4g}); raw counts are needed.{hint} {advice}"
        )


def check_counts(adata: AnnData, layer: str | None) -> CountSummary:
    """Check a whole count matrix in one pass of row batches; what is wrong is a `ValueError`.

    Spots without a single count are warned of: they are left out of the fit and embedded at 0, the mean of the prior.
    """
    X = count_matrix(adata, layer)
    where = where_of(layer)
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(f"adata has {adata.n_obs} spots and {adata.n_vars} genes; both must be above zero.")
    check_var_names(adata.var_names)
    spots = np.zeros(adata.n_obs)
    genes = np.zeros(adata.n_vars)
    for rows, block in iter_rows(X, _CHUNK):
        check_block(block, adata.var_names, where, lambda: counts_elsewhere(adata, layer))
        spots[rows] = np.asarray(block.sum(1, dtype=np.float64)).ravel()
        genes += np.asarray(block.sum(0, dtype=np.float64)).ravel()
    if genes.sum() == 0:
        raise ValueError(
            f"{where} holds no counts at all: every value is zero. {counts_elsewhere(adata, layer)}".strip()
        )
    if (spots == 0).any():
        i = np.flatnonzero(spots == 0)
        warnings.warn(
            f"{i.size} of {adata.n_obs} spots have no counts (the first is {adata.obs_names[i[0]]!r}); they are left "
            "out of the fit and embedded at 0. sc.pp.filter_cells(adata, min_counts=1) removes them.",
            UserWarning,
            stacklevel=callers_level(),
        )
    return CountSummary(spots, genes)


def check_var_names(names: pd.Index) -> None:
    """Raise `ValueError` where a gene name occurs twice."""
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise ValueError(
            f"{len(twice)} gene names occur more than once (for example {twice[0]!r}). "
            "Call adata.var_names_make_unique() first."
        )


def align_genes(have: pd.Index, want: pd.Index, *, min_share: float = 0.5) -> np.ndarray | None:
    """Columns of ``have`` for each gene of ``want``: int64 ``(len(want),)``, -1 where missing; `None` if identical."""
    if have.equals(want):
        return None
    check_var_names(have)
    index = have.get_indexer(want)
    found = int((index >= 0).sum())
    if found < min_share * len(want):
        reason = ""
        if _ensembl_share(have) > 0.5 > _ensembl_share(want):
            reason = " The data use Ensembl ids, the model gene symbols: set adata.var_names to the symbols."
        elif _ensembl_share(want) > 0.5 > _ensembl_share(have):
            reason = " The model uses Ensembl ids, the data gene symbols: set adata.var_names to the ids."
        elif len(set(map(str.upper, have)) & set(map(str.upper, want))) > max(found, 1) * 2:
            reason = " Upper and lower case differ: are they of two species?"
        lacks, other = want[index < 0][0], have[~have.isin(want)]
        extra = f", the data {other[0]!r}" if len(other) else ", the data have no others"
        raise ValueError(
            f"Only {found} of the {len(want)} genes of the model are in adata.var_names "
            f"(the model has {lacks!r}{extra}).{reason}"
        )
    if found < len(want):
        warnings.warn(
            f"{len(want) - found} of the {len(want)} genes of the model are missing from adata and count as zero.",
            UserWarning,
            stacklevel=callers_level(),
        )
    return index.astype(np.int64)


def _ensembl_share(names: pd.Index) -> float:
    return float(np.mean([str(n).upper().startswith("ENS") for n in names[:200]])) if len(names) else 0.0


def take_genes(block: sp.csr_matrix, index: np.ndarray | None) -> sp.csr_matrix:
    """Columns of a CSR block in the order of `align_genes`; missing ones are empty."""
    if index is None:
        return block
    here = np.full(block.shape[1], -1, dtype=block.indices.dtype)
    here[index[index >= 0]] = np.flatnonzero(index >= 0)
    columns = here[block.indices]
    used = columns >= 0
    values, ends = block.data, block.indptr
    if not used.all():
        values, columns = values[used], columns[used]
        ends = np.concatenate([[0], np.cumsum(used)]).astype(block.indptr.dtype)[ends]
    out = sp.csr_matrix((values, columns, ends), shape=(block.shape[0], len(index)))
    out.sort_indices()  # so that sums run in the order of the model's genes, to the last bit
    return out
