"""The one rule that finds the section (slide, sample) of each spot."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.positions import positions
from st_concepts._slots import KEYS, safe_labels

# columns that hold sections by custom, best first
CANDIDATES = (KEYS.BATCH, "library_id", "sample")
# text that a gap has become
_GAPS = ("", "nan", "NaN", "<NA>", "None", "NaT")
# share of the spots that lie exactly on another one: chance and rounding stay far below, stacked sections far above
_STACKED = 0.1

How = Literal["given", "tested", "model", "images", "found", "one"]
_HOW = {
    "given": "as asked for",
    "tested": "as the markers were tested",
    "model": "the section_key of the model",
    "images": "which agrees with the images",
    "found": "by its name",
}


@dataclass(frozen=True)
class Sections:
    """Which section each spot belongs to.

    Attributes
    ----------
    key
        Column of ``obs`` that says so; ``""`` where there is none and all spots are one section.
    names
        Names of the sections, in the order of the categories.
    codes
        intp ``(n_obs,)``: index into ``names`` of each spot.
    how
        What decided: ``"given"`` by the user, ``"tested"`` (given for the markers), ``"model"`` (its ``section_key``),
        ``"images"`` (a usual column that agrees with ``uns["spatial"]``), ``"found"`` (a usual column), ``"one"``.
    remarks
        What the user should know, one sentence each.
    """

    key: str
    names: list[str]
    codes: NDArray[np.intp]
    how: How
    remarks: list[str] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.names) > 1

    def rows(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Name and boolean rows of each section."""
        return [(name, self.codes == j) for j, name in enumerate(self.names)]

    def __str__(self) -> str:
        if not self.key:
            return "one section"
        n = len(self.names)
        return f"{n} section{'s' if n > 1 else ''} by obs[{self.key!r}], {_HOW[self.how]}"


def sections_of(
    adata: AnnData,
    section_key: str | None = None,
    *,
    concepts_key: str = KEYS.CONCEPTS,
    model_key: str | None = None,
    tested: bool = True,
    check_stacked: bool = True,
    warn: bool = True,
) -> Sections:
    """Find the section of each spot.

    In this order: ``section_key``; the key that was given when the markers were tested (if ``tested``); the key of the
    model (``model_key``, or what ``uns[concepts_key]`` knows); the columns ``section``, ``library_id`` and ``sample``,
    those first whose names agree with the images in ``uns["spatial"]``, then those that name several sections. Of the
    last two kinds a column is passed over if spots of one section coincide, and another one tells them apart; where
    none does, that is an error if ``check_stacked``. Remarks are in the result, and with ``warn`` warnings too.
    """
    if section_key is not None:
        names, codes = read_sections(adata.obs, section_key)
        found = Sections(section_key, names, codes, "given")
    else:
        found = _by_rule(adata, model_key or _params(adata, concepts_key).get("section_key"), tested, check_stacked)
    shared = coincident(adata, found.codes) if check_stacked else 0
    if shared:
        text = _stacked_text(adata, found, shared)
        # the user's word counts: cells that were put on spots do lie on each other
        if found.how not in ("given", "tested"):
            raise ValueError(text)
        found.remarks.append(text)
    if warn:
        for remark in found.remarks:
            warnings.warn(remark, UserWarning, stacklevel=callers_level())
    return found


def one_key(section_key: str | None, **alias: str | None) -> str | None:
    """The column of sections, by our name or by that of another package; `ValueError` where they differ."""
    (name, other), *_ = alias.items()
    if section_key is not None and other is not None and section_key != other:
        raise ValueError(f"section_key={section_key!r} and {name}={other!r} are two names of one thing; give one.")
    return other if section_key is None else section_key


def read_sections(obs: Any, key: str, *, option: str = "section_key") -> tuple[list[str], NDArray[np.intp]]:
    """Names of the sections in ``obs[key]``, in the order of its categories, and the code of each spot."""
    if not isinstance(key, str):
        raise ValueError(f"{option} must be the name of one column of adata.obs; got {key!r}.")
    if key not in obs:
        have = ", ".join(map(repr, obs.columns)) or "none"
        raise KeyError(f"{option}={key!r} is not a column of adata.obs (it has: {have}).")
    names, codes, problem = _read(obs, key)
    if problem:
        raise ValueError(f"{option}={key!r}: adata.obs[{key!r}] {problem}.")
    return names, codes


def coincident(adata: AnnData, codes: NDArray[np.intp]) -> int:
    """Spots that lie exactly on another one of their section, where these are too many for chance; else 0."""
    try:
        xy = positions(adata)
    except (KeyError, ValueError):
        return 0  # whoever needs coordinates says what is wrong with them
    shared = pd.DataFrame({"code": codes, "x": xy[:, 0], "y": xy[:, 1]}).duplicated(keep=False)
    n = int(shared.sum())
    return n if n > max(3, _STACKED * len(xy)) else 0


def libraries(adata: AnnData) -> list[str]:
    """Names of the entries of ``uns["spatial"]`` that hold images, usable or not."""
    stored = adata.uns.get(KEYS.SPATIAL)
    if not isinstance(stored, Mapping):
        return []
    return [str(k) for k, v in stored.items() if isinstance(v, Mapping) and isinstance(v.get("images"), Mapping)]


