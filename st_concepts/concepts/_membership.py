"""Which spots are inside and outside each concept: from annotations, masks, or scores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from st_concepts._names import as_names

FEW = 3  # labelled spots below which a warning is given


@dataclass(frozen=True)
class Membership:
    """Names of concepts and, per spot, 1 inside, 0 outside, -1 neither.

    Attributes
    ----------
    names
        True names.
    members
        int8 ``(n_obs, n_concepts)``.
    """

    names: list[str]
    members: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Boolean ``(n_obs, n_concepts)``."""
        return self.members == 1

    @property
    def outside(self) -> np.ndarray:
        """Boolean ``(n_obs, n_concepts)``."""
        return self.members == 0

    def check(self) -> Membership:
        """Raise where a concept has no spot on one side, warn where it has fewer than three."""
        for name, n_in, n_out in zip(self.names, self.inside.sum(0), self.outside.sum(0), strict=True):
            if n_in == 0:
                raise ValueError(f"Concept {name!r} has no labelled spot; label at least {FEW}, or leave it out.")
            if n_out == 0:
                raise ValueError(
                    f"Concept {name!r} has no spot to compare with: every labelled spot is {name!r}. "
                    "Label spots of at least one other kind."
                )
            if n_in < FEW:
                warnings.warn(
                    f"Concept {name!r} rests on {n_in} labelled spot{'s' if n_in > 1 else ''}; "
                    f"with fewer than {FEW} its vector is mostly noise.",
                    UserWarning,
                    stacklevel=4,
                )
        return self


def from_labels(
    labels: pd.Series, *, groups: Sequence[str] | str | None = None, reference: str | Sequence[str] = "rest"
) -> Membership:
    """Membership from a categorical annotation; missing values are unlabelled.

    Parameters
    ----------
    labels
        One label per spot.
    groups
        Labels to make concepts of; by default all that occur, in the order of the categories.
    reference
        ``"rest"``: all other labelled spots; or the label (or labels) to compare with.

    Raises
    ------
    ValueError
        All spots unlabelled, a label that does not occur, only one label.

    Examples
    --------
    >>> from_labels(pd.Series(["a", "b", None])).members.tolist()
    [[1, 0], [0, 1], [-1, -1]]
    """
    cat = labels.astype("category") if not isinstance(labels.dtype, pd.CategoricalDtype) else labels
    cat = cat.cat.remove_unused_categories()
    known = [str(c) for c in cat.cat.categories]
    if not known:
        raise ValueError(f"Every spot is unlabelled in {labels.name!r}: nothing defines a concept.")
    codes = cat.cat.codes.to_numpy()
    if isinstance(reference, str):
        rest = reference == "rest" and "rest" not in known
        wanted_reference = [] if rest else [reference]
    else:
        rest, wanted_reference = False, as_names(reference)
    names = [n for n in known if n not in wanted_reference] if groups is None else as_names(groups)
    for name in [*names, *wanted_reference]:
        if name not in known:
            raise ValueError(f"No spot is labelled {name!r} in {labels.name!r}; the labels are: {', '.join(known)}.")
    members = np.full((len(codes), len(names)), -1, dtype=np.int8)
    against = np.isin(codes, [known.index(r) for r in wanted_reference]) if not rest else codes >= 0
    for j, name in enumerate(names):
        members[against, j] = 0
        members[codes == known.index(name), j] = 1
    return Membership(names, members)


def from_masks(masks: Mapping[str, Any], n_obs: int) -> Membership:
    """Membership from boolean masks by name; missing values are unlabelled.

    Raises
    ------
    ValueError
        A mask has the wrong length or is not boolean.
    """
    members = np.full((n_obs, len(masks)), -1, dtype=np.int8)
    for j, (name, mask) in enumerate(masks.items()):
        values = pd.array(np.asarray(mask, dtype=object), dtype=object)
        if len(values) != n_obs:
            raise ValueError(f"Mask {name!r} has {len(values)} entries for {n_obs} spots.")
        missing = pd.isna(values)
        if not all(isinstance(v, bool | np.bool_) for v in values[~missing]):
            raise ValueError(f"Mask {name!r} must be boolean (True inside the concept, False outside).")
        members[~missing, j] = np.array(values[~missing], dtype=bool).astype(np.int8)
    return Membership(list(masks), members)


def from_scores(names: list[str], scores: np.ndarray, threshold: float = 1.0) -> Membership:
    """Membership where nothing was labelled: spots whose standardised score is above ``threshold``.

    A concept that no spot reaches takes its best spot.
    """
    members = (scores > threshold).astype(np.int8)
    members[scores.argmax(0), np.arange(scores.shape[1])] = 1
    return Membership(names, members)
