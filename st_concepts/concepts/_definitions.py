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
from st_concepts.concepts._calibrated import Labelling
from st_concepts.concepts._held_out import held_out, random_folds
from st_concepts.concepts._membership import Membership, asked_for, from_labels, from_masks
from st_concepts.concepts._seen import ContextOption, Problem, Seen
from st_concepts.concepts._soft_labels import Soft, soft_labels
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
        What was learned from other spots, or `None`.
    width, alone
        Width of the surroundings that the second half of ``vectors`` weighs (0 for none), and vectors that see the spot
        alone.
    auroc
        Of each concept out of fold, float64 ``(n_concepts,)``, NaN where it cannot be told; `None` without labels.
    labelling
        What they were made of, to find out what they say of labels that they did not see; `None` without labels.
    params
        What is kept of how they were defined.
    """

    names: list[str]
    vectors: np.ndarray
    membership: Membership | None = None
    soft: Soft | None = None
    width: float = 0.0
    alone: np.ndarray | None = None
    auroc: np.ndarray | None = None
    labelling: Labelling | None = None
    params: dict[str, Any] = field(default_factory=dict)


class Definition(Protocol):
    """A way to define concepts."""

    @property
    def kind(self) -> str:
        """Name under which it is kept with the concepts."""

    @property
    def looks_around(self) -> bool:
        """Whether its concepts may see the surroundings of a spot."""

    def define(self, section: Section, estimator: Estimator, seen: Seen, context: ContextOption) -> Defined:
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
    against_rest
        Whether each label is compared with all others.
    kind
        ``"groupby"``, or ``"mask"`` for a column that was given as a mask.
    params
        How the labels were read.
    """

    column: str
    labels: Labels
    membership: Membership
    learn: bool
    against_rest: bool
    kind: str
    params: dict[str, Any]
    looks_around: bool = True

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
            return Masks(from_masks({column: values}, adata.n_obs).check(), learn)
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
        rest = isinstance(reference, str) and reference == "rest"
        return cls(column, labels, found.check(), learn and rest, rest, kind, params)

    def define(self, section: Section, estimator: Estimator, seen: Seen, context: ContextOption) -> Defined:
        """A vector for each label."""
        if not self.against_rest:
            return _of_members(self.membership, estimator, seen, context, learn=False, params=self.params)
        picked = [self.labels.names.index(n) for n in self.membership.names]
        problem = Problem(self.labels.codes[seen.usable], len(self.labels.names), picked)
        return _solve(self.membership, [problem], estimator, seen, context, learn=self.learn, params=self.params)


@dataclass(frozen=True)
class Masks:
    """Boolean spots, for each concept."""

    membership: Membership
    learn: bool = False
    kind: str = "mask"
    looks_around: bool = True

    def define(self, section: Section, estimator: Estimator, seen: Seen, context: ContextOption) -> Defined:
        """A vector for each mask."""
        return _of_members(self.membership, estimator, seen, context, learn=self.learn, params={})


@dataclass(frozen=True)
class Seeds:
    """Sets of seed genes: latent directions that follow their mean standardised expression."""

    genes: Any
    kind: str = "genes"
    looks_around: bool = False

    def define(self, section: Section, estimator: Estimator, seen: Seen, context: ContextOption) -> Defined:
        """A vector for each set."""
        if estimator.follow is None:
            able = " or ".join(repr(e.name) for e in ESTIMATORS.values() if e.follow is not None)
            raise ValueError(f"Seed genes are a continuous target: use estimator={able}.")
        sets = _gene_sets(self.genes, section.encoder.var_names)
        targets = _seed_expression(section, list(sets.values()))[seen.usable]
        return Defined(list(sets), np.stack([estimator.follow(seen.latent, t) for t in targets.T]))


@dataclass(frozen=True)
class Vectors:
    """The user's own, by name or an array."""

    vectors: Any
    kind: str = "vectors"
    looks_around: bool = False

    def define(self, section: Section, estimator: Estimator, seen: Seen, context: ContextOption) -> Defined:
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
    return Masks(from_masks(masks, adata.n_obs).check(), learn)


def _of_members(
    named: Membership,
    estimator: Estimator,
    seen: Seen,
    context: ContextOption,
    *,
    learn: bool,
    params: dict[str, Any],
) -> Defined:
    """Each concept by itself: its inside against its outside."""
    problems = [Problem(_sided(m), 2, [0]) for m in _columns(named, seen)]
    return _solve(named, problems, estimator, seen, context, learn=learn, params=params)


def _columns(named: Membership, seen: Seen) -> list[np.ndarray]:
    return [column.astype(np.intp) for column in named.members[seen.usable].T]


def _sided(member: np.ndarray) -> np.ndarray:
    """Class 0 inside, 1 outside, -1 neither."""
    return np.where(member < 0, -1, 1 - member)


def _solve(
    named: Membership,
    problems: list[Problem],
    estimator: Estimator,
    seen: Seen,
    context: ContextOption,
    *,
    learn: bool,
    params: dict[str, Any],
) -> Defined:
    """Width, class weights and vectors of labellings; the concepts are those picked, in their order."""
    sides = [_sides(named, j, seen.usable) for j in range(len(named.names))]
    width, compared = seen.choose_width(context, problems)
    embedding = seen.embedding(width)
    soft = None
    if learn:
        soft = Soft.of(
            [soft_labels(seen.latent, embedding, p.codes, p.n_classes, around=seen.around) for p in problems],
            [p.picked for p in problems],
        )
        if estimator.takes_weights:
            sides = soft.sides
    vectors = _vectors(estimator, embedding, sides)
    # what was learned from other spots has held the labels out already
    auroc = np.concatenate(
        [one.held_out.auroc[p.picked] for one, p in zip(soft.found, problems, strict=True)]
        if soft is not None
        else [_auroc(embedding, p) for p in problems]
    )
    kept: dict[str, Any] = {"context": width}
    if compared:
        kept["context_widths"] = np.array(list(compared), dtype=np.float64)
        kept["context_auroc"] = np.array(list(compared.values()), dtype=np.float64)
    if soft is not None:
        kept["label_trust"] = soft.trust
    made_of = Labelling(problems, estimator, learn, width)
    if width == 0:
        return Defined(named.names, vectors, named, soft, auroc=auroc, labelling=made_of, params=params | kept)
    alone, vectors = _vectors(estimator, seen.latent, sides), seen.in_latent_units(vectors)
    return Defined(named.names, vectors, named, soft, width, alone, auroc, made_of, params | kept)


def _auroc(embedding: np.ndarray, problem: Problem) -> np.ndarray:
    return held_out(embedding, problem.codes, problem.n_classes, random_folds(problem.codes, 0)).auroc[problem.picked]


def _vectors(estimator: Estimator, z: np.ndarray, sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
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