def library_of(names: Iterable[str], found: Iterable[str]) -> list[str | None]:
    """For each section the entry of ``uns["spatial"]`` that is called like it, or `None`.

    Examples
    --------
    >>> library_of(["A/1", "B", "2.0"], ["A_1", "2"])
    ['A_1', None, '2']
    """
    names, found = list(names), set(found)
    out: list[str | None] = []
    for name, safe in zip(names, safe_labels(names), strict=True):
        # anndata refuses "/" in keys; whole numbers that once had gaps are read as floats
        spellings = (name, safe, name.removesuffix(".0"))
        out.append(next((s for s in spellings if s in found), None))
    return out


def _read(obs: Any, key: str) -> tuple[list[str], NDArray[np.intp], str]:
    """Names and codes of a column, and what makes it useless as one of sections (``""`` if nothing)."""
    values = obs[key] if isinstance(obs, pd.DataFrame) else obs[[key]].to_memory()[key]
    none = np.zeros(len(values), dtype=np.intp)
    if not isinstance(values, pd.Series):
        return [], none, "is there more than once"
    order = pd.Categorical(values).remove_unused_categories().categories
    names = [str(c) for c in order]
    missing = values.isna().to_numpy() | values.astype(object).isin(_GAPS).to_numpy()
    if missing.any():
        return [], none, f"has missing values; every spot needs its section ({missing.sum()} have none)"
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        return [], none, f"holds {twice!r} both as text and as a number; write it one way"
    if len(names) > max(10, len(values) / 2):
        return [], none, f"has {len(names)} names for {len(values)} spots, which are no sections"
    return names, pd.Index(order).get_indexer(values).astype(np.intp), ""


def _by_rule(adata: AnnData, model_key: Any, tested: bool, check_stacked: bool) -> Sections:
    choices: list[Sections] = []
    ranked = _params(adata, KEYS.RANK)
    said: tuple[tuple[How, Any], ...] = (
        ("tested", ranked.get("section_key") if tested and str(ranked.get("section_source")) == "given" else None),
        ("model", model_key),
    )
    for how, key in said:
        if key is not None and str(key) in adata.obs:
            names, codes, problem = _read(adata.obs, str(key))
            if not problem:
                choices.append(Sections(str(key), names, codes, how))
    if choices and choices[0].how == "tested":
        return choices[0]
    usual, gaps = _usual(adata)
    choices += usual
    if not choices:
        if gaps:
            key, problem = next(iter(gaps.items()))
            raise ValueError(
                f"adata.obs[{key!r}] {problem}. Fill the gaps, or name another column of sections with section_key=."
            )
        choices = [Sections("", [""], np.zeros(adata.n_obs, dtype=np.intp), "one")]
    best = choices[0]
    if check_stacked and len(choices) > 1:
        best = next((c for c in choices if not coincident(adata, c.codes)), best)
    best.remarks.extend(_doubts(adata, best, usual))
    return best


def _usual(adata: AnnData) -> tuple[list[Sections], dict[str, str]]:
    """The usual columns that can be sections, best first; and of those with gaps, what is wrong."""
    images = libraries(adata)
    found, gaps = [], {}
    for key in CANDIDATES:
        if key not in adata.obs:
            continue
        names, codes, problem = _read(adata.obs, key)
        if not problem:
            agree = sum(match is not None for match in library_of(names, images))
            found.append((-agree, len(names) < 2, Sections(key, names, codes, "images" if agree else "found")))
        elif problem.startswith("has missing") and not _is_empty(adata.obs, key):
            gaps[key] = problem
    return [s for _, _, s in sorted(found, key=lambda f: f[:2])], gaps


def _is_empty(obs: Any, key: str) -> bool:
    values = obs[key] if isinstance(obs, pd.DataFrame) else obs[[key]].to_memory()[key]
    return bool((values.isna() | values.astype(object).isin(_GAPS)).all())


def _doubts(adata: AnnData, best: Sections, usual: list[Sections]) -> list[str]:
    """Where the data could be read in another way."""
    images = libraries(adata)
    if not best.key and len(images) > 1:
        return [
            f"adata.uns['spatial'] has images of {len(images)} sections, but no column of adata.obs says which spot is "
            "on which: all spots are taken as one tissue. Name the column with section_key=."
        ]
    for other in usual:
        if best.how != "model" and other is not best and best.several and other.several:
            both = pd.DataFrame({"a": best.codes, "b": other.codes}).drop_duplicates()
            if len(both) > max(len(best.names), len(other.names)):
                return [
                    f"adata.obs[{best.key!r}] and adata.obs[{other.key!r}] divide the spots differently; sections are "
                    f"taken from {best.key!r}. Say which with section_key=."
                ]
    return []


def _stacked_text(adata: AnnData, found: Sections, shared: int) -> str:
    where = f"within the sections of adata.obs[{found.key!r}] " if found.several else ""
    names = ", ".join(repr(c) for c in CANDIDATES)
    told = (
        "and no other column tells them apart"
        if found.key
        else f"and no column of adata.obs ({names}) tells them apart"
    )
    more = " The third column of obsm['spatial'] may be what does." if _depth(adata) else ""
    return (
        f"{shared} of {adata.n_obs} spots lie {where}exactly on another spot: these look like sections that are "
        f"stacked, {told}. Name a column that does, with section_key=; or one that is the same for all spots, if this "
        f"is one tissue. Spots that are there twice have to be dropped first.{more}"
    )


def _depth(adata: AnnData) -> bool:
    shape: tuple[int, ...] = getattr(adata.obsm[KEYS.SPATIAL], "shape", ())
    return len(shape) == 2 and shape[1] > 2


def _params(adata: AnnData, key: str) -> Mapping[str, Any]:
    entry = adata.uns.get(key)
    params = entry.get("params") if isinstance(entry, Mapping) else None
    return params if isinstance(params, Mapping) else {}
