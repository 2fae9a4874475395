"""Which spots count as inside and outside a concept in a picture, and colours that everybody can tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import obs_column
from st_concepts._counts.labels import Labels, label_text
from st_concepts._names import as_names
from st_concepts._slots import KEYS, safe_labels
from st_concepts.concepts import ConceptSet, Membership, defining_labels, from_labels, membership, read_concepts

INSIDE, OUTSIDE = "#d55e00", "#0072b2"
# Okabe & Ito; distinct in the three common kinds of colour blindness
OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")
OTHERS = "other spots"


def members_of(adata: AnnData, concepts: ConceptSet, groupby: str | None) -> Membership:
    """Membership by the column ``groupby`` where one is named, else as `st_concepts.tl.concepts` stored it."""
    if groupby is None:
        return membership(adata, concepts)
    labels = shown_labels(adata, groupby, concepts)
    found = from_labels(labels)
    members = np.zeros((adata.n_obs, len(concepts.names)), dtype=np.int8)
    members[labels.codes < 0] = -1
    known = [name for name in concepts.names if name in found.names]
    if not known:
        raise ValueError(
            f"No label of adata.obs[{groupby!r}] ({', '.join(found.names)}) is a concept ({', '.join(concepts.names)})."
        )
    for name in known:
        members[:, concepts.names.index(name)] = found.members[:, found.names.index(name)]
    return Membership(concepts.names, members)


def shown_labels(adata: AnnData, groupby: str, concepts: ConceptSet | None = None) -> Labels:
    """Label of each spot, with what is missing as it was for the concepts made of this column, if they were."""
    if concepts is None and KEYS.CONCEPTS in adata.uns:
        concepts = read_concepts(adata)
    if concepts is not None and concepts.params.get("groupby") == groupby:
        return defining_labels(obs_column(adata, groupby), concepts.names, concepts.params)
    return defining_labels(obs_column(adata, groupby), [], {})


def one_group(found: Membership, scores: np.ndarray) -> pd.Categorical:
    """One group per spot: its concept, of several the one with the highest score; ``"other spots"``; or missing."""
    inside = found.inside
    best = np.where(inside, scores, -np.inf).argmax(1)
    codes = np.where(inside.any(1), best, np.where(found.outside.any(1), len(found.names), -1))
    others = safe_labels([*found.names, OTHERS])[-1]  # a concept may have that name
    return pd.Categorical.from_codes(codes, [*found.names, others]).remove_unused_categories()


def palette(n: int) -> list[str]:
    """``n`` colours: Okabe & Ito while they last, then even steps of viridis (ordered layers stay ordered)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    return [to_hex(c) for c in colormaps["viridis"](np.linspace(0, 1, n))]


def colors_of(adata: AnnData, groupby: str) -> dict[str, str]:
    """Colour of each category of a column by name: the user's where ``uns`` has them, else our own."""
    # uns has a colour for every category of the column, words that mean missing and unused ones included
    categories = [label_text(c) for c in obs_column(adata, groupby).astype("category").cat.categories]
    stored = adata.uns.get(f"{groupby}_colors")
    colors = list(map(str, stored)) if stored is not None and len(stored) >= len(categories) else None
    return dict(zip(categories, colors or palette(len(categories)), strict=False))


def chosen(names: Sequence[str] | str | None, concepts: ConceptSet) -> list[int]:
    """Positions of the concepts asked for, by true name or safe label; all for `None`."""
    if names is None:
        return list(range(len(concepts.names)))
    return [concepts.index(name) for name in as_names(names)]
