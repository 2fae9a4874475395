"""`stc.tl.predict_labels`: the layer of every spot, with a probability that means one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._results import Result, writes
from st_concepts._slots import KEYS, concept_slot
from st_concepts.concepts import Calibration, ConceptSet, place_of, read_concepts
from st_concepts.models import Section

NONE = "none of these"
# overlapping concepts: what a spot is not more likely than not, it is not
_MORE_LIKELY = 0.5


@writes
def predict_labels(
    adata: AnnData,
    model: Any,
    *,
    concepts: AnnData | Mapping[str, Any] | ConceptSet | None = None,
    threshold: float = 0.0,
    section_key: str | None = None,
    graph_key: str | None = None,
    layer: str | None = None,
    key_added: str = KEYS.CONCEPTS,
    copy: bool = False,
) -> Result:
    """Predict the layer of every spot: of unlabelled spots of the same section, or of another section.

    Concept scores become probabilities by coefficients that ``stc.tl.concepts`` found with labels held out, so that of
    the spots that are given a layer with probability 0.8, about 80% are of it: in sections like the one of definition,
    and in the parts of it where spots were labelled. Farther away they are too sure (``docs/few_labels.md``). Nothing
    is fitted here.

    Parameters
    ----------
    adata
        Raw counts, ``n_obs`` spots; genes are matched by name.
    model
        The model that the concepts were made with.
    concepts
        The AnnData that ``stc.tl.concepts`` wrote into, or its ``uns["concepts"]``; by default those in ``adata``.
    threshold
        Probability below which no label is given, 0 to 1.
    section_key, graph_key
        Sections and neighbours of the spots, for concepts that see the surroundings: as in ``stc.tl.concepts``, and by
        default, for concepts in ``adata``, as they were then.
    layer
        Layer with the counts; by default that of the model.
    key_added
        Key of the set of concepts: ``"seeds"`` writes ``obs["seeds_label"]`` and ``obsm["seeds_probability"]``.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``obs["concept_label"]``
        Categorical: the most probable concept, by its true name, in their order, or ``"none of these"`` for a spot that
        lies farther from every layer than 99% of the labelled spots do. Concepts that may overlap, such as masks: the
        most probable, or ``"none of these"`` where none is more likely than not. NaN for spots with almost no counts,
        and below the threshold.
    ``obsm["concept_probability"]``
        float32 DataFrame, spots x concepts (safe labels), NaN for spots with almost no counts. Where concepts are the
        layers of a column, rows sum to 1: the spot is taken to be of one of them. A labelled spot has helped to make
        the concepts; how likely its label is without that is 1 - ``obs["concept_disagreement"]``.

    Raises
    ------
    KeyError
        There are no concepts.
    ValueError
        The concepts were made with another model, or without labels (``genes``, ``vectors``), so that there is nothing
        to learn probabilities from; they see the surroundings, and there are no positions; ``threshold`` is not between
        0 and 1.

    References
    ----------
    Platt 1999; Guo et al. 2017, *On calibration of modern neural networks*, ICML.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, unlabelled=0.5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.predict_labels(adata, model)
    >>> adata.obs["concept_label"].cat.categories.tolist()
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL', 'none of these']
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} is a probability; give a number from 0 to 1.")
    made = read_concepts(adata, key_added) if concepts is None else read_concepts(concepts)
    calibration = _calibration(made)
    section = Section.open(adata, model, layer=layer)
    made.check_model(section.encoder.fingerprint)
    if concepts is None:
        section_key = section_key or str(made.params.get("section_key") or "") or None
        graph_key = graph_key or str(made.params.get("graph_key") or "") or None
    width = 0.0 if made.context is None else made.context.width
    place = place_of(section, "auto" if width else 0.0, section_key=section_key, graph_key=graph_key)
    if width and place.around is None:
        raise ValueError(
            "These concepts see the surroundings of a spot, and there are no positions here. Put coordinates into "
            "adata.obsm['spatial'], or make concepts of the spot alone: stc.tl.concepts(..., context=0)."
        )
    usable = section.embedding.usable
    scores = made.score(section.embedding.latent, place.around)[usable]
    found = calibration.probability(scores)
    probability = np.full((adata.n_obs, len(made.names)), np.nan, dtype=np.float32)
    probability[usable] = found
    codes = np.full(adata.n_obs, -1)
    beyond = calibration.beyond(scores, place.seen.embedding(width))
    codes[usable] = _picked(found, beyond, calibration.exclusive, threshold)
    index = adata.obs_names.rename(None)  # a label may be called like the index
    return Result(
        obs={concept_slot(KEYS.LABEL, key_added): pd.Categorical.from_codes(codes, [*made.names, _none(made.names)])},
        obsm={concept_slot(KEYS.PROBABILITY, key_added): pd.DataFrame(probability, index=index, columns=made.labels)},
    )


def _calibration(made: ConceptSet) -> Calibration:
    if made.calibration is not None:
        return made.calibration
    kind = str(made.params.get("kind", ""))
    if kind in ("genes", "vectors"):
        raise ValueError(
            f"These concepts were made of {kind}, not of labels, so nothing says how likely a spot of a given score is "
            "to be one. Label some spots: stc.tl.concepts(adata, model, groupby=...)."
        )
    raise ValueError(
        "These concepts hold no probabilities: an earlier version made them. Run stc.tl.concepts again, and then "
        "stc.tl.predict_labels."
    )


def _picked(found: np.ndarray, beyond: np.ndarray, exclusive: bool, threshold: float) -> np.ndarray:
    """Position of the label of each spot, that behind the last where it is none of them, -1 where it has none."""
    best = found.max(axis=1)
    none = beyond if exclusive else best <= _MORE_LIKELY
    out = np.where(best < threshold, -1, found.argmax(axis=1))
    return np.where(none, found.shape[1], out)


def _none(names: list[str]) -> str:
    """``"none of these"``, unless a layer is called so."""
    name = NONE
    while name in names:
        name = f"{name}, predicted"
    return name
