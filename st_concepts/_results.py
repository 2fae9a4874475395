"""Which slots of an AnnData hold results of this package, of every set of concepts and under names of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from st_concepts._slots import KEYS, concept_slot

# by part of the AnnData: slots of one set of concepts, of which a second set has its own
_OF_A_SET = {
    "obs": (KEYS.DISAGREEMENT, KEYS.GROUP),
    "obsm": (KEYS.SCORE, KEYS.MEMBERS, KEYS.CROSS_FIT),
    "varm": (KEYS.SALIENCY, KEYS.GRADIENT),
    "uns": (KEYS.RANK, KEYS.SALIENCY),
}
# slots that begin so, with an underscore and more: tables of a ranking, maps of a concept
_BEGIN_IN_A_SET = {"varm": (KEYS.RANK,), "layers": (KEYS.SALIENCY_MAP,), "uns": (KEYS.SALIENCY,)}
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


def found_slots(adata: AnnData) -> list[tuple[str, str]]:
    """``(part, slot)`` of every result in ``adata``, such as ``("obsm", "concept_score")``.

    Results under names that the user chose are found through their entry in ``uns``; an embedding or a cross-fitted
    score under another name has none, and stays.
    """
    exact: set[tuple[str, str]] = set()
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
            exact |= {("uns", key), ("varm", key), ("layers", key)}
        elif set(_mapping(entry)) >= {"names", "labels", "vectors", "genes", "tables", "model"}:
            exact.add(("uns", key))
    return [
        (part, slot)
        for part in _PARTS
        for slot in getattr(adata, part)
        if slot is not None
        and ((part, slot) in exact or any(p == part and str(slot).startswith(f"{b}_") for p, b in begin))
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
