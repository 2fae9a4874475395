"""Log-normalised expression of an AnnData, sparse, and group summaries of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts.io._rows import iter_rows
from st_concepts.models._features import log_normalize
from st_concepts.models._validate import check_block, count_matrix

_ROWS = 4096


def counts_of(adata: AnnData, layer: str | None) -> sp.csr_matrix | None:
    """Counts as CSR, or `None` where ``adata.X`` was log-normalised after the model was fitted.

    Raises
    ------
    ValueError
        Neither counts nor, by the mark that ``sc.pp.log1p`` leaves in ``uns``, log-normalised.
    """
    names = pd.Index(adata.var_names.astype(str))
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    blocks = []
    for _, block in iter_rows(count_matrix(adata, layer), _ROWS):
        try:
            check_block(block, names, where)
        except ValueError:
            if layer is None and "log1p" in adata.uns and np.isfinite(block.data).all() and not (block.data < 0).any():
                return None
            raise
        blocks.append(block)
    return sp.vstack(blocks, format="csr")


def expression(adata: AnnData, layer: str | None, target_sum: float) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
    """Log-normalised expression, float32 CSR ``(n_obs, n_vars)``, and the counts behind it where there are any."""
    counts = counts_of(adata, layer)
    if counts is None:
        return sp.vstack([b for _, b in iter_rows(adata.X, _ROWS)], format="csr"), None
    return log_normalize(counts, target_sum), counts


def log_fold_changes(x: sp.csr_matrix, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """log2 ratio of mean normalised expression inside over outside, float64 ``(n_concepts, n_vars)``.

    One count spread over all spots is added on both sides, so that genes seen on one side only stay finite.

    Parameters
    ----------
    x
        log1p-normalised, CSR.
    inside, outside
        Boolean ``(n_obs, n_concepts)``.
    """
    linear = sp.csr_matrix((np.expm1(x.data.astype(np.float64)), x.indices, x.indptr), shape=x.shape)
    eps = 1.0 / x.shape[0]
    means = [
        np.asarray((side.astype(np.float64) / np.maximum(side.sum(0), 1)).T @ linear) for side in (inside, outside)
    ]
    return np.log2((means[0] + eps) / (means[1] + eps))


def fraction_expressing(x: sp.csr_matrix, side: np.ndarray) -> np.ndarray:
    """Share of the spots of each side in which a gene is seen, float64 ``(n_concepts, n_vars)``."""
    seen = sp.csr_matrix((np.ones_like(x.data, dtype=np.float64), x.indices, x.indptr), shape=x.shape)
    return np.asarray((side.astype(np.float64) / np.maximum(side.sum(0), 1)).T @ seen)
