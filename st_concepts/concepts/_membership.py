"""Which spots are inside and outside each concept: from annotations, masks, or scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.labels import Labels, check_name, clean_labels, label_text, taken_as_missing

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
                    stacklevel=callers_level(),
                )
        return self


def from_labels(
    labels: pd.Series | Labels,
    *,
    groups: Sequence[str] | str | None = None,
    reference: str | Sequence[str] = "rest",
    missing: Iterable[str] | str | None = None,
) -> Membership:
    """Membership from an annotation; missing values, and words that mean missing, are unlabelled.

    ``groups`` are the labels to make concepts of, by default all that occur, in the order of the categories. The
    ``reference`` is ``"rest"``, all other labelled spots, or the label (or labels) to compare with; a label called
    ``"rest"`` is meant by ``["rest"]``. A word of ``missing`` that is named in ``groups`` or ``reference`` is a label.

    Examples
    --------
    >>> from_labels(pd.Series(["a", "b", None])).members.tolist()
    [[1, 0], [0, 1], [-1, -1]]
    """
    name = getattr(labels, "name", None)
    if not isinstance(labels, Labels):
        labels = clean_labels(
            labels,
            missing=missing,
            keep=asked_for(groups, reference),
            where=f"The column {name!r}" if name is not None else "The column",
            names_allowed=groups is not None,
        )
    known = labels.names
    inside = f" in {name!r}" if name is not None else ""
    if not known:
        also = f" ({taken_as_missing(labels.taken)})" if labels.taken else ""
        raise ValueError(f"Every spot is unlabelled{inside}: nothing defines a concept{also}.")
    rest = isinstance(reference, str) and reference == "rest"
    against_names = [] if rest else _names(reference)
    names = [n for n in known if n not in against_names] if groups is None else _names(groups)
    if not names:
        raise ValueError(f"No label is left to make a concept of{inside}; the labels are: {', '.join(known)}.")
    for wanted in [*names, *against_names]:
        if wanted not in known:
            raise ValueError(f"No spot is labelled {wanted!r}{inside}; the labels are: {', '.join(known)}.")
    codes = labels.codes
    members = np.full((len(codes), len(names)), -1, dtype=np.int8)
    against = codes >= 0 if rest else np.isin(codes, [known.index(r) for r in against_names])
    for j, wanted in enumerate(names):
        members[against, j] = 0
        members[codes == known.index(wanted), j] = 1
    return Membership(names, members)


def asked_for(groups: Sequence[str] | str | None, reference: str | Sequence[str]) -> list[str]:
    """Labels that are named one by one, so that they are labels whatever they mean elsewhere."""
    return (_names(groups) if groups is not None else []) + (_names(reference) if reference != "rest" else [])


def defining_labels(column: pd.Series, names: Sequence[str], params: Mapping[str, Any]) -> Labels:
    """The column that defined concepts, cleaned as it was then; ``names`` and ``params`` are those of the concepts."""
    return clean_labels(
        column,
        missing=params.get("missing"),
        keep=[*names, *(reference_labels(params) or [])],
        where=f"The column {column.name!r}",
        names_allowed=True,
    )


def reference_labels(params: Mapping[str, Any]) -> list[str] | None:
    """Labels that concepts were compared with; `None` for all other labelled spots."""
    if (stored := params.get("reference_labels")) is not None:
        return list(map(str, stored))
    reference = str(params.get("reference", "rest"))
    # results of 0.1 have them joined, unless one label is called just so
    return None if reference == "rest" else [reference, *reference.split(", ")]


def _names(given: Sequence[str] | str) -> list[str]:
    every = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
    return list(dict.fromkeys(map(label_text, every)))


def from_masks(masks: Mapping[str, Any], n_obs: int) -> Membership:
    """Membership from boolean masks by name; missing values are unlabelled."""
    check_names(list(masks))
    members = np.full((n_obs, len(masks)), -1, dtype=np.int8)
    for j, (name, mask) in enumerate(masks.items()):
        values = pd.array(np.asarray(mask, dtype=object), dtype=object)
        if len(values) != n_obs:
            raise ValueError(f"Mask {name!r} has {len(values)} entries for {n_obs} spots.")
        missing = pd.isna(values)
        if not all(isinstance(v, bool | np.bool_) for v in values[~missing]):
            raise ValueError(f"Mask {name!r} must be boolean (True inside the concept, False outside).")
        members[~missing, j] = np.array(values[~missing], dtype=bool).astype(np.int8)
    return Membership(list(map(str, masks)), members)


def from_scores(names: list[str], scores: np.ndarray, threshold: float = 1.0) -> Membership:
    """Membership where nothing was labelled: spots whose standardised score is above ``threshold``.

    A concept that no spot reaches takes its best spot.
    """
    members = (scores > threshold).astype(np.int8)
    members[scores.argmax(0), np.arange(scores.shape[1])] = 1
    return Membership(names, members)


def check_names(names: Sequence[Any]) -> list[str]:
    """Names of concepts as text; raise where one cannot be kept, or two read the same (1 and "1")."""
    found = list(map(str, names))
    for name in found:
        check_name(name, "The concepts")
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"Two concepts have the same name: {', '.join(twice)}. Rename one of each.")
    return found
