"""Copies of a labelling under a null model, as far as a test of it against an embedding has to know them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from st_concepts.stats._joint_draw import JointRotation
from st_concepts.stats._moran import MoranNull
from st_concepts.stats._nearest import nearest_map
from st_concepts.stats._null import NullModel
from st_concepts.stats._permutation import PermutationNull

# entries of copies that are held at a time, 32 MiB in float64; as much again is needed on the way
_HELD = 2**22

# of labels: products with the embedding (..., k, d), and sums of squares (..., k)
Moments = tuple[NDArray[np.float64], NDArray[np.float64]]


class Copies(ABC):
    """Labels of a group of concepts with the same labelled spots, and their null copies.

    Parameters
    ----------
    null
        Null model of all spots.
    labels
        ``(n_obs, k)``.
    known
        Labelled spots.
    latent
        Embedding, ``(n_obs, d)``, centred over the labelled spots of each section.
    """

    # whether one copy holds all concepts at once
    together = True

    @abstractmethod
    def __init__(
        self, null: NullModel, labels: NDArray[np.float64], known: NDArray[np.bool_], latent: NDArray[np.float64]
    ) -> None: ...

    @abstractmethod
    def observed(self) -> Moments:
        """Of the labels themselves."""

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> Iterator[Moments]:
        """Of ``n`` copies, several at a time."""


class MoranCopies(Copies):
    """Moran surrogates of the nearest-label map, read at the labelled spots (or in their tiles)."""

    def __init__(
        self, null: MoranNull, labels: NDArray[np.float64], known: NDArray[np.bool_], latent: NDArray[np.float64]
    ) -> None:
        filled = nearest_map(labels, known, null.sections, null.recipe.coords, null.recipe.graph)
        unit, _ = null.unit_of_spots()
        self._values = null.units(filled)
        spots = np.flatnonzero(known)
        weight = np.bincount(unit[spots], minlength=null.n_units).astype(np.float64)
        target = np.zeros((null.n_units, latent.shape[1]))
        np.add.at(target, unit[spots], latent[spots])
        self._rotation = JointRotation(null.project_units(self._values), null.blocks)
        self._target, self._against = target, null.project_units(target)
        section = np.zeros(null.n_units, dtype=np.intp)
        section[unit] = null.sections
        self._weight, self._section = weight, np.eye(section.max() + 1)[section]
        randomised = np.concatenate([part.units for part in null.parts])
        # with all spots labelled and units of one size a rotation keeps the variance
        self._even = bool(np.ptp(weight[randomised]) == 0)
        read = np.flatnonzero(weight > 0)
        self._read = read
        basis = np.zeros((len(null.blocks), len(read)), dtype=np.float32)
        first, place = 0, np.full(null.n_units, -1)
        place[read] = np.arange(len(read))
        for part in null.parts:
            here = place[part.units] >= 0
            span = slice(first, first + len(part.values))
            basis[span, place[part.units[here]]] = part.vectors[here].T
            first = span.stop
        self._basis = basis

    def _variance(self, values: NDArray) -> NDArray[np.float64]:
        """Sum of squares about the section means over labelled spots, of ``(m, n_read)``."""
        weight, section = self._weight[self._read], self._section[self._read]
        by_section = weight[:, None] * section
        total = by_section.sum(axis=0)
        mean2 = (values @ by_section.astype(values.dtype)) ** 2 @ np.divide(
            1.0, total, out=np.zeros_like(total), where=total > 0
        )
        return np.maximum((values**2) @ weight - mean2, 0.0)

    def observed(self) -> Moments:
        """The map itself."""
        return self._values.T @ self._target, self._variance(self._values[self._read].T)

    def draw(self, n: int, rng: np.random.Generator) -> Iterator[Moments]:
        """One rotation a band for all concepts."""
        n_coef, k = self._rotation.shape
        few = max(_HELD // max((n_coef + len(self._read)) * k, 1), 1)
        constant = self.observed()[1]
        for first in range(0, n, few):
            copies = self._rotation.draw(min(few, n - first), rng)
            m = len(copies)
            flat = copies.reshape(m * k, n_coef)
            cross = (flat @ self._against).reshape(m, k, -1)
            if self._even:
                yield cross, np.broadcast_to(constant, (m, k))
            else:
                yield cross, self._variance(flat.astype(np.float32) @ self._basis).reshape(m, k)


class ShuffledLabels(Copies):
    """Labels shuffled among the labelled spots of each section."""

    def __init__(
        self, null: NullModel, labels: NDArray[np.float64], known: NDArray[np.bool_], latent: NDArray[np.float64]
    ) -> None:
        inside = PermutationNull(null.sections[known])
        order = np.flatnonzero(known)[inside.order]
        self._values = inside.project(labels[known])
        self._latent = latent[order]
        self._sections = np.split(np.arange(len(order)), np.flatnonzero(np.diff(inside.blocks)) + 1)

    def observed(self) -> Moments:
        """The labels themselves."""
        return self._values.T @ self._latent, (self._values**2).sum(axis=0)

    def draw(self, n: int, rng: np.random.Generator) -> Iterator[Moments]:
        """One permutation of the spots for all concepts."""
        n_spots, k = self._values.shape
        few = max(_HELD // max(n_spots * k, 1), 1)
        variance = (self._values**2).sum(axis=0)
        for first in range(0, n, few):
            m = min(few, n - first)
            order = np.concatenate(
                [rng.permuted(np.broadcast_to(s, (m, len(s))), axis=1) for s in self._sections], axis=1
            )
            copies = self._values.T[:, order].transpose(1, 0, 2).reshape(m * k, n_spots)
            yield (copies @ self._latent).reshape(m, k, -1), np.broadcast_to(variance, (m, k))


class OwnCopies(Copies):
    """Copies that a null model of a user's own draws of each concept, on the labelled spots alone."""

    together = False

    def __init__(
        self, null: NullModel, labels: NDArray[np.float64], known: NDArray[np.bool_], latent: NDArray[np.float64]
    ) -> None:
        self._null = null if known.all() else null.subset(known)
        self._coef = np.asarray(self._null.project(labels[known]), dtype=np.float64)
        self._against = np.asarray(self._null.project(latent[known]), dtype=np.float64)

    def observed(self) -> Moments:
        """In the basis of the null model."""
        return self._coef.T @ self._against, (self._coef**2).sum(axis=0)

    def draw(self, n: int, rng: np.random.Generator) -> Iterator[Moments]:
        """Concept by concept."""
        n_coef, k = self._coef.shape
        few = max(_HELD // max(n_coef * k, 1), 1)
        for first in range(0, n, few):
            copies = np.stack([self._null.draw(c, min(few, n - first), rng) for c in self._coef.T], axis=1)
            yield copies @ self._against, (copies**2).sum(axis=2)


def copies_of(
    null: NullModel, labels: NDArray[np.float64], known: NDArray[np.bool_], latent: NDArray[np.float64]
) -> Copies:
    """The copies that the null model stands for."""
    if isinstance(null, MoranNull):
        return MoranCopies(null, labels, known, latent)
    kind = ShuffledLabels if isinstance(null, PermutationNull) else OwnCopies
    return kind(null, labels, known, latent)
