"""A section with its model and concepts: what the engine needs from an AnnData."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._distributed import all_reduce, size
from st_concepts._names import as_name, as_names
from st_concepts._slots import KEYS
from st_concepts.attribution._group import group_attributions
from st_concepts.attribution._inputs import profile_baseline
from st_concepts.attribution._methods.base import Method, Options
from st_concepts.attribution._result import Batch, GroupAttribution
from st_concepts.concepts import ConceptSet, Membership, kept_neighbours, membership, read_concepts
from st_concepts.models import Encoder, FeatureMatrix, Section, Surroundings, as_encoder

Baseline: TypeAlias = str | np.ndarray | pd.Series
BASELINES = ("others", "mean", "zero")
# reference spots of expected gradients where a group offers more
N_REFERENCES = 200


@dataclass(frozen=True)
class Attributions:
    """Mean attributions of concept scores over the spots of each, in two parts.

    Attributes
    ----------
    own
        float64 ``(n_concepts, n_vars)``: of what concepts see in the spots themselves.
    surroundings
        The same of what they see around them; `None` where they see the spot alone.
    differences
        float64 ``(n_parts, n_concepts)``: what the parts sum to, mean score of the spots less that of the baseline;
        `None` for methods without one.
    path
        As in `GroupAttribution`.
    """

    own: np.ndarray
    surroundings: np.ndarray | None
    differences: np.ndarray | None
    path: str

    @classmethod
    def of(cls, found: GroupAttribution, n_parts: int) -> Self:
        """From groups that are the concepts, once for each part."""
        parts = np.split(found.values[:, 0], n_parts)
        difference = found.score_difference
        differences = None if difference is None else difference[:, 0].reshape(n_parts, -1)
        return cls(parts[0], parts[1] if n_parts > 1 else None, differences, found.path)

    @property
    def values(self) -> np.ndarray:
        """Both parts together."""
        return self.own if self.surroundings is None else self.own + self.surroundings

    @property
    def score_difference(self) -> np.ndarray | None:
        """float64 ``(n_concepts,)``, of both parts together."""
        return None if self.differences is None else self.differences.sum(0)


@dataclass(frozen=True)
class Explained(Section):
    """A section with the concepts that are explained on it, and the spots of each.

    Attributes
    ----------
    concepts
        Vectors, scale and names.
    members
        Spots inside and outside each concept.
    around
        Surroundings that the concepts look at; `None` where they see the spot alone.
    """

    concepts: ConceptSet
    members: Membership
    around: Surroundings | None = None

    @classmethod
    def read(cls, adata: AnnData, model: Any, *, layer: str | None = None, key: str = KEYS.CONCEPTS) -> Self:
        """Read the concepts of ``adata`` and check that they are the model's.

        Of concepts with a context, where the surroundings are not known here, what they see in the spot alone.

        Warns
        -----
        UserWarning
            That.
        """
        made = read_concepts(adata, key)
        made.check_model(as_encoder(model).fingerprint)
        seen = Section.open(adata, model, layer=layer or made.layer)
        return cls.of(seen, made, membership(adata, made), kept_neighbours(seen, made))

    @classmethod
    def of(cls, section: Section, made: ConceptSet, members: Membership, around: Surroundings | None) -> Self:
        """Concepts on a section, by what they see in the spot alone where there are no surroundings."""
        made = made if around is not None else made.alone
        return cls(section.adata, section.encoder, section.layer, made, members, around)

    def chosen(self, concepts: str | Sequence[str] | None) -> list[int]:
        """Positions of the concepts asked for; `None` is all."""
        if concepts is None:
            return list(range(len(self.concepts.names)))
        names = as_names(concepts)
        if not names:
            raise ValueError("concepts is empty; name at least one, or pass None for all.")
        return [self.concepts.index(c) for c in names]

    def reference_spots(self, j: int, baseline: str) -> np.ndarray | None:
        """Boolean ``(n_obs,)``: spots that concept ``j`` is compared with; `None` for ``"zero"``."""
        name = as_name(baseline)
        return None if name == "zero" else self._compared(j, name)

    def _compared(self, j: int, baseline: str) -> np.ndarray:
        made = self.concepts
        if baseline == "mean":
            spots = np.ones(self.adata.n_obs, dtype=bool)
        elif baseline == "others":
            spots = self.members.outside[:, j]
        elif baseline in made.names or baseline in made.labels:
            spots = self.members.inside[:, made.index(baseline)]
        else:
            raise ValueError(
                f"baseline={baseline!r} is unknown; use {', '.join(map(repr, BASELINES))}, the name of a concept "
                f"({', '.join(made.names)}), or a profile."
            )
        if not spots.any():
            raise ValueError(
                f"baseline={baseline!r} of concept {made.names[j]!r} has no spot to average; use 'mean' or 'zero'."
            )
        return spots

    def baselines(self, chosen: Sequence[int], baseline: Baseline) -> np.ndarray:
        """Baseline features of each chosen concept, float64 ``(len(chosen), n_vars)``, in one pass over the spots."""
        n_vars = len(self.encoder.var_names)
        if not isinstance(baseline, str):
            return np.tile(profile_baseline(baseline, self.encoder.var_names), (len(chosen), 1))
        found = [self.reference_spots(j, baseline) for j in chosen]
        spots = [s for s in found if s is not None]
        if not spots:
            return np.zeros((len(chosen), n_vars))
        shared = baseline != "others"
        weights = np.stack(spots[:1] if shared else spots).astype(np.float64)
        total = np.zeros((len(weights), n_vars))
        for rows, features, _, _ in self.batches(share=True):
            part = weights[:, rows]
            total += (features.T @ part.T).T if sp.issparse(features) else part @ features
        (total,) = all_reduce(total)
        mean = total / weights.sum(1, keepdims=True)
        return np.tile(mean, (len(chosen), 1)) if shared else mean

    def references(self, chosen: Sequence[int], baseline: Baseline, seed: Any) -> list[FeatureMatrix]:
        """Features of at most `N_REFERENCES` reference spots of each chosen concept, drawn without replacement.

        With a profile or ``"zero"`` the only reference is that. The draw depends on the spots and ``seed`` alone.
        """
        if not isinstance(baseline, str) or baseline == "zero":
            return [sp.csr_matrix(b[None].astype(np.float32)) for b in self.baselines(chosen, baseline)]
        drawn = []
        for j in chosen:
            pool = np.flatnonzero(self._compared(j, as_name(baseline)))
            rng = np.random.default_rng(seed)
            drawn.append(np.sort(rng.choice(pool, min(N_REFERENCES, len(pool)), replace=False)))
        every = np.unique(np.concatenate(drawn))
        parts = []
        for rows, features, _, _ in self.batches():
            here = every[(every >= rows.start) & (every < rows.stop)] - rows.start
            if here.size:
                parts.append(sp.csr_matrix(features[here]))
        found = sp.vstack(parts, format="csr")
        return [found[np.searchsorted(every, rows)] for rows in drawn]

    def weights(self, chosen: Sequence[int]) -> np.ndarray:
        """How much each spot counts for each chosen concept, float64 ``(n_obs, n)``.

        First for what concepts see in the spot, then, where they see the surroundings, for that: a spot counts as much
        as the spots of the concept look at it, so that columns have the same sums.
        """
        inside = self.members.inside[:, list(chosen)].astype(np.float64)
        if self.around is None or self.concepts.context is None:
            return inside
        moved = self.around.spread(inside, self.concepts.context.width)
        return np.concatenate([inside, np.maximum(moved, 0.0)], axis=1)

    def directions(self, chosen: Sequence[int]) -> np.ndarray:
        """What each column of `weights` is attributed to, ``(n_columns, n_latent)``, in units of the scores."""
        own, further = self.concepts.directions, self.concepts.directions_around
        parts = [own] if further is None else [own, further]
        return np.concatenate([part[list(chosen)] for part in parts])

    def attributions(
        self,
        chosen: Sequence[int],
        *,
        method: Method,
        baseline: Baseline = "others",
        options: Options | None = None,
        encoder: Encoder | None = None,
    ) -> Attributions:
        """Mean attribution of the score of each chosen concept (positions) over its spots.

        ``encoder`` is another encoder of the same features.
        """
        options = options or Options()
        weights, directions = self.weights(chosen), self.directions(chosen)
        n_parts = len(directions) // len(chosen)
        base, references = None, None
        if method.form.needs_references:
            references = self.references(chosen, baseline, options.seed) * n_parts
        elif method.needs_baseline:
            base = np.tile(self.baselines(chosen, baseline), (n_parts, 1))
        # random numbers are dealt spot by spot, so leaving spots out would change those of the others
        every = method.is_random
        found = group_attributions(
            encoder or self.encoder,
            self._batches(weights, every=every),
            method=method,
            concepts=directions,
            paired=True,
            baselines=base,
            references=references,
            options=options,
            shared=not every,
        )
        return Attributions.of(found, n_parts)

    def _batches(self, weights: np.ndarray, *, every: bool) -> Iterator[Batch]:
        """Spots that have weight, or every spot, which all processes then go through."""
        first = True
        for rows, features, _, codes in self.batches(share=not every):
            used = np.arange(features.shape[0]) if every else np.flatnonzero(weights[rows].any(1))
            if used.size or (first and size() > 1):  # a process without spots has sums, too
                first = False
                whole = used.size == features.shape[0]
                yield Batch(
                    features if whole else features[used],
                    weights[rows][used],
                    codes if codes is None else codes[used],
                )


def concept_gradients(section: Section, made: ConceptSet, around: Surroundings | None = None) -> dict[str, np.ndarray]:
    """Mean gradient of each score over all spots, by the slot it is kept in, float64 ``(n_concepts, genes of model)``.

    Of the score as it is, where an average of the surroundings hands each spot's gradient to its neighbours; and, for
    concepts with a context, of the score of the spot alone.
    """
    further = made.directions_around
    parts, weights = [made.directions], [np.ones((section.adata.n_obs, 1))]
    if further is not None and around is not None and made.context is not None:
        parts += [further, made.alone.directions]
        weights.append(around.spread(weights[0], made.context.width))
    elif made.context is not None:
        parts = [made.alone.directions]
    moved = np.concatenate(weights, axis=1)
    batches = (Batch(spots.features, moved[spots.rows], spots.codes) for spots in section.batches(share=True))
    directions = np.concatenate(parts)
    found = group_attributions(section.encoder, batches, method="gradient", concepts=directions, shared=True).values
    n = len(made.names)
    if len(parts) == 1:
        return {KEYS.GRADIENT: found[0]}
    return {KEYS.GRADIENT: found[0, :n] + found[1, n : 2 * n], KEYS.GRADIENT_ALONE: found[0, 2 * n :]}
