"""Counts to latent positions, the same for every caller and every encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts._counts.features import sizes
from st_concepts._counts.sparse import sparse_product
from st_concepts.models._encoder import Encoder, FeatureMatrix


def embed_counts(
    encoder: Encoder, counts: FeatureMatrix, codes: np.ndarray | None, features: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Latent means float32 ``(n, n_latent)`` of one batch of counts, and the totals of the spots, float64 ``(n,)``.

    A spot without counts says nothing: it is put at 0, the mean of the prior, whatever the encoder makes of zeros.

    Parameters
    ----------
    encoder
        Any encoder.
    counts
        ``(n, n_vars)``, genes in the encoder's order.
    codes
        Covariate codes, or `None`.
    features
        ``encoder.features(counts)``, where they are at hand.
    """
    totals = sizes(counts)
    latent = embed_batch(encoder, encoder.features(counts) if features is None else features, codes)
    return np.where(totals[:, None] > 0, latent, np.float32(0)), totals


@torch.no_grad()
def embed_batch(encoder: Encoder, features: Any, codes: np.ndarray | None) -> np.ndarray:
    """Latent means of one batch of features, float32; a linear first layer multiplies nonzeros only."""
    first = encoder.first_layer
    device = encoder.device
    if first is None:
        dense = torch.from_numpy(features.toarray() if sp.issparse(features) else features).to(device)
        return encoder.encode(dense, None if codes is None else torch.from_numpy(codes).to(device)).cpu().numpy()
    bias = first.bias.detach().cpu().numpy()
    weight = np.ascontiguousarray(first.weight.detach().cpu().numpy().T)
    a = sparse_product(features, weight) if sp.issparse(features) else np.asarray(features) @ weight
    a = a + (bias[-1] if codes is None else bias[codes])
    return first.rest(torch.from_numpy(np.asarray(a, dtype=np.float32)).to(device)).cpu().numpy()
