"""Checks of what a user passes in, each with an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import nn

from st_concepts._counts.kind import is_sparse
from st_concepts.models import Encoder, FeatureMatrix


def check_features(features: FeatureMatrix, n_vars: int, what: str = "features") -> FeatureMatrix:
    """CSR or dense ``features`` ``(n, n_vars)``, all finite."""
    if is_sparse(features):
        features = features.tocsr()
        values = features.data
    else:
        features = np.asarray(features)
        values = features
    if features.ndim != 2 or features.shape[1] != n_vars:
        raise ValueError(
            f"{what} has shape {features.shape}, but the encoder takes {n_vars} features in its columns. "
            "Select and order the genes by the encoder's var_names."
        )
    # a sum is finite unless something is not (or overflows, which the full check then clears)
    if values.size and not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        if is_sparse(features):
            rows = np.repeat(np.arange(features.shape[0]), np.diff(features.indptr))[~np.isfinite(values)]
        else:
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise ValueError(
            f"{what} holds NaN or infinite values (first in row {int(rows[0])}). "
            "Check the counts for missing values before computing attributions."
        )
    return features


def check_concepts(concepts: np.ndarray | torch.Tensor, n_latent: int) -> np.ndarray:
    """Concept vectors as float64 ``(n_concepts, n_latent)``; a single vector becomes one row."""
    if isinstance(concepts, torch.Tensor):
        concepts = concepts.detach().cpu().numpy()
    vectors = np.atleast_2d(np.asarray(concepts, dtype=np.float64))
    if vectors.ndim != 2 or vectors.shape[1] != n_latent:
        raise ValueError(
            f"A concept vector needs {n_latent} entries, one per latent dimension of this encoder, "
            f"but got shape {np.shape(concepts)}. Was it fitted with another model?"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("The concept vector holds NaN or infinite values. Fit the concepts again.")
    return vectors


def check_codes(codes: np.ndarray | None, n: int, n_codes: int | None) -> np.ndarray | None:
    """Covariate codes as int64 ``(n,)``."""
    if codes is None:
        if n_codes is not None and n_codes > 1:
            raise ValueError(
                f"This encoder has {n_codes} covariate codes (sections or batches); pass codes=encoder.codes(obs)."
            )
        return None
    codes = np.asarray(codes)
    if codes.shape != (n,) or codes.dtype.kind not in "iu":
        raise ValueError(
            f"codes must be {n} integers, one per spot; got shape {codes.shape} and dtype {codes.dtype}. "
            "Use encoder.codes(obs)."
        )
    if n and (codes.min() < 0 or (n_codes is not None and codes.max() >= n_codes)):
        raise ValueError(f"codes must lie between 0 and {n_codes - 1 if n_codes else 'n_codes - 1'}.")
    return codes.astype(np.int64)


def check_baseline(baseline: np.ndarray | None, n_vars: int) -> np.ndarray:
    """A baseline ``(n_vars,)`` in float64; `None` is zero."""
    if baseline is None:
        return np.zeros(n_vars)
    baseline = np.asarray(baseline, dtype=np.float64)
    if baseline.shape != (n_vars,):
        raise ValueError(f"A baseline needs {n_vars} values, one per feature, but got shape {baseline.shape}.")
    if not np.isfinite(baseline).all():
        raise ValueError("The baseline holds NaN or infinite values.")
    return baseline


def check_genes(genes: np.ndarray | Sequence[int] | None, n_vars: int) -> np.ndarray | None:
    """Column indices of the genes as int64; `None` stays `None` (all genes)."""
    if genes is None:
        return None
    genes = np.atleast_1d(np.asarray(genes))
    if genes.size == 0:
        return genes.astype(np.int64)
    if genes.dtype.kind not in "iu" or genes.ndim != 1:
        raise ValueError("genes must be integer column indices; use encoder.var_names.get_indexer(names).")
    if genes.min() < 0 or genes.max() >= n_vars:
        wrong = genes[(genes < 0) | (genes >= n_vars)].tolist()
        raise ValueError(
            f"Genes {wrong[:5]} are not in the model, which has {n_vars} features. "
            "A negative index usually means that var_names.get_indexer did not find the name."
        )
    return genes.astype(np.int64)


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put every submodule into eval mode; restore each one's mode afterwards, also after an error."""
    changed = [m for module in modules for m in module.modules() if m.training]
    try:
        for m in changed:
            m.training = False
        yield
    finally:
        for m in changed:
            m.training = True


def modules_of(encoder: Encoder | nn.Module) -> list[nn.Module]:
    """Torch modules that ``encoder`` runs, as far as can be seen."""
    if isinstance(encoder, nn.Module):
        return [encoder]
    found = [value for value in vars(encoder).values() if isinstance(value, nn.Module)]
    layer = encoder.first_layer
    return found if layer is None else [*found, layer.rest]


def profile_baseline(profile: pd.Series | np.ndarray, var_names: pd.Index) -> np.ndarray:
    """A user's own profile, a series by gene name or an array in order of ``var_names``, as float64 ``(n_vars,)``.

    Genes that the model lacks are ignored.
    """
    if isinstance(profile, pd.Series):
        missing = var_names[~var_names.isin(profile.index)]
        if len(missing):
            raise ValueError(
                f"The baseline profile lacks {len(missing)} of the model's {len(var_names)} genes, "
                f"for example {', '.join(map(str, missing[:5]))}. Fill them in, with 0 where they are not expressed."
            )
        profile = profile[~profile.index.duplicated()].reindex(var_names).to_numpy()
    return check_baseline(profile, len(var_names))
