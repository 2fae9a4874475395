"""Whether concepts are there at all: the test of every labelling, and labels that were made from the counts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.positions import positions
from st_concepts._slots import KEYS
from st_concepts.concepts import DEFAULT_WIDTH, Membership, Place
from st_concepts.stats import concept_test, null_model, p_text

# from this p on a concept is named in a warning
DOUBTED = 0.05


def tested(
    adata: AnnData, named: Membership, place: Place, *, graph_key: str | None, n_null: int, seed: int
) -> dict[str, Any]:
    """The test in a form that files keep; nothing where no copies are wanted.

    The embedding is that with the surroundings of the default width, whatever width was chosen: a width that was chosen
    by the labels would make them look better than their copies.
    """
    if n_null == 0:
        return {}
    seen = place.seen
    embedding = np.full((adata.n_obs, (1 if place.around is None else 2) * seen.latent.shape[1]), np.nan)
    embedding[seen.usable] = seen.embedding(0.0 if place.around is None else DEFAULT_WIDTH)
    if place.around is None:
        null = null_model("permutation", adata.n_obs, sections=place.sections.codes)
    else:
        coords = positions(adata) if KEYS.SPATIAL in adata.obsm else None
        graph = None if graph_key is None else adata.obsp[graph_key]
        null = null_model("moran", adata.n_obs, coords=coords, sections=place.sections.codes, graph=graph)
    labels = np.where(named.members < 0, np.nan, named.members)
    found = concept_test(embedding, labels, null, n_null=n_null, seed=seed)
    return {
        "statistic": found.statistic,
        "pval": found.pval,
        "null_mean": found.null_mean,
        "null_sd": found.null_sd,
        "joint_pval": float("nan") if found.joint_pval is None else float(found.joint_pval),
        "null": found.null,
        "n_null": int(found.n_null),
    }


def warn_of_doubtful(names: list[str], test: dict[str, Any]) -> None:
    """Name the concepts that labels of the same spatial pattern would make as well."""
    doubtful = [(n, p) for n, p in zip(names, test.get("pval", ()), strict=False) if p >= DOUBTED]
    if not doubtful:
        return
    said = ", ".join(f"{name!r} (p = {p_text(p)})" for name, p in doubtful[:5])
    more = f" and {len(doubtful) - 5} more" if len(doubtful) > 5 else ""
    warnings.warn(
        f"Expression does not tell {said}{more} better than it tells labels of the same pattern that mean nothing. "
        "Genes may still be ranked; their p-values will not be small. Label more spots, or look at the "
        "annotation again (stc.get.concepts).",
        UserWarning,
        stacklevel=callers_level(),
    )


def warn_of_clusters(adata: AnnData, groupby: str, layer: str | None) -> None:
    """Say so where labels are clusters by scanpy, unless they are tested on the part of the counts left out for it."""
    made_from = adata.uns.get(groupby) if groupby else None
    if not isinstance(made_from, Mapping) or not isinstance(made_from.get("params"), Mapping):
        return
    if layer is not None and any(layer in _parts(entry) for entry in adata.uns.values()):
        return
    warnings.warn(
        f"The labels in adata.obs[{groupby!r}] are clusters of expression: tested on the same counts, every gene that "
        "made them looks like a marker. Cluster one part of the counts and test the other: stc.pp.split_counts.",
        UserWarning,
        stacklevel=callers_level(),
    )


def _parts(entry: Any) -> list[str]:
    """Layers of a split that an entry of ``uns`` records; none where it is something else."""
    return list(map(str, entry["layers"])) if isinstance(entry, Mapping) and "layers" in entry else []
