"""Where the spots of a section lie, in latent space and on the tissue: what concepts are made of."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import Sections, sections_of
from st_concepts._slots import KEYS
from st_concepts.concepts._concept_set import ConceptSet
from st_concepts.concepts._seen import ContextOption, Seen
from st_concepts.models import Section, Surroundings


@dataclass(frozen=True)
class Place:
    """Spots of a section with their neighbours.

    Attributes
    ----------
    seen
        The usable spots.
    around
        Neighbours among all spots; `None` where the surroundings play no part.
    sections
        Section of every spot.
    """

    seen: Seen
    around: Surroundings | None
    sections: Sections


def check_context(context: ContextOption) -> None:
    """Raise `ValueError` for what is no width."""
    if context == "auto":
        return
    if isinstance(context, bool | str) or not math.isfinite(context) or context < 0:
        raise ValueError(f"context={context!r} is no width; give 'auto', 0 for the spot alone, or a number such as 10.")


def place_of(section: Section, context: ContextOption, *, section_key: str | None, graph_key: str | None) -> Place:
    """The surroundings are looked for unless ``context`` is 0.

    Raises
    ------
    ValueError, KeyError
        Surroundings were asked for, by a width or a graph, and there are no positions, or such as cannot be.

    Warns
    -----
    UserWarning
        Positions that cannot be used, where nothing was asked for: concepts then see the spot alone.
    """
    adata, usable = section.adata, section.embedding.usable
    latent = section.embedding.latent[usable].astype(np.float64)
    own_key = getattr(section.encoder, "section_key", None)
    wanted = context != "auto" or graph_key is not None
    there = graph_key is not None or KEYS.SPATIAL in adata.obsm
    if context == 0 or not (there or wanted):
        found = sections_of(adata, section_key, model_key=own_key, tested=False, check_stacked=False, warn=False)
        return Place(Seen(latent, usable, sections=found.codes[usable]), None, found)
    try:
        found = sections_of(
            adata, section_key, model_key=own_key, tested=False, check_stacked=graph_key is None, warn=False
        )
        around = Surroundings.of(adata, usable, found.codes, graph_key=graph_key)
    except (KeyError, ValueError) as error:
        if wanted or section_key is not None:
            raise
        warnings.warn(
            f"Concepts see each spot alone, since its surroundings are not known: {error}",
            UserWarning,
            stacklevel=callers_level(),
        )
        found = sections_of(adata, section_key, model_key=own_key, tested=False, check_stacked=False, warn=False)
        return Place(Seen(latent, usable, sections=found.codes[usable]), None, found)
    rows = np.flatnonzero(usable)
    coords = positions(adata)[rows] if KEYS.SPATIAL in adata.obsm else None
    return Place(Seen(latent, usable, around.subset(rows), coords, found.codes[rows]), around, found)


def neighbours(
    section: Section, made: ConceptSet, *, section_key: str | None = None, graph_key: str | None = None
) -> Surroundings | None:
    """Surroundings by which concepts look at the spots of a section, `None` where they look at the spot alone.

    Raises
    ------
    ValueError, KeyError
        As `place_of`.

    Warns
    -----
    UserWarning
        The concepts see the surroundings, and there are no positions.
    """
    if made.context is None:
        return None
    around = place_of(section, "auto", section_key=section_key, graph_key=graph_key).around
    if around is None:
        _warn_alone("there are no positions here")
    return around


def kept_neighbours(section: Section, made: ConceptSet) -> Surroundings | None:
    """The same by the sections and the graph that the concepts were made or scored with, as far as they are there."""
    graph_key, section_key = (str(made.params.get(name) or "") or None for name in ("graph_key", "section_key"))
    if section_key not in section.adata.obs:
        section_key = None
    if made.context is not None and graph_key is not None and graph_key not in section.adata.obsp:
        _warn_alone(f"adata.obsp[{graph_key!r}], by which they know them, is missing here")
        return None
    return neighbours(section, made, section_key=section_key, graph_key=graph_key)


def _warn_alone(why: str) -> None:
    warnings.warn(
        f"These concepts see the surroundings of a spot, and {why}: taken as what they see in the spot alone. Put "
        "coordinates into adata.obsm['spatial'] and run stc.tl.score_concepts.",
        UserWarning,
        stacklevel=callers_level(),
    )
