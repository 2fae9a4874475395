"""Pictures of the tables of `st_concepts.evaluate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from st_concepts._names import as_names, unknown_name
from st_concepts.pl._finish import axes_for, finish
from st_concepts.pl._groups import INSIDE, OUTSIDE, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def faithfulness(
    table: pd.DataFrame,
    concepts: Sequence[str] | str | None = None,
    *,
    ncols: int = 3,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
) -> Axes | list[Axes]:
    """Draw deletion (solid) and insertion (dashed) curves, one panel a concept.

    Parameters
    ----------
    table
        Result of `st_concepts.evaluate.faithfulness`.
    concepts
        Names of the concepts; by default all.
    ncols, ax, show, save
        As in `st_concepts.pl.concept_scores`.

    Returns
    -------
    The axes; a list where there are several concepts. Bands are one standard deviation over the random draws.

    Raises
    ------
    KeyError
        Not such a table, or no such concept in it.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = {"concept": "GCL", "curve": "deletion", "n_genes": [0, 10], "score": [1.0, 0.4], "area": 0.2}
    >>> rows |= {"score_random": [1.0, 0.9], "score_random_sd": [0.0, 0.1]}
    >>> faithfulness(pd.DataFrame(rows), show=False).get_title()
    'GCL, area 0.20'
    """
    _check(table, ("concept", "curve", "n_genes", "score", "score_random", "score_random_sd", "area"), "faithfulness")
    names = _chosen(table, concepts)
    axes, own = axes_for(ax, len(names), ncols=ncols, panel=(3.8, 3.2))
    for panel, name in zip(axes, names, strict=True):
        part = table[table["concept"] == name]
        for curve, line in (("deletion", "-"), ("insertion", "--")):
            rows = part[part["curve"] == curve].sort_values("n_genes")
            if rows.empty:
                continue
            n, random, sd = (rows[c].to_numpy(dtype=float) for c in ("n_genes", "score_random", "score_random_sd"))
            panel.plot(n, rows["score"], line, color=INSIDE, label=f"{curve}, salient genes")
            panel.plot(n, random, line, color=OUTSIDE, label=f"{curve}, random genes")
            panel.fill_between(n, random - sd, random + sd, color=OUTSIDE, alpha=0.25, linewidth=0)
        panel.set(title=f"{name}, area {part['area'].mean():.2f}", xlabel="genes", ylabel="mean concept score")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize="small")
    finish(axes[0].figure, "faithfulness.png", show=show, save=save, own=own)
    return axes[0] if len(axes) == 1 else axes


def randomization(
    table: pd.DataFrame,
    concepts: Sequence[str] | str | None = None,
    *,
    value: str = "spearman",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
) -> Axes:
    """Draw how the rank correlation of saliency falls as layers of the encoder are randomised.

    Parameters
    ----------
    table
        Result of `st_concepts.evaluate.model_randomization`.
    concepts
        Names of the concepts; by default all.
    value
        ``"spearman"`` or ``"spearman_abs"``.
    ax, show, save
        As in `st_concepts.pl.concept_scores`.

    Returns
    -------
    The axes. Points are means over the repeats, bars run from the lowest to the highest.

    Raises
    ------
    KeyError
        Not such a table, or no such concept in it.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = {"concept": "GCL", "layer": ["", "out"], "n_random": [0, 1], "repeat": 0, "spearman": [1.0, 0.1]}
    >>> randomization(pd.DataFrame(rows), show=False).get_ylabel()
    'rank correlation with the model'
    """
    _check(table, ("concept", "layer", "n_random", "repeat", value), "model_randomization")
    names = _chosen(table, concepts)
    (panel,), own = axes_for(ax, 1, ncols=1, panel=(4.6, 3.4))
    layers = list(dict.fromkeys(table["layer"]))
    for name, color in zip(names, palette(len(names)), strict=True):
        found = table[table["concept"] == name].groupby("layer")[value].agg(["mean", "min", "max"]).reindex(layers)
        mean = found["mean"].to_numpy()
        spread = np.abs(found[["min", "max"]].to_numpy().T - mean)
        panel.errorbar(np.arange(len(layers)), mean, yerr=spread, marker="o", capsize=2, color=color, label=name)
    panel.axhline(0, color="0.6", linewidth=0.8)
    cascade = table["n_random"].max() > 1
    ticks = ["none" if not layer else f"+ {layer}" if cascade else layer for layer in layers]
    panel.set_xticks(np.arange(len(layers)), ticks, rotation=30, ha="right")
    of = " of absolute values" if value == "spearman_abs" else ""
    panel.set(xlabel="randomised", ylabel=f"rank correlation{of} with the model")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
    finish(panel.figure, "randomization.png", show=show, save=save, own=own)
    return panel


def stability(
    table: pd.DataFrame,
    concepts: Sequence[str] | str | None = None,
    *,
    value: str = "spearman",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | bool | None = None,
) -> Axes:
    """Draw the agreement of saliency between models, one point a pair.

    Parameters
    ----------
    table
        Result of `st_concepts.evaluate.stability`.
    concepts
        Names of the concepts; by default all.
    value
        ``"spearman"``, ``"spearman_score"`` or ``"overlap"`` (a line marks what random genes would reach).
    ax, show, save
        As in `st_concepts.pl.concept_scores`.

    Returns
    -------
    The axes. Bars are means over the pairs.

    Raises
    ------
    KeyError
        Not such a table, or no such concept in it.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"concept": ["GCL"], "model_a": ["a"], "model_b": ["b"], "spearman": [0.9]})
    >>> [label.get_text() for label in stability(table, show=False).get_xticklabels()]
    ['GCL']
    """
    _check(table, ("concept", "model_a", "model_b", value), "stability")
    names = _chosen(table, concepts)
    (panel,), own = axes_for(ax, 1, ncols=1, panel=(1.2 + 0.7 * len(names), 3.2))
    for x, name in enumerate(names):
        values = table.loc[table["concept"] == name, value].to_numpy(dtype=float)
        # side by side, so that equal values do not hide each other
        panel.plot(x + np.linspace(-0.15, 0.15, len(values) + 2)[1:-1], values, "o", color=INSIDE, markersize=4)
        panel.hlines(np.nanmean(values), x - 0.3, x + 0.3, color=OUTSIDE)
    if value == "overlap" and "expected" in table:
        panel.axhline(table["expected"].mean(), color="0.6", linewidth=0.8, linestyle=":", label="random genes")
        panel.legend(frameon=False, fontsize="small")
    panel.set_xticks(np.arange(len(names)), names)
    labels = {"spearman": "rank correlation of saliency", "spearman_score": "rank correlation of scores"}
    panel.set_ylabel(labels.get(value, "overlap of top genes" if value == "overlap" else value))
    panel.set_ylim(min(0.0, 1.05 * np.nanmin(table[value])), 1.05)
    panel.spines[["top", "right"]].set_visible(False)
    finish(panel.figure, "stability.png", show=show, save=save, own=own)
    return panel


def _check(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [c for c in columns if not isinstance(table, pd.DataFrame) or c not in table]
    if missing:
        raise KeyError(f"The table lacks {', '.join(missing)}; pass what st_concepts.evaluate.{name} returned.")


def _chosen(table: pd.DataFrame, concepts: Sequence[str] | str | None) -> list[str]:
    have = [str(c) for c in dict.fromkeys(table["concept"])]
    if concepts is None:
        return have
    wanted = as_names(concepts)
    for name in wanted:
        if name not in have:
            raise KeyError(f"Concept {name!r} is not in the table; {unknown_name(name, have)}")
    return wanted
