"""Reading slots of an AnnData and streaming it through an encoder; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.check import align_genes, check_block, count_matrix, take_genes
from st_concepts._counts.elsewhere import counts_elsewhere, model_layer
from st_concepts._counts.frames import as_frame
from st_concepts._counts.rows import iter_rows
from st_concepts._distributed import all_sum, my_rows
from st_concepts._slots import KEYS
from st_concepts.concepts._concept_set import ConceptSet
from st_concepts.concepts._membership import Membership, from_scores
from st_concepts.models import Encoder
from st_concepts.models._embed import embed_counts

BATCH_SIZE = 1024
# spots with fewer counts than this share of the median carry no information about layers
_SPARSE_SHARE = 0.02


def as_encoder(model: Any) -> Encoder:
    """The model itself where it follows the encoder protocol; scvi-tools models are adapted.

    Raises
    ------
    TypeError
        Neither.
    """
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


def counts_layer(adata: AnnData, encoder: Encoder, layer: str | None) -> str | None:
    """The layer asked for, else the model's own where ``adata`` has it, else `None` (``X``), which is said.

    Warns
    -----
    UserWarning
        The model was trained on a layer that ``adata`` lacks.
    """
    return model_layer(adata, getattr(encoder, "layer", None), layer)


def stream(
    adata: AnnData, encoder: Encoder, layer: str | None = None, *, batch_size: int = BATCH_SIZE, share: bool = False
) -> Iterator[tuple[slice, Any, sp.csr_matrix, np.ndarray | None]]:
    """Rows, CSR features, CSR counts and covariate codes of consecutive batches, genes in the encoder's order.

    With ``share``, the batches of this process where several compute together; an empty one where there is none for
    it, so that it can take part in the sums.
    """
    X = count_matrix(adata, layer)
    names = pd.Index(adata.var_names.astype(str))
    index = align_genes(names, encoder.var_names)
    codes = encoder.codes(adata.obs)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    own = my_rows(adata.n_obs, batch_size)
    nothing = [(slice(0, 0), sp.csr_matrix((0, adata.n_vars), dtype=np.float32))]
    for rows, block in nothing if share and own.start == own.stop else iter_rows(X, batch_size, share=share):
        check_block(block, names, where, lambda: counts_elsewhere(adata, layer))
        counts = take_genes(block, index)
        yield rows, encoder.features(counts), counts, None if codes is None else codes[rows]


def embed_all(adata: AnnData, encoder: Encoder, layer: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Latent means float32 ``(n_obs, n_latent)`` and totals of counts float64 ``(n_obs,)``; 0 where there are none.

    Several processes embed a share each and end with all of them.
    """
    latent = np.zeros((adata.n_obs, encoder.n_latent), dtype=np.float32)
    totals = np.zeros(adata.n_obs)
    for rows, features, counts, codes in stream(adata, encoder, layer, share=True):
        latent[rows], totals[rows] = embed_counts(encoder, counts, codes, features)
    latent, totals = all_sum(latent, totals)  # zero but in the rows of one process, so nothing is rounded
    return latent.astype(np.float32, copy=False), totals


def informative(totals: np.ndarray) -> np.ndarray:
    """Boolean ``(n_obs,)``: spots with enough counts to say anything about their layer."""
    positive = totals[totals > 0]
    return totals >= _SPARSE_SHARE * np.median(positive) if positive.size else totals > 0


def membership(adata: AnnData, concepts: ConceptSet) -> Membership:
    """Inside / outside of each concept: ``obsm["concept_members"]``, or else by concept score."""
    key = concepts.slot(KEYS.MEMBERS)
    if key in adata.obsm:
        frame = as_frame(adata.obsm[key])
        if list(frame.columns) == concepts.labels:
            return Membership(concepts.names, frame.to_numpy().astype(np.int8))
    return from_scores(concepts.names, scores(adata, concepts).to_numpy())


def scores(adata: AnnData, concepts: ConceptSet, key: str | None = None) -> pd.DataFrame:
    """``obsm[key]`` of these concepts, by default ``obsm["concept_score"]``.

    Raises
    ------
    KeyError
        Not there, or of other concepts.
    """
    key = key or str(concepts.params.get("score_key") or KEYS.SCORE)
    if key not in adata.obsm:
        raise KeyError(f"adata.obsm[{key!r}] is missing: run stc.tl.concepts or stc.tl.score_concepts first.")
    frame = as_frame(adata.obsm[key])
    if list(frame.columns) != concepts.labels:
        raise KeyError(
            f"adata.obsm[{key!r}] holds scores of {', '.join(map(str, frame.columns))}, but the concepts are "
            f"{', '.join(concepts.labels)}. Run stc.tl.score_concepts again."
        )
    return frame
