"""An AnnData as one encoder sees it; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts._counts.check import align_genes, check_block, count_matrix, take_genes, where_of
from st_concepts._counts.elsewhere import counts_elsewhere, model_layer
from st_concepts._counts.features import sizes
from st_concepts._counts.rows import iter_rows
from st_concepts._counts.sparse import sparse_product
from st_concepts._distributed import all_reduce, shard_rows
from st_concepts.models._encoder import Encoder, FeatureMatrix

BATCH_SIZE = 1024
# spots with fewer counts than this share of the median carry no information about layers
_SPARSE_SHARE = 0.02


def as_encoder(model: Any) -> Encoder:
    """The model itself where it follows the encoder protocol; scvi-tools models are adapted."""
    if isinstance(model, AnnData):
        raise TypeError("The second argument must be a model, not an AnnData: stc.tl.concepts(adata, model, ...).")
    if type(model).__module__.startswith("scvi."):
        from st_concepts.models._scvi import from_scvi

        return from_scvi(model)
    if isinstance(model, Encoder):
        return model
    raise TypeError(
        f"{type(model).__name__} is not a model that can be explained; use stc.SpotVAE, an scvi-tools model, or an "
        "object with the attributes of st_concepts.models.Encoder."
    )


class SpotBatch(NamedTuple):
    """Some consecutive spots.

    Attributes
    ----------
    rows
        Which spots.
    features
        ``(n, n_vars)``, as the encoder takes them.
    counts
        CSR ``(n, n_vars)``, genes in the encoder's order.
    codes
        Covariate codes ``(n,)``, or `None`.
    """

    rows: slice
    features: FeatureMatrix
    counts: sp.csr_matrix
    codes: np.ndarray | None


@dataclass(frozen=True)
class Embedding:
    """Where the spots of a section lie.

    Attributes
    ----------
    latent
        Latent means, float32 ``(n_obs, n_latent)``; 0, the mean of the prior, for spots without counts.
    totals
        Counts of each spot, float64 ``(n_obs,)``.
    usable
        Boolean ``(n_obs,)``: spots with enough counts to say anything about their layer.
    """

    latent: np.ndarray
    totals: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class Section:
    """An AnnData as one encoder sees it.

    Attributes
    ----------
    adata
        Raw counts.
    encoder
        The model.
    layer
        Layer with the counts, `None` for X.
    """

    adata: AnnData
    encoder: Encoder
    layer: str | None

    @classmethod
    def open(cls, adata: AnnData, model: Any, *, layer: str | None = None) -> Self:
        """The layer asked for, else the model's own where ``adata`` has it, else X, which is said."""
        encoder = as_encoder(model)
        return cls(adata, encoder, model_layer(adata, getattr(encoder, "layer", None), layer))

    def counts(
        self, *, batch_size: int = BATCH_SIZE, share: bool = False
    ) -> Iterator[tuple[slice, sp.csr_matrix, np.ndarray | None]]:
        """Rows, checked counts with genes in the encoder's order, and covariate codes of consecutive batches.

        With ``share``, the batches of this process where several compute together; an empty one where there is none
        for it, so that it can take part in the sums.
        """
        adata, layer = self.adata, self.layer
        X = count_matrix(adata, layer)
        names = pd.Index(adata.var_names.astype(str))
        index = align_genes(names, self.encoder.var_names)
        codes = self.encoder.codes(adata.obs)
        where = where_of(layer)
        own = shard_rows(adata.n_obs, batch_size)
        nothing = [(slice(0, 0), sp.csr_matrix((0, adata.n_vars), dtype=np.float32))]
        for rows, block in nothing if share and own.start == own.stop else iter_rows(X, batch_size, share=share):
            check_block(block, names, where, lambda: counts_elsewhere(adata, layer))
            yield rows, take_genes(block, index), None if codes is None else codes[rows]

    def batches(self, *, batch_size: int = BATCH_SIZE, share: bool = False) -> Iterator[SpotBatch]:
        """The same with features; see `counts`."""
        for rows, counts, codes in self.counts(batch_size=batch_size, share=share):
            yield SpotBatch(rows, self.encoder.features(counts), counts, codes)

    @cached_property
    def embedding(self) -> Embedding:
        """Made once; several processes embed a share each and end with all of them."""
        return self.embed(share=True)

    def embed(self, *, batch_size: int = BATCH_SIZE, share: bool = False) -> Embedding:
        """One pass over the counts, by this process alone or shared."""
        latent = np.zeros((self.adata.n_obs, self.encoder.n_latent), dtype=np.float32)
        totals = np.zeros(self.adata.n_obs)
        for rows, features, counts, codes in self.batches(batch_size=batch_size, share=share):
            totals[rows] = sizes(counts)
            means = embed_batch(self.encoder, features, codes)
            latent[rows] = np.where(totals[rows, None] > 0, means, np.float32(0))
        if share:
            latent, totals = all_reduce(latent, totals)  # zero but in the rows of one process, so nothing is rounded
        return Embedding(latent.astype(np.float32, copy=False), totals, informative(totals))

    @property
    def target_sum(self) -> float:
        """What features are normalised to: the encoder's, or the median of the spots."""
        totals = self.embedding.totals
        return float(getattr(self.encoder, "target_sum", np.median(totals[totals > 0])))


def informative(totals: np.ndarray) -> np.ndarray:
    """Boolean ``(n_obs,)``: spots with enough counts to say anything about their layer."""
    positive = totals[totals > 0]
    return totals >= _SPARSE_SHARE * np.median(positive) if positive.size else totals > 0


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
