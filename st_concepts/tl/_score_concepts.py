"""`stc.tl.score_concepts`: concepts of one section on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import column
from st_concepts._results import Result, gene_frame, writes
from st_concepts._slots import KEYS, concept_slot
from st_concepts.attribution import concept_gradients
from st_concepts.concepts import (
    ConceptSet,
    defining_labels,
    neighbours,
    read_concepts,
    reference_labels,
    score_frame,
)
from st_concepts.models import Section


@writes
def score_concepts(
    adata: AnnData,
    model: Any,
    *,
    concepts: AnnData | Mapping[str, Any] | ConceptSet,
    section_key: str | None = None,
    graph_key: str | None = None,
    layer: str | None = None,
    key_added: str = KEYS.CONCEPTS,
    score_key: str | None = None,
    copy: bool = False,
) -> Result:
    """Score the spots of another section with concepts that were defined elsewhere; nothing is fitted again.

    Parameters
    ----------
    adata
        Raw counts of the section to score. Genes are matched by name.
    model
        The model that the concepts were made with.
    concepts
        The AnnData that ``stc.tl.concepts`` wrote into, or its ``uns["concepts"]``.
    section_key, graph_key
        Sections and neighbours of the spots, for concepts that see the surroundings: as in ``stc.tl.concepts``.
    layer
        Layer with the counts; by default that of the model.
    key_added, score_key
        Where to write.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes ``uns["concepts"]`` (the same concepts) and ``obsm["concept_score"]``. Scores are in the
    units of the section of definition; where concepts see the surroundings and there are no positions, they are those
    of the spot alone. ``obsm["concept_members"]`` is removed, or, where ``adata.obs`` has the
    column that defined the concepts, made from that.

    Raises
    ------
    ValueError
        The concepts were made with another model (both fingerprints are named).

    Warns
    -----
    UserWarning
        The concepts see the surroundings, and there are no positions.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> other = stc.datasets.simulated_bulb(n_obs=150, n_vars=150, seed=0)
    >>> stc.tl.score_concepts(other, model, concepts=adata)
    >>> other.obsm["concept_score"].shape
    (150, 5)
    """
    section = Section.open(adata, model, layer=layer)
    encoder = section.encoder
    made = read_concepts(concepts)
    made.check_model(encoder.fingerprint)
    score_key = score_key or concept_slot(KEYS.SCORE, key_added)
    own = {
        "layer": section.layer or "",
        "key": key_added,
        "score_key": score_key,
        "section_key": section_key or getattr(encoder, "section_key", None) or "",
        "graph_key": graph_key or "",
    }
    made = replace(made, params=made.params | own)
    around = neighbours(section, made, section_key=section_key, graph_key=graph_key)
    score = score_frame(made, section.embedding.latent, adata.obs_names, around)
    members = _labels_at_hand(adata, made)
    gradients = {
        made.slot(slot): gene_frame(values, encoder.var_names, adata.var_names, made.labels)
        for slot, values in concept_gradients(section, made, around).items()
    }
    frames = {score_key: score}
    if made.context is not None:
        frames[made.slot(KEYS.SCORE_ALONE)] = score_frame(made, section.embedding.latent, adata.obs_names)
    if members is not None:
        frames[made.slot(KEYS.MEMBERS)] = members
    return Result(
        obsm=frames,
        varm=gradients,
        uns={key_added: made.to_uns()},
        stale=[("obsm", made.slot(KEYS.WEIGHT))]
        + ([("obsm", made.slot(KEYS.MEMBERS))] if members is None else [])
        + ([] if made.context is not None else made.alone_slots),
    )


def _labels_at_hand(adata: AnnData, made: ConceptSet) -> pd.DataFrame | None:
    """Inside and outside of each concept by the column that defined it; `None` where there is none of its labels."""
    if made.params.get("kind") == "mask":
        return _masks_at_hand(adata, made)
    groupby = made.params.get("groupby")
    if not groupby or groupby not in adata.obs:
        return None
    labels = defining_labels(column(adata.obs, groupby), made.names, made.params)
    reference = reference_labels(made.params)
    codes = labels.codes
    against = codes >= 0 if reference is None else np.isin(codes, _positions(labels.names, reference))
    members = np.where(against[:, None], 0, -1).astype(np.int8).repeat(len(made.names), axis=1)
    for j, name in enumerate(made.names):
        members[np.isin(codes, _positions(labels.names, [name])), j] = 1
    if not (members == 1).any():
        return None
    return pd.DataFrame(members, index=adata.obs_names.rename(None), columns=made.labels)


def _positions(names: list[str], wanted: list[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name in wanted]


def _masks_at_hand(adata: AnnData, made: ConceptSet) -> pd.DataFrame | None:
    """The same by boolean columns that are called like the concepts."""
    members = np.full((adata.n_obs, len(made.names)), -1, dtype=np.int8)
    for j, name in enumerate(made.names):
        if name in adata.obs and pd.api.types.is_bool_dtype(labels := column(adata.obs, name)):
            members[:, j] = labels.astype("boolean").astype("Int8").fillna(-1).to_numpy(dtype=np.int8)
    if not (members == 1).any():
        return None
    return pd.DataFrame(members, index=adata.obs_names.rename(None), columns=made.labels)
