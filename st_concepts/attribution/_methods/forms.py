"""Forms: how the multipliers of a method become a map over the genes, over groups of spots and over single ones.

With multipliers ``D`` on the pre-activations and the first-layer weights ``W``, a map is ``D W`` (gradient),
``x * D W`` (input) or ``(x - b) * D W`` (difference). Expected gradients and occlusion have forms of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts.attribution._methods.base import given

if TYPE_CHECKING:
    from st_concepts.attribution._group import Entries, GroupSums
    from st_concepts.attribution._plain import Plain
    from st_concepts.attribution._spot import Chunk, SpotMaps

Values: TypeAlias = np.ndarray | sp.csr_matrix


class Form(ABC):
    """What the engines ask of a method's form.

    Attributes
    ----------
    needs_start
        Whether the net is run at the baseline as well.
    needs_references
        Whether it compares with reference spots.
    complete
        Whether a map sums to a difference of scores.
    zero_stays_zero
        Whether a gene at zero, or at a baseline of zero, has no attribution, so that maps are sparse.
    """

    needs_start: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False
    complete: ClassVar[bool] = False
    zero_stays_zero: ClassVar[bool] = True

    @abstractmethod
    def add_to_groups(self, sums: GroupSums, entries: Entries) -> None:
        """Add some spots to the sums of their groups."""

    @abstractmethod
    def of_groups(self, sums: GroupSums) -> np.ndarray:
        """Sums of maps ``(n_groups, m, n_vars)`` from what was added."""

    @abstractmethod
    def of_spots(self, maps: SpotMaps, chunk: Chunk) -> Values:
        """Maps of some spots, ``(n, n_genes)``."""

    @abstractmethod
    def of_inputs(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """Maps of some inputs of a plain module, of their shape."""


class GradientForm(Form):
    """``D W``."""

    zero_stays_zero = False
    times_features: ClassVar[bool] = False

    def add_to_groups(self, sums: GroupSums, entries: Entries) -> None:
        """A group's mean gradient is its mean multiplier times the weights."""
        deltas = sums.multipliers(entries)
        for k, part in entries.parts:
            sums.hidden[k] += deltas[:, part].sum(1, dtype=np.float64)
            if self.times_features:
                sums.genes[k] += sums.run.cross(entries.features[entries.spots[part]], deltas[:, part])

    def of_groups(self, sums: GroupSums) -> np.ndarray:
        """One product with the weights."""
        return sums.run.back(sums.hidden)

    def of_spots(self, maps: SpotMaps, chunk: Chunk) -> Values:
        """One product with the weights of the genes asked for."""
        return maps.run.back(maps.multipliers(chunk).cpu().numpy(), maps.genes)

    def of_inputs(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """The multipliers themselves."""
        return plain.multipliers(x, None)


class InputForm(GradientForm):
    """``x * D W``."""

    zero_stays_zero = True
    times_features = True

    def of_groups(self, sums: GroupSums) -> np.ndarray:
        """Products with the features, which touch their nonzero entries only."""
        return sums.genes

    def of_spots(self, maps: SpotMaps, chunk: Chunk) -> Values:
        """Sparse where the features are."""
        return maps.times(chunk.features, super().of_spots(maps, chunk))

    def of_inputs(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """Times the input."""
        return plain.multipliers(x, None) * x


class DifferenceForm(GradientForm):
    """``(x - b) * D W``."""

    needs_start = True
    complete = True
    zero_stays_zero = True
    times_features = True

    def of_groups(self, sums: GroupSums) -> np.ndarray:
        """Products with the features less those with the baselines."""
        return sums.genes - sums.baselines[:, None, :] * sums.run.back(sums.hidden)

    def of_spots(self, maps: SpotMaps, chunk: Chunk) -> Values:
        """Sparse where the features are and the baseline is zero."""
        delta = maps.multipliers(chunk)
        # the sum over genes of (x - b) * (delta W) is delta . (W x - W b)
        maps.sums.append((delta * (chunk.a - given(chunk.start, "a baseline"))).sum(1).cpu().numpy().astype(np.float64))
        values = maps.run.back(delta.cpu().numpy(), maps.genes)
        baseline = maps.baseline if maps.genes is None else maps.baseline[maps.genes]
        if baseline.any() or not sp.issparse(chunk.features):
            return values * (maps.columns(chunk.features) - baseline.astype(maps.run.numpy_dtype))
        return maps.times(chunk.features, values)

    def of_inputs(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """Times the distance from the baseline."""
        start = plain.baseline.expand_as(x)
        return plain.multipliers(x, start) * (x - start)


FORMS: dict[str, Form] = {"gradient": GradientForm(), "input": InputForm(), "difference": DifferenceForm()}
