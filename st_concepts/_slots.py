"""Every slot name that the package reads or writes, written once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class _Keys(NamedTuple):
    # obs
    BATCH: str = "section"
    DISAGREEMENT: str = "concept_disagreement"
    LABEL: str = "concept_label"
    GROUP: str = "concept_group"
    # obsm
    SPATIAL: str = "spatial"
    LATENT: str = "X_stc"
    SCORE: str = "concept_score"
    SCORE_ALONE: str = "concept_score_alone"
    MEMBERS: str = "concept_members"
    WEIGHT: str = "concept_weight"
    PROBABILITY: str = "concept_probability"
    CROSS_FIT: str = "concept_score_crossfit"
    PATTERN: str = "concept_pattern"
    SPATIAL_SALIENCY: str = "spatial_saliency"
    # varm
    SALIENCY: str = "concept_saliency"
    GRADIENT: str = "concept_gradient"
    GRADIENT_ALONE: str = "concept_gradient_alone"
    SALIENCY_CONTEXT: str = "concept_saliency_context"
    # layers: prefix + "_" + safe label of the concept
    SALIENCY_MAP: str = "concept_saliency"
    OWN_MAP: str = "concept_own_saliency"
    CONTEXT_MAP: str = "concept_context_saliency"
    # uns
    CONCEPTS: str = "concepts"
    GENE_CONCEPTS: str = "gene_concepts"
    # what both parts of split counts begin with
    COUNTS: str = "counts"
    RANK: str = "rank_genes_concepts"


KEYS = _Keys()
# what the layers of a map begin with, by part of the saliency
MAP_SLOTS = {"both": KEYS.SALIENCY_MAP, "own": KEYS.OWN_MAP, "surroundings": KEYS.CONTEXT_MAP}


def safe_labels(names: Iterable[str]) -> list[str]:
    """Labels that anndata accepts as keys and columns, unique and in the order of ``names``.

    anndata refuses ``/`` in keys, so ``"L2/3"`` becomes ``"L2_3"``; a backslash, a name that begins with a dot and
    ``"_index"`` are mended likewise. Should that collide with another name, a number is appended, and so it is where
    two names differ in case only, which would be one folder of a zarr store on many disks. True names are kept in
    ``uns["concepts"]["names"]``.

    Examples
    --------
    >>> safe_labels(["L1", "L2/3", "L2_3", "l1"])
    ['L1', 'L2_3_1', 'L2_3', 'l1_1']
    """
    names = [str(n) for n in names]
    # names that can stay as they are have the first right to them
    taken = {n.casefold(): n for n in reversed(names) if _safe(n) == n}
    out: list[str] = []
    for name in names:
        label = base = _safe(name)
        i = 0
        while taken.get(label.casefold(), name) != name or label in out:
            i += 1
            label = f"{base}_{i}"
        taken.setdefault(label.casefold(), name)
        out.append(label)
    return out


def _safe(name: str) -> str:
    """A name without what a key of h5ad or zarr cannot hold."""
    name = name.replace("/", "_").replace("\\", "_")
    return f"_{name[1:]}" if name.startswith(".") else "index_" if name == "_index" else name


def saliency_layer(label: str, key_added: str = KEYS.SALIENCY_MAP) -> str:
    """Name of the layer that holds the per-spot saliency of the concept with safe label ``label``."""
    return f"{key_added}_{label}"


def surroundings_slot(key_added: str) -> str:
    """Table in ``varm`` beside that of saliency under ``key_added``, with the share of the surroundings.

    Examples
    --------
    >>> surroundings_slot(KEYS.SALIENCY) == KEYS.SALIENCY_CONTEXT
    True
    """
    return f"{key_added}_context"


def concept_slot(base: str, key_added: str = KEYS.CONCEPTS) -> str:
    """Slot that belongs to a set of concepts: a second set, under another key, gets slots of its own.

    Examples
    --------
    >>> concept_slot(KEYS.SCORE), concept_slot(KEYS.SCORE, "seeds"), concept_slot(KEYS.RANK, "seeds")
    ('concept_score', 'seeds_score', 'rank_genes_seeds')
    """
    if key_added == KEYS.CONCEPTS:
        return base
    return base.replace("concepts" if "concepts" in base else "concept", key_added, 1)


def split_slots(key_added: str = KEYS.COUNTS) -> tuple[str, str, str]:
    """Layers for the two parts of split counts, and the slot that says how they were made.

    Examples
    --------
    >>> split_slots()
    ('counts_cluster', 'counts_test', 'counts_split')
    """
    return f"{key_added}_cluster", f"{key_added}_test", f"{key_added}_split"
