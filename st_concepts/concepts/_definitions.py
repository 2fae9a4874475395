"""Ways to define concepts: layers of an annotation, masks, seed genes, vectors of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.frames import obs_column
from st_concepts._counts.kind import is_sparse
from st_concepts._counts.labels import Labels, clean_labels, is_boolean, missing_words
from st_concepts._distributed import all_reduce
from st_concepts._names import as_names, check_filled, unknown_name
from st_concepts._slots import KEYS
from st_concepts.concepts._membership import Membership, asked_for, from_labels, from_masks
from st_concepts.concepts._soft_labels import SoftLabels, soft_labels
from st_concepts.concepts._vectors import ESTIMATORS, Estimator
from st_concepts.models import Section


@dataclass(frozen=True)
class Defined:
    """What a definition found.

    Attributes
    ----------
    names
        Of the concepts.
    vectors
        float64 ``(n_concepts, n_latent)``.
    membership
        Spots inside and outside; `None` where only the scores can tell.
    soft
        What was learned from unlabelled spots, or `None`.
    params
        What is kept of how they were defined.
    """

    names: list[str]
    vectors: np.ndarray
    membership: Membership | None = None
    soft: SoftLabels | None = None
    params: dict[str, Any] = field(default_factory=dict)


class Definition(Protocol):
    """A way to define concepts."""

    @property
    def kind(self) -> str:
        """Name under which it is kept with the concepts."""

    def define(self, section: Section, estimator: Estimator) -> Defined:
        """Names, vectors and members."""


@dataclass(frozen=True)
class Layers:
    """The labels of a column.

    Attributes
    ----------
    column
        Name of the column.
    labels
        Its labels, cleaned.
    membership
        Spots inside and outside each.
    learn
        Whether unlabelled spots are assigned softly and help, where the estimator takes weights.
    kind
        ``"groupby"``, or ``"mask"`` for a column that was given as a mask.
    params
        How the labels were read.
    """

    column: str
    labels: Labels
    membership: Membership
    learn: bool
    kind: str
    params: dict[str, Any]

    @classmethod
    def of(
        cls,
        adata: AnnData,
        column: str,
        *,
        groups: Sequence[str] | str | None,
        reference: str | Sequence[str],
        missing: Sequence[str] | str | None,
        learn: bool,
        kind: str,
    ) -> Layers | Masks:
        """The labels of ``adata.obs[column]``; a boolean column is a mask."""
        values = obs_column(adata, column)
        if is_boolean(values):
            return Masks(from_masks({column: values}, adata.n_obs).check())
        where = f"adata.obs[{column!r}]"
        keep = asked_for(groups, reference)
        labels = clean_labels(values, missing=missing, keep=keep, where=where, names_allowed=groups is not None)
        found = from_labels(labels, groups=groups, reference=reference)
        # words that were named here need no remark
        for remark in labels.said() if missing is None else labels.remarks:
            warnings.warn(f"{where}: {remark}.", UserWarning, stacklevel=callers_level())
        params: dict[str, Any] = {"groupby": column if kind == "groupby" else ""}
        params["reference"] = ", ".join(as_names(reference))
        params |= _asked(reference, missing)
        learn = learn and kind == "groupby" and isinstance(reference, str) and reference == "rest"
        return cls(column, labels, found.check(), learn, kind, params)

    def define(self, section: Section, estimator: Estimator) -> Defined:
        """A vector for each label."""
        z, usable = _positions(section)
        named, soft = self.membership, None
        sides = [_sides(named, j, usable) for j in range(len(named.names))]
        if self.learn and estimator.takes_weights:
            soft, sides = self._learn(z, usable)
        return Defined(named.names, _vectors(estimator, z, sides), named, soft, self.params)

    def _learn(self, z: np.ndarray, usable: np.ndarray) -> tuple[SoftLabels, list[tuple[np.ndarray, np.ndarray]]]:
        """Soft class weights of the usable spots, and the sides of each concept that follow from them."""
        soft = soft_labels(z, self.labels.codes[usable], len(self.labels.names))
        if soft.doubted:
            warnings.warn(
                f"Expression contradicts about {soft.label_error:.0%} of the labels in {self.column!r}; the concepts "
                f"rest on what it says instead. obs[{KEYS.DISAGREEMENT!r}] marks the spots; unlabelled='ignore' takes "
                "labels as given.",
                UserWarning,
                stacklevel=callers_level(),
            )
        total = soft.weights.sum(1)
        picked = [self.labels.names.index(n) for n in self.membership.names]
        return soft, [(soft.weights[:, c], total - soft.weights[:, c]) for c in picked]


@dataclass(frozen=True)
class Masks:
    """Boolean spots, for each concept."""

    membership: Membership
    kind: str = "mask"

    def define(self, section: Section, estimator: Estimator) -> Defined:
        """A vector for each mask."""
        z, usable = _positions(section)
        named = self.membership
        sides = [_sides(named, j, usable) for j in range(len(named.names))]
        return Defined(named.names, _vectors(estimator, z, sides), named)


@dataclass(frozen=True)
class Seeds:
    """Sets of seed genes: latent directions that follow their mean standardised expression."""

    genes: Any
    kind: str = "genes"

    def define(self, section: Section, estimator: Estimator) -> Defined:
        """A vector for each set."""
        if estimator.follow is None:
            able = " or ".join(repr(e.name) for e in ESTIMATORS.values() if e.follow is not None)
            raise ValueError(f"Seed genes are a continuous target: use estimator={able}.")
        sets = _gene_sets(self.genes, section.encoder.var_names)
        z, usable = _positions(section)
        targets = _seed_expression(section, list(sets.values()))[usable]
        return Defined(list(sets), np.stack([estimator.follow(z, t) for t in targets.T]))


@dataclass(frozen=True)
class Vectors:
    """The user's own, by name or an array."""

    vectors: Any
    kind: str = "vectors"

    def define(self, section: Section, estimator: Estimator) -> Defined:
        """As they are."""
        return Defined(*_given_vectors(self.vectors, section.encoder.n_latent))


