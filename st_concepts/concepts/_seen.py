"""What concepts can be made of: latent positions of the spots, and of their surroundings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from st_concepts.concepts._held_out import held_out, tile_folds
from st_concepts.models import Surroundings

ContextOption: TypeAlias = Literal["auto"] | float
# widths that are tried, the spot alone first, and the one that is taken where labels are too few to choose by
WIDTHS = (0.0, 3.0, 10.0, 30.0)
DEFAULT_WIDTH = 10.0
# labels a layer (in the median) up to which there are too few
FEW_LABELS = 20
# averages vary less than spots, and a spherical shrinkage would suppress them: they enter twice as large
_SCALE = 2.0


@dataclass
class Problem:
    """A labelling whose classes exclude each other.

    Attributes
    ----------
    codes
        Class of each usable spot, -1 where unlabelled.
    n_classes
        Number of classes.
    picked
        The class that each concept of the problem is.
    """

    codes: NDArray[np.intp]
    n_classes: int
    picked: list[int]


@dataclass
class Seen:
    """Usable spots of a section.

    Attributes
    ----------
    latent
        float64 ``(n_usable, n_latent)``.
    usable
        Which spots of the section they are, boolean ``(n_obs,)``.
    around
        Their neighbours; `None` where there are no positions.
    coords, sections
        Positions ``(n_usable, 2)``, `None` where only a graph is known, and section codes ``(n_usable,)``.
    """

    latent: NDArray[np.float64]
    usable: NDArray[np.bool_]
    around: Surroundings | None = None
    coords: NDArray[np.float64] | None = None
    sections: NDArray[np.intp] | None = None
    _averages: dict[float, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def average(self, width: float) -> NDArray[np.float32]:
        """Mean latent positions around each spot, made once."""
        if self.around is None:
            raise ValueError("There are no positions to know the surroundings of a spot by.")
        if width not in self._averages:
            self._averages[width] = self.around.average(self.latent.astype(np.float32), width)
        return self._averages[width]

    def embedding(self, width: float) -> NDArray[np.floating]:
        """What discriminants see: latent positions, with the surroundings beside them unless the width is 0."""
        if width == 0:
            return self.latent
        return np.concatenate([self.latent.astype(np.float32), _SCALE * self.average(width)], axis=1)

    def in_latent_units(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Vectors of `embedding` as weights of latent positions, those of the surroundings in the second half."""
        out = np.array(vectors, dtype=np.float64)
        out[:, self.latent.shape[1] :] *= _SCALE
        return out

    def choose_width(self, context: ContextOption, problems: list[Problem]) -> tuple[float, dict[float, float]]:
        """The width asked for; for ``"auto"`` the one whose discriminants tell unseen tiles best, and AUROC by width.

        Eight compact tiles of each section are the folds. With few labels, or where positions are not known, nothing is
        compared: `DEFAULT_WIDTH`, or 0.
        """
        if context != "auto":
            return float(context), {}
        if self.around is None:
            return 0.0, {}
        sizes = np.concatenate([np.bincount(p.codes[p.codes >= 0], minlength=p.n_classes)[p.picked] for p in problems])
        if self.coords is None or np.median(sizes) <= FEW_LABELS:
            return DEFAULT_WIDTH, {}
        found = {width: self._tiled_auroc(width, problems) for width in WIDTHS}
        told = {width: area for width, area in found.items() if np.isfinite(area)}
        best = max(told, key=told.__getitem__, default=DEFAULT_WIDTH)
        for width in found:
            if width != best:
                self._averages.pop(width, None)
        return best, told

    def _tiled_auroc(self, width: float, problems: list[Problem]) -> float:
        coords = self.coords
        if coords is None:
            return float("nan")
        sections = np.zeros(len(self.latent), dtype=np.intp) if self.sections is None else self.sections
        embedding = self.embedding(width)
        areas = [
            held_out(embedding, p.codes, p.n_classes, tile_folds(p.codes, coords, sections)).auroc[p.picked]
            for p in problems
        ]
        every = np.concatenate(areas)
        return float(np.nanmean(every)) if np.isfinite(every).any() else float("nan")
