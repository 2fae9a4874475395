"""Annotation, concept scores and saliency on the tissue, drawn by squidpy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.rows import as_csr
from st_concepts._names import as_names, unknown_name
from st_concepts._slots import KEYS, MAP_SLOTS, concept_slot, saliency_layer
from st_concepts.concepts import ConceptSet, read_concepts
from st_concepts.get import concept_scores as get_scores
from st_concepts.pl._groups import chosen, colors_of, shown_labels
from st_concepts.pl._tissue import draw, end_of, symmetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NA_COLOR = "#bdbdbd"
_MOST_PANELS = 12
# what the title of a map ends in
_WHERE = {"both": "", "own": ", in the spot", "surroundings": ", around the spot"}


def annotation(
    adata: AnnData,
    groupby: str | None = None,
    *,
    section_key: str | None = None,
    library_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
    **kwargs: Any,
) -> Axes | list[Axes]:
    """Draw the annotated layers on the tissue, categories in their own order.

    Parameters
    ----------
    adata
        A section; only read. Colours come from ``uns[groupby + "_colors"]`` where they are there.
    groupby
        Column of ``adata.obs``; by default the one that the concepts were made of.
    section_key, library_key, ax, show, save, **kwargs
        As in `concept_scores`.

    Returns
    -------
    The axes; a list where there are several sections.

    Raises
    ------
    KeyError
        No such column, no coordinates.

    Examples
    --------
    >>> import st_concepts as stc
    >>> stc.pl.annotation(stc.datasets.simulated_bulb(n_obs=100), "layer", show=False).get_title()
    'layer'
    """
    if groupby is None:
        groupby = read_concepts(adata).groupby
        if not groupby:
            raise KeyError("The concepts were not made of a column of adata.obs: name one with groupby=.")
    labels = pd.Series(shown_labels(adata, groupby).values, index=adata.obs_names)
    colors = [colors_of(adata, groupby)[c] for c in labels.cat.categories]
    from matplotlib.colors import ListedColormap

    options = {"palette": ListedColormap(colors), "legend_fontweight": "normal", "na_color": _NA_COLOR} | kwargs
    # missing labels are not a class: the spots stay grey and out of the legend
    options.setdefault("legend_na", bool(labels.isna().any()))
    return draw(
        adata,
        [labels],
        [groupby],
        [options],
        unit="",
        ncols=4,
        width=6.4,
        section_key=section_key,
        library_key=library_key,
        ax=ax,
        show=show,
        save=save,
        name="annotation.png",
    )


def concept_scores(
    adata: AnnData,
    concepts: Sequence[str] | str | None = None,
    *,
    key: str = KEYS.CONCEPTS,
    cmap: str = "RdBu_r",
    ncols: int = 3,
    section_key: str | None = None,
    library_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
    **kwargs: Any,
) -> Axes | list[Axes]:
    """Draw concept scores on the tissue, one panel a concept, on the H&E image where there is one.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.concepts` or `st_concepts.tl.score_concepts`; only read.
    concepts
        Names of the concepts; by default all.
    key
        Entry of ``uns`` that holds the concepts.
    cmap
        Diverging colour map; its middle is the mean score, its ends the 99th percentile of absolute scores.
    ncols
        Panels a row; of several sections up to twice as many, where a section then fits one row.
    section_key
        Column of ``adata.obs`` with the section of each spot; a section has a row of panels, on the image of
        ``uns["spatial"]`` that is called like it. By default the key that was given for the markers, that of the
        model, or ``section``, ``library_id`` or ``sample``, those first that agree with the images.
    library_key
        The same, by squidpy's name.
    ax
        Axes to draw on, one per panel, section after section, instead of a new figure.
    show
        Show the figure; by default ``scanpy.settings.autoshow``, unless it is saved or drawn on ``ax``.
    save
        Path to write the picture to; `True` for a file in ``scanpy.settings.figdir``.
    **kwargs
        Passed to ``squidpy.pl.spatial_scatter`` (``size``, ``img_alpha``, ``crop_coord``, ``norm``, ...).

    Returns
    -------
    The axes; a list where there are several panels.

    Raises
    ------
    KeyError
        No concepts, no such concept, no scores, no coordinates in ``obsm["spatial"]``.
    ValueError
        As many axes as panels are needed; coordinates that cannot be; several images or stacked sections, and no
        column that says which spot is where.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> [ax.get_title() for ax in stc.pl.concept_scores(adata, ["ONL", "GCL"], show=False)]
    ['ONL', 'GCL']
    """
    made = read_concepts(adata, key)
    frame = get_scores(adata, key=key)
    picked = chosen(concepts, made)
    values = [frame.iloc[:, j] for j in picked]
    return draw(
        adata,
        values,
        [made.names[j] for j in picked],
        [{"cmap": cmap, "norm": symmetric(v)} | kwargs for v in values],
        concepts_key=key,
        unit="concept score (s.d.)",
        ncols=ncols,
        section_key=section_key,
        library_key=library_key,
        ax=ax,
        show=show,
        save=save,
        name="concept_scores.png",
    )


def saliency_map(
    adata: AnnData,
    genes: Sequence[str] | str | None = None,
    concept: str | None = None,
    *,
    part: str | Sequence[str] = "both",
    key: str = KEYS.CONCEPTS,
    layer: str | None = None,
    cmap: str = "BrBG_r",
    ncols: int = 3,
    section_key: str | None = None,
    library_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
    **kwargs: Any,
) -> Axes | list[Axes]:
    """Draw where a gene speaks for or against a concept: its saliency, spot by spot, one panel a gene (and part).

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.saliency_map`; only read.
    genes
        Genes to draw; by default those that were mapped, at most twelve, the strongest first.
    concept
        Name of the concept; may be left out where one concept alone has a map.
    part
        ``"both"``, ``"own"`` or ``"surroundings"``, as in `st_concepts.tl.saliency_map`, which makes them; several,
        such as ``["own", "surroundings"]``, are drawn beside each other with the colours of the strongest.
    key
        Entry of ``uns`` that holds the concepts.
    layer
        Layer that holds the map; by default that of ``part``, ``"concept_saliency_<concept>"`` for ``"both"``.
    cmap
        Diverging colour map around 0; its ends are the 99th percentile of absolute saliency.
    ncols, section_key, library_key, ax, show, save, **kwargs
        As in `concept_scores`.

    Returns
    -------
    The axes; a list where there are several panels.

    Raises
    ------
    KeyError
        No such concept, layer or gene.
    ValueError
        A gene was not mapped; an unknown part; several parts of one ``layer``.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> gene = adata.var_names[0]
    >>> stc.tl.saliency_map(adata, model, concept="GCL", genes=[gene])
    >>> stc.pl.saliency_map(adata, concept="GCL", genes=gene, show=False).get_title() == f"{gene} for GCL"
    True
    """
    made = read_concepts(adata, key)
    parts = _asked_parts(part, layer)
    j = _mapped_concept(adata, made, key, parts[0]) if concept is None else made.index(concept)
    maps = {p: sp.csc_matrix(as_csr(_mapped_layer(adata, made, j, key, p, layer))) for p in parts}
    filled = np.sum([np.asarray(abs(m).sum(0)).ravel() for m in maps.values()], axis=0)
    if genes is not None:
        index = _mapped_genes(adata, as_names(genes), filled, made.names[j])
    else:
        index = np.flatnonzero(filled)
        index = index[np.argsort(-filled[index], kind="stable")][: max(1, _MOST_PANELS // len(parts))]
        if not index.size:
            raise ValueError(
                f"The map of {made.names[j]!r} is zero everywhere; map some genes with stc.tl.saliency_map."
            )
    values = {
        (i, p): pd.Series(m[:, i].toarray().ravel(), index=adata.obs_names) for i in index for p, m in maps.items()
    }
    norms = {i: symmetric(max((values[i, p] for p in parts), key=end_of)) for i in index}
    return draw(
        adata,
        list(values.values()),
        [f"{adata.var_names[i]} for {made.names[j]}{_WHERE[p]}" for i, p in values],
        [{"cmap": cmap, "norm": norms[i]} | kwargs for i, _ in values],
        concepts_key=key,
        unit="saliency (units of the score)",
        ncols=ncols if len(parts) == 1 else len(parts),
        section_key=section_key,
        library_key=library_key,
        ax=ax,
        show=show,
        save=save,
        name=f"saliency_map_{made.labels[j]}.png",
    )


def _asked_parts(part: str | Sequence[str], layer: str | None) -> list[str]:
    parts = as_names(part)
    if unknown := [p for p in parts if p not in MAP_SLOTS]:
        raise ValueError(f"part={unknown[0]!r} is unknown; choose one of: {', '.join(map(repr, MAP_SLOTS))}.")
    if not parts or (len(parts) > 1 and layer is not None):
        raise ValueError("Name a part; of one layer= only one can be drawn.")
    return list(dict.fromkeys(parts))


def _mapped_layer(adata: AnnData, made: ConceptSet, j: int, key: str, part: str, layer: str | None) -> Any:
    layer = layer or saliency_layer(made.labels[j], concept_slot(MAP_SLOTS[part], key))
    if layer not in adata.layers:
        how = "" if part == "both" else f", part={part!r}"
        raise KeyError(
            f"adata.layers[{layer!r}] is missing: run "
            f"stc.tl.saliency_map(adata, model, concept={made.names[j]!r}, genes=[...]{how}) first."
        )
    return adata.layers[layer]


def _mapped_concept(adata: AnnData, made: ConceptSet, key: str, part: str) -> int:
    """The one concept that has a map, where none was named."""
    slot = concept_slot(MAP_SLOTS[part], key)
    mapped = [j for j, label in enumerate(made.labels) if saliency_layer(label, slot) in adata.layers]
    if len(mapped) != 1:
        have = ", ".join(made.names[j] for j in mapped) or "none yet"
        raise ValueError(f"Name the concept whose map is drawn: concept=...; there are maps of: {have}.")
    return mapped[0]


def _mapped_genes(adata: AnnData, genes: list[str], filled: np.ndarray, concept: str) -> np.ndarray:
    """Columns of the genes asked for, all of which have a map."""
    index = adata.var_names.astype(str).get_indexer(genes)
    if missing := [gene for gene, i in zip(genes, index, strict=True) if i < 0]:
        raise KeyError(
            f"Genes that are not in adata.var_names: {', '.join(missing[:5])}; "
            f"{unknown_name(missing[0], adata.var_names)}"
        )
    if empty := [gene for gene, i in zip(genes, index, strict=True) if filled[i] == 0]:
        raise ValueError(
            f"The saliency of {', '.join(empty[:5])} for {concept} was not computed (or is zero everywhere): "
            f"run stc.tl.saliency_map(adata, model, concept={concept!r}, genes={empty[:5]!r})."
        )
    return index
