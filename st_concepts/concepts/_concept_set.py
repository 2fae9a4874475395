"""`ConceptSet`: named concept vectors of one model, and their form in ``uns``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import plain
from st_concepts._names import as_name, unknown_name
from st_concepts._slots import KEYS, concept_slot, safe_labels


@dataclass(frozen=True)
class ConceptSet:
    """Concept vectors with what is needed to score other spots.

    Attributes
    ----------
    names
        True names, as in the annotation.
    vectors
        float32 ``(n_concepts, n_latent)``.
    center, scale
        float64 ``(n_concepts,)``: mean and standard deviation of ``latent @ vector`` over the spots of definition.
    model
        Fingerprint of the model whose latent space the vectors live in.
    params
        How they were made: ``kind``, ``groupby``, ``reference``, ``estimator``, ``layer``, ``target_sum``.
    n_labelled
        int64 ``(n_concepts,)``: labelled spots inside each concept.
    model_info
        What the model is, as text and numbers: ``kind``, ``n_latent``, ``epochs``, ``held_out_nll``, ``layer``,
        ``section_key``, ``seed``, ``version``, ...; empty where that was not kept.
    """

    names: list[str]
    vectors: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    model: str
    params: dict[str, Any] = field(default_factory=dict)
    n_labelled: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    model_info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, names: list[str], vectors: np.ndarray, latent: np.ndarray, **kept: Any) -> ConceptSet:
        """Concepts whose scores are centred and scaled over spots at ``latent`` ``(n, n_latent)``.

        Raises
        ------
        ValueError
            The score of a concept is the same at every spot.
        """
        projected = latent.astype(np.float64) @ vectors.T
        scale = projected.std(0)
        flat = np.flatnonzero((scale <= 0) | ~np.isfinite(scale))
        if flat.size:
            raise ValueError(
                f"The score of concept {names[int(flat[0])]!r} is the same at every spot; its vector carries no "
                "information."
            )
        return cls(names, vectors.astype(np.float32), projected.mean(0), scale, **kept)

    @property
    def labels(self) -> list[str]:
        """Names that anndata accepts as columns."""
        return safe_labels(self.names)

    @property
    def directions(self) -> np.ndarray:
        """float64 ``(n_concepts, n_latent)``: vectors over scale, so that gradients are in units of the score."""
        return self.vectors.astype(np.float64) / self.scale[:, None]

    @property
    def groupby(self) -> str:
        """Column of ``obs`` that the concepts were made of; empty where there was none."""
        return str(self.params.get("groupby") or "")

    @property
    def layer(self) -> str | None:
        """Layer with the counts that they were made from; `None` for X."""
        return str(self.params.get("layer") or "") or None

    def slot(self, base: str) -> str:
        """Slot of this set: ``base`` itself for the set kept under ``"concepts"``, else named after its key."""
        return concept_slot(base, str(self.params.get("key", KEYS.CONCEPTS)))

    def score(self, latent: np.ndarray) -> np.ndarray:
        """Concept scores ``(vector . mu - center) / scale``, float64 ``(n_obs, n_concepts)``."""
        return (latent.astype(np.float64) @ self.vectors.T.astype(np.float64) - self.center) / self.scale

    def index(self, concept: str) -> int:
        """Position of a concept given its true name or its safe label; a number is read as its name.

        Raises
        ------
        KeyError
            There is none; those that there are are listed.
        """
        concept = as_name(concept)
        for known in (self.names, self.labels):
            if concept in known:
                return known.index(concept)
        raise KeyError(f"Concept {concept!r} is unknown; {unknown_name(concept, self.names)}")

    def check_model(self, fingerprint: str) -> None:
        """Raise `ValueError` naming both fingerprints where the vectors are of another model."""
        if fingerprint != self.model:
            raise ValueError(
                f"The concepts were made with model {self.model}, but model {fingerprint} was given. Vectors of one "
                "model mean nothing to another: run stc.tl.concepts with this model, or load the other one."
            )

    def to_uns(self) -> dict[str, Any]:
        """A dictionary that h5ad and zarr keep unchanged."""
        return {
            "names": np.array(self.names, dtype=object),
            "labels": np.array(self.labels, dtype=object),
            "vectors": self.vectors.astype(np.float32),
            "center": np.asarray(self.center, dtype=np.float64),
            "scale": np.asarray(self.scale, dtype=np.float64),
            "n_labelled": np.asarray(self.n_labelled, dtype=np.int64),
            "model": self.model,
            "params": dict(self.params),
            "model_info": dict(self.model_info),
        }

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> ConceptSet:
        """Read back what `to_uns` made."""
        missing = {"names", "vectors", "center", "scale", "model"} - set(stored)
        if missing:
            raise ValueError(f"This is not a set of concepts: it lacks {', '.join(sorted(missing))}.")
        return cls(
            names=[str(n) for n in stored["names"]],
            vectors=np.asarray(stored["vectors"], dtype=np.float32),
            center=np.asarray(stored["center"], dtype=np.float64),
            scale=np.asarray(stored["scale"], dtype=np.float64),
            model=str(stored["model"]),
            params=_values(stored.get("params", {})),
            n_labelled=np.asarray(stored.get("n_labelled", []), dtype=np.int64),
            model_info=_values(stored.get("model_info", {})),
        )


def _values(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as Python has them, however the file gave them back."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in stored.items()}


def read_concepts(source: AnnData | Mapping[str, Any] | ConceptSet, key: str = KEYS.CONCEPTS) -> ConceptSet:
    """Concepts from an AnnData, from its ``uns`` entry, or as they are.

    Raises
    ------
    KeyError
        ``adata.uns[key]`` is not there.
    """
    if isinstance(source, ConceptSet):
        return source
    if isinstance(source, AnnData):
        if key not in source.uns:
            raise KeyError(f"adata.uns[{key!r}] is missing: run stc.tl.concepts(adata, model, groupby=...) first.")
        source = source.uns[key]
    return ConceptSet.from_uns(plain(source))


def score_frame(concepts: ConceptSet, latent: np.ndarray, index: pd.Index) -> pd.DataFrame:
    """Scores as a float32 DataFrame, spots x safe labels."""
    # without the name of the index, which a concept may have too
    return pd.DataFrame(concepts.score(latent).astype(np.float32), index=index.rename(None), columns=concepts.labels)
