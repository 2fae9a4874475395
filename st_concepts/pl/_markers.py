"""Expression of the top genes of every concept, drawn by scanpy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.check import count_matrix
from st_concepts._counts.rows import iter_rows
from st_concepts._slots import KEYS, concept_slot
from st_concepts.concepts import ConceptSet, read_concepts
from st_concepts.get import concept_scores
from st_concepts.get import markers as get_markers
from st_concepts.models import informative
from st_concepts.pl._finish import finish
from st_concepts.pl._groups import chosen, colors_of, members_of, one_group, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["dotplot", "matrixplot", "heatmap"]
_BATCH = 4096


def markers(
    adata: AnnData,
    concepts: Sequence[str] | str | None = None,
    *,
    n: int = 5,
    kind: Kind = "dotplot",
    groupby: str | None = None,
    key: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
    **kwargs: Any,
) -> dict[str, Axes]:
    """Draw the top genes of each concept against the spots of each concept.

    Values are log1p of size-normalised counts, made on a light copy of the genes drawn; a matrix that does not hold
    counts is drawn as it is. By default each gene is scaled from 0 to 1 over the groups; in the heat map values are
    standard deviations from the mean of the gene. Nearly empty spots are left out.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.rank_genes_concepts`; only read.
    concepts
        Names of the concepts whose genes to draw; by default all.
    n
        Genes a concept; a gene that several concepts rank stands with the first.
    kind
        ``"dotplot"``, ``"matrixplot"`` (mean per group) or ``"heatmap"`` (every spot).
    groupby
        Column of ``adata.obs`` with the groups; by default the spots that defined the concepts.
    key, concepts_key
        Entries of ``uns`` that hold the ranking, by default that of the concepts, and the concepts.
    ax
        Axes to draw on; not for ``"heatmap"``.
    show, save
        As in `st_concepts.pl.concept_scores`.
    **kwargs
        Passed to the function of ``scanpy.pl``.

    Returns
    -------
    The axes by name, as scanpy returns them.

    Raises
    ------
    KeyError
        No ranking, no such concept, no such column.
    ValueError
        Unknown ``kind``; ``ax`` for a heat map; ``n`` below 1.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.rank_genes_concepts(adata, null="none")
    >>> "mainplot_ax" in stc.pl.markers(adata, n=3, show=False)
    True
    """
    if kind not in ("dotplot", "matrixplot", "heatmap"):
        raise ValueError(f"kind={kind!r} is unknown; use 'dotplot', 'matrixplot' or 'heatmap'.")
    if kind == "heatmap" and ax is not None:
        raise ValueError("A heat map makes its own axes: leave ax out, or use kind='matrixplot'.")
    made = read_concepts(adata, concepts_key)
    names = [made.names[j] for j in chosen(concepts, made)]
    genes = _genes(adata, names, n, key or concept_slot(KEYS.RANK, concepts_key))
    group = one_group(members_of(adata, made, groupby), concept_scores(adata, key=concepts_key).to_numpy())
    column = groupby or made.groupby
    colors = colors_of(adata, column) if column in adata.obs else {}
    light = _light_copy(adata, [gene for part in genes.values() for gene in part], made, group, colors)

    import scanpy as sc

    options: dict[str, Any] = {"show": False, "groupby": _GROUP}
    if kind == "heatmap":
        values = light.X.toarray()
        spread = values.std(0)
        light.X = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
        options |= {"swap_axes": True, "show_gene_labels": True, "cmap": "RdBu_r", "vmin": -2.5, "vmax": 2.5}
        options["figsize"] = (8.0, 1.5 + 0.19 * light.n_vars)
    else:
        options |= {"standard_scale": "var", "ax": ax, "cmap": "Blues"}
        options["colorbar_title"] = "Log expression,\n0 to 1 per gene" if "standard_scale" not in kwargs else None
        if kind == "dotplot":
            options["size_title"] = "Spots with the gene (%)"
    with warnings.catch_warnings():
        # scanpy groups by categories the way pandas no longer likes
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*(tight_layout|constrained_layout).*", category=UserWarning)
        axes = getattr(sc.pl, kind)(light, genes, **(options | kwargs))
    if kind == "heatmap":
        _label_heatmap(axes)
    figure = next(iter(axes.values())).figure
    finish(figure, f"markers_{kind}.png", show=show, save=save, own=ax is None)
    return axes


_GROUP = "concept"


def _genes(adata: AnnData, names: Sequence[str], n: int, key: str) -> dict[str, list[str]]:
    """Top genes by concept, each gene once."""
    taken: set[str] = set()
    out: dict[str, list[str]] = {}
    for name in names:
        top = [g for g in get_markers(adata, name, n=n, key=key)["names"].astype(str) if g not in taken]
        taken.update(top)
        if top:
            out[name] = top
    return out


def _light_copy(
    adata: AnnData, genes: list[str], made: ConceptSet, group: pd.Categorical, colors: dict[str, str]
) -> AnnData:
    """The genes drawn, log-normalised by the totals of all genes; spots without a group or counts left out."""
    X = count_matrix(adata, made.layer)
    index = adata.var_names.get_indexer(genes)
    values = np.empty((adata.n_obs, len(genes)), dtype=np.float32)
    totals = np.empty(adata.n_obs)
    counts = True
    for rows, block in iter_rows(X, _BATCH):
        counts &= bool((block.data >= 0).all() and (block.data == np.round(block.data)).all())
        totals[rows] = np.asarray(block.sum(1, dtype=np.float64)).ravel()
        values[rows] = block[:, index].toarray()
    keep = group.codes >= 0
    if counts:
        factor = float(made.params.get("target_sum") or np.median(totals[totals > 0])) / np.maximum(totals, 1.0)
        values = np.log1p(values * factor[:, None].astype(np.float32))
        keep &= informative(totals)
    light = AnnData(
        sp.csr_matrix(values[keep]),
        obs=pd.DataFrame({_GROUP: group[keep].remove_unused_categories()}, index=adata.obs_names[keep]),
        var=pd.DataFrame(index=pd.Index(genes)),
    )
    present = list(light.obs[_GROUP].cat.categories)
    light.uns[f"{_GROUP}_colors"] = [
        colors.get(name, c) for name, c in zip(present, palette(len(present)), strict=True)
    ]
    return light


def _label_heatmap(axes: dict[str, Axes]) -> None:
    """Group names upright where there is room, and what the colours mean; scanpy has no argument for either."""
    groups = axes["groupby_ax"]
    groups.set_xlabel("")
    if len(groups.get_xticklabels()) <= 8:
        groups.tick_params(axis="x", rotation=0)
    # the one axes that scanpy does not return is the colour bar
    for bar in set(groups.figure.axes) - set(axes.values()):
        bar.set_ylabel("standard deviations\nfrom the mean of the gene")
