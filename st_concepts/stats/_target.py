"""Score or label: what the genes of a concept are tested against and ranked by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

TARGETS = ("score", "both", "label")
# in words, for the record
RANKED = {
    "score": "correlation with the concept score",
    "label": "Welch's t between labelled spots inside and outside",
    "both": "Welch's t between spots weighted inside and outside, plus the correlation with the concept score",
}


@dataclass(frozen=True)
class Targets:
    """What the genes of all concepts are tested against and ranked by.

    Attributes
    ----------
    tested_by
        ``"score"`` or ``"label"``.
    ranked_by
        ``"score"``, ``"label"`` or ``"both"``.
    tested
        What the null model is of, float64 ``(n_obs, n_concepts)``, NaN where unknown.
    """

    tested_by: str
    ranked_by: str
    tested: NDArray[np.float64]

    @classmethod
    def choose(
        cls,
        target: str,
        score: NDArray[np.float64],
        label: NDArray[np.float64],
        usable: NDArray[np.bool_],
        *,
        defined: bool,
    ) -> Self:
        """The target asked for; ``"auto"`` tests the score, and ranks by score and labels where labels ``defined`` it.

        ``"both"`` ranks in the same way and tests the label.
        """
        tested_by = "label" if target in ("both", "label") else "score"
        ranked_by = ("both" if defined else "score") if target == "auto" else target
        tested = np.where(usable[:, None], score if tested_by == "score" else label, np.nan)
        return cls(tested_by, ranked_by, tested)