def definition_of(
    adata: AnnData,
    *,
    groupby: str | None,
    groups: Sequence[str] | str | None,
    reference: str | Sequence[str],
    missing: Sequence[str] | str | None,
    mask: Any,
    genes: Any,
    vectors: Any,
    learn: bool,
) -> Definition:
    """The one way that was asked for, its labels read and checked."""
    ways = {"groupby": groupby, "mask": mask, "genes": genes, "vectors": vectors}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of groupby, mask, genes and vectors to define concepts; got "
            f"{' and '.join(given) or 'none'}."
        )
    check_filled(groups=groups, mask=mask, genes=genes, vectors=vectors)
    if genes is not None:
        return Seeds(genes)
    if vectors is not None:
        return Vectors(vectors)
    column = groupby if groupby is not None else mask if isinstance(mask, str) else None
    if column is not None:
        kind = given[0]
        return Layers.of(adata, column, groups=groups, reference=reference, missing=missing, learn=learn, kind=kind)
    masks = mask if isinstance(mask, Mapping) else {"concept": mask}
    return Masks(from_masks(masks, adata.n_obs).check())


def _positions(section: Section) -> tuple[np.ndarray, np.ndarray]:
    """Latent positions of the usable spots in float64, and which those are."""
    found = section.embedding
    return found.latent[found.usable].astype(np.float64), found.usable


def _vectors(estimator: Estimator, z: np.ndarray, sides: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([estimator.function(z, inside, outside) for inside, outside in sides])


def _asked(reference: str | Sequence[str], missing: Sequence[str] | str | None) -> dict[str, np.ndarray]:
    """What is kept with concepts of how labels were read, where that is not the default."""
    out = {}
    if labels := asked_for(None, reference):
        out["reference_labels"] = np.array(labels, dtype=object)
    if missing is not None:
        out["missing"] = np.array(sorted(missing_words(missing)), dtype=object)
    return out


def _sides(named: Membership, j: int, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside, outside = named.inside[usable, j], named.outside[usable, j]
    if not inside.any() or not outside.any():
        raise ValueError(f"The labelled spots of concept {named.names[j]!r} have almost no counts; label others.")
    return inside, outside


def _gene_sets(genes: Any, var_names: pd.Index) -> dict[str, list[str]]:
    if isinstance(genes, Mapping):
        sets = {str(k): as_names(v) for k, v in genes.items()}
    else:
        sets = {f"{g}-like": [g] for g in as_names(genes)}
    for name, members in sets.items():
        unknown = [g for g in members if g not in var_names]
        if unknown or not members:
            hint = f" The model's genes are called like {str(var_names[0])!r}." if unknown else ""
            if unknown and (meant := unknown_name(unknown[0], var_names)).endswith("?"):
                hint += meant[meant.rindex(" Did you mean") :]
            raise KeyError(
                f"Seed genes of {name!r} that the model does not have: {', '.join(unknown) or 'no gene'}.{hint}"
            )
    return sets


def _seed_expression(section: Section, sets: list[list[str]]) -> np.ndarray:
    """Mean standardised features of each set, float64 ``(n_obs, n_sets)``."""
    every = sorted({g for s in sets for g in s})
    columns = section.encoder.var_names.get_indexer(every)
    values = np.zeros((section.adata.n_obs, len(every)))
    for rows, features, _, _ in section.batches(share=True):
        values[rows] = features[:, columns].toarray() if is_sparse(features) else features[:, columns]
    (values,) = all_reduce(values)
    sd = values.std(0)
    flat = [g for g, s in zip(every, sd, strict=True) if s == 0]
    if flat:
        raise ValueError(f"Seed gene {flat[0]!r} has the same expression at every spot; choose another.")
    values = (values - values.mean(0)) / sd
    return np.stack([values[:, [every.index(g) for g in s]].mean(1) for s in sets], axis=1)


def _given_vectors(vectors: Any, n_latent: int) -> tuple[list[str], np.ndarray]:
    if isinstance(vectors, Mapping):
        names, rows = [str(k) for k in vectors], [np.asarray(v, dtype=np.float64).ravel() for v in vectors.values()]
    else:
        rows = list(np.atleast_2d(np.asarray(vectors, dtype=np.float64)))
        names = [f"concept_{i}" for i in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        if row.shape != (n_latent,) or not np.isfinite(row).all():
            raise ValueError(
                f"Vector {name!r} must hold {n_latent} finite numbers, one per latent dimension; got shape {row.shape}."
            )
    return names, np.stack(rows)
