"""Occlusion behind a linear first layer: taking one gene away is a rank-one change of the pre-activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts.attribution._runner import Runner
from st_concepts.models._encoder import FeatureMatrix

# genes of spots that run through the encoder together
_ENTRIES = 8192
# dense differences from the baseline held at a time
_MAX_DENSE = 2_000_000


def differences(
    features: FeatureMatrix, baseline: np.ndarray, genes: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Entries of ``features - baseline`` that are not zero: rows, genes and values, some spots at a time."""
    n, n_vars = features.shape
    wanted = np.arange(n_vars) if genes is None else genes
    if sp.issparse(features) and not baseline[wanted].any():
        entries = (features if genes is None else features[:, wanted]).tocoo()
        keep = entries.data != 0
        yield entries.row[keep], wanted[entries.col[keep]], entries.data[keep]
        return
    step = max(1, _MAX_DENSE // max(1, len(wanted)))
    for first in range(0, n, step):
        block = features[first : first + step]
        block = (block if genes is None else block[:, wanted]) if not sp.issparse(block) else block[:, wanted].toarray()
        gap = np.asarray(block, dtype=np.float64) - baseline[wanted]
        rows, columns = np.nonzero(gap)
        yield rows + first, wanted[columns], gap[rows, columns]


def occlusion_entries(
    run: Runner,
    features: FeatureMatrix,
    a: torch.Tensor,
    codes: torch.Tensor | None,
    baseline: np.ndarray,
    genes: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Fall of every latent dimension when one gene of one spot is set to its baseline.

    Parameters
    ----------
    features
        ``(n, n_vars)``.
    a
        Pre-activations ``(n, n_hidden)`` of the same spots.
    codes
        Covariate codes ``(n,)`` or `None`.
    baseline
        ``(n_vars,)``.
    genes
        Distinct columns to occlude; `None` is all.

    Yields
    ------
    Rows ``(e,)``, columns ``(e,)`` and falls ``(e, n_latent)``; pairs of spot and gene that are at the baseline already
    are left out, their fall is zero.
    """
    latent = run.latent(a, codes)
    for rows, columns, gaps in differences(features, baseline, genes):
        for first in range(0, len(rows), _ENTRIES):
            cut = slice(first, first + _ENTRIES)
            row, column = rows[cut], columns[cut]
            index = torch.as_tensor(row, dtype=torch.long, device=run.device)
            gap = run.tensor(gaps[cut])
            changed = a[index]
            if run.transposed is None:
                changed[torch.arange(len(row)), torch.as_tensor(column, dtype=torch.long, device=run.device)] -= gap
            else:
                changed -= gap[:, None] * run.tensor(run.transposed[column])
            yield row, column, latent[row] - run.latent(changed, None if codes is None else codes[index])
