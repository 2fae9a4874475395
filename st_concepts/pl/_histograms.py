"""How well a concept score tells its spots from the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from st_concepts._slots import KEYS
from st_concepts.concepts import read_concepts
from st_concepts.get import concept_scores as get_scores
from st_concepts.pl._finish import axes_for, finish
from st_concepts.pl._groups import INSIDE, OUTSIDE, chosen, members_of
from st_concepts.stats import auroc

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def concept_histograms(
    adata: AnnData,
    concepts: Sequence[str] | str | None = None,
    *,
    groupby: str | None = None,
    key: str = KEYS.CONCEPTS,
    bins: int = 30,
    ncols: int = 3,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
) -> Axes | list[Axes]:
    """Draw the distribution of each concept score inside and outside the concept (Brocki & Chung 2019, fig. 2).

    The title gives the AUROC: the probability that a spot of the concept scores higher than another. It is in-sample
    where the same spots defined the concept. Spots without a label are left out.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.concepts` or `st_concepts.tl.score_concepts`; only read.
    concepts
        Names of the concepts; by default all.
    groupby
        Column of ``adata.obs`` with the labels to compare with; by default the spots that defined the concepts. For
        concepts that no labels defined (seed genes, vectors) these are the high-scoring spots, so name a column.
    key
        Entry of ``uns`` that holds the concepts.
    bins
        Number of bins, the same for both histograms.
    ncols, ax, show, save
        As in `st_concepts.pl.concept_scores`.

    Returns
    -------
    The axes; a list where there are several concepts.

    Raises
    ------
    KeyError
        No concepts, no such concept, no scores, no such column.
    ValueError
        No label is a concept; ``bins`` below 1.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> len(stc.pl.concept_histograms(adata, show=False))
    5
    """
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1.")
    made = read_concepts(adata, key)
    frame = get_scores(adata, key=key)
    picked = chosen(concepts, made)
    found = members_of(adata, made, groupby)
    axes, own = axes_for(ax, len(picked), ncols=ncols, panel=(3.8, 3.0))
    for panel, j in zip(axes, picked, strict=True):
        score = frame.iloc[:, j].to_numpy(dtype=np.float64)
        inside, outside = score[found.inside[:, j]], score[found.outside[:, j]]
        _histogram(panel, made.names[j], inside, outside, bins)
    finish(axes[0].figure, "concept_histograms.png", show=show, save=save, own=own)
    return axes[0] if len(axes) == 1 else axes


def _histogram(ax: Axes, name: str, inside: np.ndarray, outside: np.ndarray, bins: int) -> None:
    both = np.concatenate([inside, outside])
    if not both.size:
        ax.set_title(f"{name}: no labelled spots")
        return
    edges = np.linspace(both.min(), max(both.max(), both.min() + 1e-6), bins + 1)
    style: dict[str, Any] = {"bins": edges, "density": True, "histtype": "stepfilled", "alpha": 0.45, "linewidth": 1.4}
    # densities, not numbers: a layer of twenty spots must stay visible beside the two hundred others
    for values, label, color in ((outside, "outside", OUTSIDE), (inside, "inside", INSIDE)):
        if values.size:
            ax.hist(values, label=f"{label}: {values.size} spots", facecolor=color, edgecolor=color, **style)
    ax.set_title(name if not (inside.size and outside.size) else f"{name}, AUROC {auroc(inside, outside):.3f}")
    ax.set(xlabel="concept score (s.d.)", ylabel="density")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend above the bars
    ax.legend(frameon=False, fontsize="small", loc="upper center", ncols=2, columnspacing=1.2)
