"""`ConceptSet`: named concept vectors of one model, and their form in ``uns``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import plain
from st_concepts._names import as_name, unknown_name
from st_concepts._slots import KEYS, concept_slot, safe_labels
from st_concepts.concepts._calibration import Calibration


class Averages(Protocol):
    """What can average values over the surroundings of each spot."""

    def average(self, values: np.ndarray, width: float) -> np.ndarray:
        """``(n_obs, m)`` to ``(n_obs, m)``."""


@dataclass(frozen=True)
class Context:
    """What concepts see of the surroundings of a spot.

    Attributes
    ----------
    vectors
        float32 ``(n_concepts, n_latent)``: weights of the latent positions around the spot.
    width
        How far the surroundings reach, see `st_concepts.models.Surroundings`.
    alone
        Vectors, float32 ``(n_concepts, n_latent)``, that see the spot alone, for sections without positions and for
        tests of genes.
    alone_center, alone_scale
        float64 ``(n_concepts,)``: mean and standard deviation of ``latent @ alone`` over the spots of definition.
    """

    vectors: np.ndarray
    width: float
    alone: np.ndarray
    alone_center: np.ndarray
    alone_scale: np.ndarray

    def to_uns(self) -> dict[str, Any]:
        """A dictionary that h5ad and zarr keep."""
        return {name: np.asarray(value) for name, value in vars(self).items()} | {"width": float(self.width)}

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> Context:
        """Read back what `to_uns` made."""
        return cls(
            np.asarray(stored["vectors"], dtype=np.float32),
            float(stored["width"]),
            np.asarray(stored["alone"], dtype=np.float32),
            np.asarray(stored["alone_center"], dtype=np.float64),
            np.asarray(stored["alone_scale"], dtype=np.float64),
        )


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
    context
        What they see of the surroundings; `None` where they see the spot alone.
    test
        Whether the latent space holds these layers, see `st_concepts.tl.concepts`.
    calibration
        How scores become probabilities; `None` where there were no labels to learn that from.
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
    context: Context | None = None
    test: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        names: list[str],
        vectors: np.ndarray,
        latent: np.ndarray,
        *,
        around: np.ndarray | None = None,
        alone: np.ndarray | None = None,
        width: float = 0.0,
        **kept: Any,
    ) -> ConceptSet:
        """Concepts whose scores are centred and scaled over spots at ``latent`` ``(n, n_latent)``.

        Where concepts see the surroundings too, ``around`` ``(n, n_latent)`` are their latent positions (averages of
        this ``width``), ``vectors`` ``(n_concepts, 2 n_latent)`` weigh both, and ``alone`` ``(n_concepts, n_latent)``
        the spot by itself.

        Raises
        ------
        ValueError
            The score of a concept is the same at every spot.
        """
        context = None
        if around is None or alone is None:
            center, scale = _units(names, latent, vectors)
        else:
            n_latent = latent.shape[1]
            own, further = vectors[:, :n_latent], vectors[:, n_latent:]
            context = Context(
                further.astype(np.float32), width, alone.astype(np.float32), *_units(names, latent, alone)
            )
            center, scale = _units(names, np.concatenate([latent, around], axis=1), vectors)
            vectors = own
        return cls(names, vectors.astype(np.float32), center, scale, context=context, **kept)

    @property
    def labels(self) -> list[str]:
        """Names that anndata accepts as columns."""
        return safe_labels(self.names)

    @property
    def alone(self) -> ConceptSet:
        """The concepts by what they see in the spot itself."""
        c = self.context
        if c is None:
            return self
        return replace(
            self, vectors=c.alone, center=c.alone_center, scale=c.alone_scale, context=None, calibration=None
        )

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

    @property
    def directions_around(self) -> np.ndarray | None:
        """The same for the latent positions around the spot; `None` where concepts see the spot alone."""
        return None if self.context is None else self.context.vectors.astype(np.float64) / self.scale[:, None]

    def slot(self, base: str) -> str:
        """Slot of this set: ``base`` itself for the set kept under ``"concepts"``, else named after its key."""
        return concept_slot(base, str(self.params.get("key", KEYS.CONCEPTS)))

    @property
    def alone_slots(self) -> list[tuple[str, str]]:
        """What is written of concepts with a context only, which a set without leaves behind."""
        return [("varm", self.slot(KEYS.GRADIENT_ALONE)), ("obsm", self.slot(KEYS.SCORE_ALONE))]

    def score(self, latent: np.ndarray, around: Averages | None = None) -> np.ndarray:
        """Concept scores ``(vector . mu - center) / scale``, float64 ``(n_obs, n_concepts)``.

        Concepts with a context also add up what they see around the spot; without ``around`` they score the spot alone.
        """
        if self.context is not None and around is None:
            return self.alone.score(latent)
        z = latent.astype(np.float64)
        projected = z @ self.vectors.T.astype(np.float64)
        if self.context is not None and around is not None:
            projected += around.average(z @ self.context.vectors.T.astype(np.float64), self.context.width)
        return (projected - self.center) / self.scale

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
        more = {name: None if one is None else one.to_uns() for name, one in self._parts}
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
        } | {name: value for name, value in (more | {"test": dict(self.test)}).items() if value}

    @property
    def _parts(self) -> tuple[tuple[str, Context | Calibration | None], ...]:
        return ("context", self.context), ("calibration", self.calibration)

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
            context=Context.from_uns(stored["context"]) if "context" in stored else None,
            test=_values(stored.get("test", {})),
            calibration=Calibration.from_uns(stored["calibration"]) if "calibration" in stored else None,
        )


def _units(names: list[str], latent: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the scores of each concept."""
    projected = latent.astype(np.float64) @ vectors.T
    scale = projected.std(0)
    flat = np.flatnonzero((scale <= 0) | ~np.isfinite(scale))
    if flat.size:
        raise ValueError(
            f"The score of concept {names[int(flat[0])]!r} is the same at every spot; its vector says nothing."
        )
    return projected.mean(0), scale


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


def score_frame(
    concepts: ConceptSet, latent: np.ndarray, index: pd.Index, around: Averages | None = None
) -> pd.DataFrame:
    """Scores as a float32 DataFrame, spots x safe labels."""
    # without the name of the index, which a concept may have too
    return pd.DataFrame(
        concepts.score(latent, around).astype(np.float32), index=index.rename(None), columns=concepts.labels
    )
