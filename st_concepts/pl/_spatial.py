"""Annotation, concept scores and saliency on the tissue, drawn by squidpy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.spatial import cKDTree

from st_concepts._keys import KEYS, saliency_layer
from st_concepts.concepts import read_concepts
from st_concepts.get import concept_scores as get_scores
from st_concepts.pl._finish import finish, given_axes, new_axes
from st_concepts.pl._groups import chosen, colors_of, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VALUE = "value"
_NA_COLOR = "#bdbdbd"
_MOST_PANELS = 12
PANEL_WIDTH = 4.6  # inches, colour bar included


def annotation(
    adata: AnnData,
    groupby: str | None = None,
    *,
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
    library_key, ax, show, save, **kwargs
        As in `concept_scores`.

    Returns
    -------
    The axes; a list where there are several libraries.

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
        groupby = str(read_concepts(adata).params.get("groupby") or "")
        if not groupby:
            raise KeyError("The concepts were not made of a column of adata.obs: name one with groupby=.")
    labels = column(adata, groupby).astype("category").cat.remove_unused_categories()
    labels = labels.cat.rename_categories([str(c) for c in labels.cat.categories])
    colors = [colors_of(adata, groupby)[c] for c in labels.cat.categories]
    from matplotlib.colors import ListedColormap

    options = {"palette": ListedColormap(colors), "legend_fontweight": "normal", "na_color": _NA_COLOR} | kwargs
    # missing labels are not a class: the spots stay grey and out of the legend
    options.setdefault("legend_na", bool(labels.isna().any()))
    return _draw(
        adata,
        [labels],
        [groupby],
        [options],
        unit="",
        ncols=4,
        width=6.4,
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
        Panels a row.
    library_key
        Column of ``adata.obs`` that says which image of ``uns["spatial"]`` a spot is on; needed for several images
        unless it is called ``"section"``.
    ax
        Axes to draw on, one per panel, instead of a new figure.
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
        As many axes as panels are needed; several images and no ``library_key``.

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
    picked = chosen(list(concepts) if concepts is not None and not isinstance(concepts, str) else concepts, made)
    values = [frame.iloc[:, j] for j in picked]
    return _draw(
        adata,
        values,
        [made.names[j] for j in picked],
        [{"cmap": cmap, "norm": _symmetric(v)} | kwargs for v in values],
        unit="concept score",
        ncols=ncols,
        library_key=library_key,
        ax=ax,
        show=show,
        save=save,
        name="concept_scores.png",
    )


def saliency_map(
    adata: AnnData,
    *,
    concept: str,
    genes: Sequence[str] | str | None = None,
    key: str = KEYS.CONCEPTS,
    layer: str | None = None,
    cmap: str = "BrBG_r",
    ncols: int = 3,
    library_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
    **kwargs: Any,
) -> Axes | list[Axes]:
    """Draw where a gene speaks for or against a concept: its saliency, spot by spot, one panel a gene.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.saliency_map`; only read.
    concept
        Name of the concept.
    genes
        Genes to draw; by default those that were mapped, at most twelve, the strongest first.
    key
        Entry of ``uns`` that holds the concepts.
    layer
        Layer that holds the map; by default ``"concept_saliency_<concept>"``.
    cmap
        Diverging colour map around 0; its ends are the 99th percentile of absolute saliency.
    ncols, library_key, ax, show, save, **kwargs
        As in `concept_scores`.

    Returns
    -------
    The axes; a list where there are several panels.

    Raises
    ------
    KeyError
        No such concept, layer or gene.
    ValueError
        A gene was not mapped.

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
    j = made.index(concept)
    layer = layer or saliency_layer(made.labels[j])
    if layer not in adata.layers:
        raise KeyError(
            f"adata.layers[{layer!r}] is missing: run "
            f"stc.tl.saliency_map(adata, model, concept={made.names[j]!r}, genes=[...]) first."
        )
    map_ = sp.csc_matrix(adata.layers[layer])
    filled = np.asarray(abs(map_).sum(0)).ravel()
    if genes is None:
        index = np.flatnonzero(filled)
        index = index[np.argsort(-filled[index], kind="stable")][:_MOST_PANELS]
        if not index.size:
            raise ValueError(f"adata.layers[{layer!r}] is zero everywhere; map some genes with stc.tl.saliency_map.")
    else:
        wanted = [genes] if isinstance(genes, str) else list(genes)
        index = adata.var_names.get_indexer(wanted)
        missing = [gene for gene, i in zip(wanted, index, strict=True) if i < 0]
        if missing:
            raise KeyError(f"Genes that are not in adata.var_names: {', '.join(missing[:5])}.")
        empty = [gene for gene, i in zip(wanted, index, strict=True) if filled[i] == 0]
        if empty:
            raise ValueError(
                f"The saliency of {', '.join(empty[:5])} for {made.names[j]} was not computed (or is zero everywhere): "
                f"run stc.tl.saliency_map(adata, model, concept={made.names[j]!r}, genes={empty[:5]!r})."
            )
    values = [pd.Series(map_[:, i].toarray().ravel(), index=adata.obs_names) for i in index]
    return _draw(
        adata,
        values,
        [f"{adata.var_names[i]} for {made.names[j]}" for i in index],
        [{"cmap": cmap, "norm": _symmetric(v)} | kwargs for v in values],
        unit="saliency (units of the score)",
        ncols=ncols,
        library_key=library_key,
        ax=ax,
        show=show,
        save=save,
        name=f"saliency_map_{made.labels[j]}.png",
    )


def _draw(
    adata: AnnData,
    values: list[pd.Series],
    titles: list[str],
    options: list[dict[str, Any]],
    *,
    unit: str,
    ncols: int,
    width: float = PANEL_WIDTH,
    library_key: str | None,
    ax: Axes | Sequence[Axes] | None,
    show: bool | None,
    save: str | os.PathLike[str] | bool | None,
    name: str,
) -> Axes | list[Axes]:
    """One panel per value and library, on a light copy that holds nothing but what is drawn."""
    if KEYS.SPATIAL not in adata.obsm:
        raise KeyError(
            f"adata.obsm[{KEYS.SPATIAL!r}] is missing: put the coordinates of the spots there, an (n_obs, 2) array."
        )
    libraries = _libraries(adata, library_key)
    axes = given_axes(ax, len(values) * len(libraries))
    own = axes is None
    if axes is None:
        axes = new_axes(len(values) * len(libraries), ncols=ncols, panel=panel_size(adata, width))
    position = iter(axes)
    for value, title, option in zip(values, titles, options, strict=True):
        for library, rows in libraries:
            label = f"{title}, {library}" if len(libraries) > 1 else title
            _panel(adata, value, rows, library, title=label, unit=unit, ax=next(position), options=option)
    finish(axes[0].figure, name, show=show, save=save, own=own)
    return axes[0] if len(axes) == 1 else axes


def panel_size(adata: AnnData, width: float = PANEL_WIDTH) -> tuple[float, float]:
    """Width and height in inches of a panel that fits the shape of the tissue, its title and its colour bar."""
    extent = np.ptp(np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)[:, :2], axis=0)
    ratio = float(np.clip(extent[1] / extent[0], 0.4, 2.0)) if extent.min() > 0 else 1.0
    return width, (width - 1.2) * ratio + 0.5


def _panel(
    adata: AnnData,
    value: pd.Series,
    rows: np.ndarray,
    library: str | None,
    *,
    title: str,
    unit: str,
    ax: Axes,
    options: dict[str, Any],
) -> None:
    light = AnnData(
        obs=pd.DataFrame({_VALUE: value.to_numpy() if value.dtype != "category" else value.array}, value.index)[rows],
        obsm={KEYS.SPATIAL: np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)[rows, :2]},
    )
    if library is None:
        # any library_id will do without an image; none makes squidpy ask for one
        size = _point_size(light.obsm[KEYS.SPATIAL], ax)
        where: dict[str, Any] = {"shape": None, "size": size, "library_id": ""}
    else:
        stored = adata.uns[KEYS.SPATIAL][library]
        light.uns[KEYS.SPATIAL] = {library: stored}
        images = stored["images"]
        where = {
            "shape": "circle",
            "library_id": library,
            "img_res_key": "hires" if "hires" in images else next(iter(images)),
            "size": 1.3,
        }
    before = set(ax.figure.axes)
    with warnings.catch_warnings():
        # squidpy about its own docstrings, its use of matplotlib, and a colour map it passes with colours
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
        warnings.filterwarnings("ignore", message="No data for colormapping", category=UserWarning)
        import squidpy as sq

        sq.pl.spatial_scatter(light, color=_VALUE, title=title, axis_label="", ax=ax, **(where | options))
    for bar in set(ax.figure.axes) - before:
        bar.set_ylabel(unit)
    ax.set(xlabel="", ylabel="")
    ax.spines[:].set_visible(False)
    if library is not None and options.get("crop_coord") is None:
        factor = float(stored["scalefactors"].get(f"tissue_{where['img_res_key']}_scalef", 1.0))
        _crop(ax, light.obsm[KEYS.SPATIAL] * factor)


def _crop(ax: Axes, pixels: np.ndarray) -> None:
    """Show the part of the image that has spots, with a margin: slides are mostly empty glass."""
    low, high = pixels.min(0), pixels.max(0)
    margin = 0.08 * max(*(high - low), 1.0)
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(high[1] + margin, low[1] - margin)  # pixel rows count downwards


def _libraries(adata: AnnData, library_key: str | None) -> list[tuple[str | None, np.ndarray]]:
    """Images to draw on, each with its rows (boolean); one entry of `None` where there is no image."""
    everything = np.ones(adata.n_obs, dtype=bool)
    stored = adata.uns.get(KEYS.SPATIAL, {})
    with_image = [name for name, entry in stored.items() if isinstance(entry, dict) and entry.get("images")]
    if not with_image:
        return [(None, everything)]
    if len(with_image) == 1 and library_key is None:
        return [(with_image[0], everything)]
    key = library_key or KEYS.BATCH
    if key not in adata.obs:
        raise ValueError(
            f"adata.uns['spatial'] holds {len(with_image)} images and adata.obs has no column {key!r}; name the column "
            "that says on which image a spot is: library_key=."
        )
    sections = adata.obs[key].astype(str).to_numpy()
    unknown = sorted(set(sections) - set(with_image))
    if unknown:
        raise ValueError(
            f"adata.obs[{key!r}] names {unknown[0]!r}, but adata.uns['spatial'] has images of {', '.join(with_image)} "
            "only; name the right column with library_key=."
        )
    return [(name, sections == name) for name in with_image if (sections == name).any()]


def _point_size(spatial: np.ndarray, ax: Axes) -> float:
    """Area of a point, in points squared, such that neighbours nearly touch."""
    box = ax.get_position()
    width, height = ax.figure.get_size_inches() * (box.width, box.height)
    extent = np.ptp(spatial, axis=0)
    extent[extent == 0] = 1.0
    per_inch = max(extent[0] / max(width, 1e-6), extent[1] / max(height, 1e-6))
    some = spatial[:: max(1, len(spatial) // 2000)]
    distance = cKDTree(spatial).query(some, k=2)[0][:, 1] if len(spatial) > 1 else np.ones(1)
    pitch = float(np.median(distance)) / per_inch * 72
    # "." is drawn at half of the nominal diameter
    return float(np.clip((1.7 * pitch) ** 2, 0.5, 600.0))


def _symmetric(values: pd.Series) -> Any:
    """Colours even around zero; one extreme spot must not bleach the rest."""
    from matplotlib.colors import Normalize

    finite = np.abs(values.to_numpy(dtype=np.float64))
    finite = finite[np.isfinite(finite)]
    drawn = finite[finite > 0]
    end = float(np.percentile(drawn, 99)) if drawn.size else 1.0
    return Normalize(vmin=-end, vmax=end)
