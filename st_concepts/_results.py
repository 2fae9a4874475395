"""A result: the slots that it is written to, and which slots of an AnnData hold one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import drop_column
from st_concepts._counts.layers import layers_of
from st_concepts._slots import KEYS, MAP_SLOTS, concept_slot, surroundings_slot

P = ParamSpec("P")


@dataclass
class Result:
    """What a function found, by slot.

    Attributes
    ----------
    obs, obsm, varm, layers, uns
        Values by name of the slot.
    stale
        ``(part, slot)`` of what an earlier result of this kind may have left and this one has not: it is removed.
    """

    obs: dict[str, Any] = field(default_factory=dict)
    obsm: dict[str, Any] = field(default_factory=dict)
    varm: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)
    stale: Iterable[tuple[str, str]] = ()

    def write(self, adata: AnnData) -> None:
        """Put the slots in place, and remove stale ones."""
        remove(adata, [slot for slot in self.stale if slot[1] in getattr(adata, slot[0])])
        for part in _PARTS:
            target = getattr(adata, part)
            for slot, value in getattr(self, part).items():
                target[slot] = value


def writes(function: Callable[P, Result]) -> Callable[P, AnnData | None]:
    """Decorate a function of ``adata`` that returns a `Result`: it is written into ``adata``, or with ``copy`` a copy.

    Whether a copy can be made is checked before anything is computed, and nothing is written before all of it is
    there.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> AnnData | None:
        given = signature.bind(*args, **kwargs).arguments
        adata, copy = given["adata"], given.get("copy", False)
        check_writable(adata, copy)
        result = function(*args, **kwargs)
        out = adata.copy() if copy else adata
        result.write(out)
        return out if copy else None

    returned = "AnnData | None"
    wrapper.__annotations__ = {**function.__annotations__, "return": returned}
    wrapper.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]  # as inspect
    return wrapper


def check_writable(adata: AnnData, copy: bool) -> None:
    """Raise where results cannot be written, or a copy is asked for that cannot be made."""
    if not isinstance(adata, AnnData):
        return
    if adata.is_view and adata.isbacked:
        raise ValueError(
            "This AnnData is a view of one whose matrix stays on the disk, and nothing can be written into it. Load "
            "the part first: adata = adata.to_memory()."
        )
    held = [x for x in (adata.X, *layers_of(adata).values()) if x is not None] if copy else []
    if copy and (adata.isbacked or not all(hasattr(x, "copy") for x in held)):
        raise ValueError(
            "copy=True cannot copy an AnnData whose matrix stays on the disk. Leave copy out: results go into the "
            "AnnData in memory, not into its file, until adata.write_h5ad(new). Or load it first: adata.to_memory()."
        )


def remove(adata: AnnData, slots: Iterable[tuple[str, str]]) -> list[str]:
    """Remove slots that are there, ``(part, slot)``; returns them as they are written."""
    slots = list(slots)
    for part, slot in slots:
        if part == "obs":
            drop_column(adata, slot)
        else:
            del getattr(adata, part)[slot]
    return [f"{part}[{slot!r}]" for part, slot in slots]


# by part of the AnnData: slots of one set of concepts, of which a second set has its own
_OF_A_SET = {
    "obs": (KEYS.DISAGREEMENT, KEYS.LABEL, KEYS.GROUP),
    "obsm": (KEYS.SCORE, KEYS.SCORE_ALONE, KEYS.MEMBERS, KEYS.WEIGHT, KEYS.PROBABILITY, KEYS.CROSS_FIT),
    "varm": (KEYS.SALIENCY, KEYS.GRADIENT, KEYS.GRADIENT_ALONE, KEYS.SALIENCY_CONTEXT),
    "uns": (KEYS.RANK, KEYS.SALIENCY),
}
# slots that begin so, with an underscore and more: tables of a ranking, maps of a concept
_BEGIN_IN_A_SET = {"varm": (KEYS.RANK,), "layers": tuple(MAP_SLOTS.values()), "uns": tuple(MAP_SLOTS.values())}
_OTHERS = {
    "obsm": (KEYS.LATENT, KEYS.PATTERN, KEYS.SPATIAL_SALIENCY),
    "uns": (KEYS.GENE_CONCEPTS, KEYS.SPATIAL_SALIENCY),
}
_BEGIN_OTHERS = {"obsm": (KEYS.SPATIAL_SALIENCY,)}
_PARTS = ("obs", "obsm", "varm", "layers", "uns")
# what tells entries of uns that are ours
_SET = {"names", "vectors", "center", "scale", "model", "params"}
_RANKING = {"null", "target", "concepts", "model"}
_SALIENCY = {"method", "model", "path"}
_SPLIT = {"fraction", "overdispersion", "estimated"}


def found_slots(adata: AnnData) -> list[tuple[str, str]]:
    """``(part, slot)`` of every result in ``adata``, such as ``("obsm", "concept_score")``.

    Results under names that the user chose are found through their entry in ``uns``; an embedding or a cross-fitted
    score under another name has none, and stays.
    """
    exact: set[tuple[str, str]] = split_found(adata)
    begin: set[tuple[str, str]] = set()

    def add(into: set[tuple[str, str]], table: Mapping[str, tuple[str, ...]], key: str = KEYS.CONCEPTS) -> None:
        into.update((part, concept_slot(base, key)) for part, bases in table.items() for base in bases)

    add(exact, _OTHERS)
    add(begin, _BEGIN_OTHERS)
    add(exact, _OF_A_SET)
    add(begin, _BEGIN_IN_A_SET)
    for key, entry in adata.uns.items():
        params = _mapping(_mapping(entry).get("params"))
        if set(_mapping(entry)) >= _SET:
            add(exact, _OF_A_SET, key)
            add(begin, _BEGIN_IN_A_SET, key)
            exact |= {("uns", key), ("obsm", str(params.get("score_key") or KEYS.SCORE))}
        elif set(params) >= _RANKING:
            exact.add(("uns", key))
            begin.add(("varm", key))
        elif set(params) >= _SALIENCY:
            exact |= {("uns", key), ("varm", key), ("varm", surroundings_slot(key)), ("layers", key)}
        elif set(_mapping(entry)) >= {"names", "labels", "vectors", "genes", "tables", "model"}:
            exact.add(("uns", key))
    return [
        (part, slot)
        for part in _PARTS
        for slot in getattr(adata, part)
        if slot is not None
        and ((part, slot) in exact or any(p == part and str(slot).startswith(f"{b}_") for p, b in begin))
    ]


def split_found(adata: AnnData) -> set[tuple[str, str]]:
    """Slots of `stc.pp.split_counts`, whether they are there or not."""
    found: set[tuple[str, str]] = set()
    for key, entry in adata.uns.items():
        if set(_mapping(_mapping(entry).get("params"))) >= _SPLIT:
            layers = [("layers", str(name)) for name in entry.get("layers", ())]
            found |= {("uns", key), ("varm", key), *layers}
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def gene_frame(values: np.ndarray, var_names: pd.Index, wanted: pd.Index, labels: list[str]) -> pd.DataFrame:
    """``(n_concepts, genes of the model)`` as a float32 DataFrame of ``wanted`` genes x concepts, NaN where unknown."""
    frame = pd.DataFrame(np.asarray(values.T, dtype=np.float32), index=var_names, columns=labels)
    return frame.reindex(wanted.astype(str)).set_axis(wanted.rename(None), axis=0)
