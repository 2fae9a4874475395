"""How models show themselves in a notebook: a small table of what one wants to know before using them."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd

_CURVE = (220, 44)  # pixels
_CURVE_MIN = 3  # fewer points are no curve


class NotebookRepr:
    """Mixin: ``_repr_html_`` from the public attributes of a model, whichever of them it has.

    Examples
    --------
    >>> class Model(NotebookRepr):
    ...     n_latent = 5
    >>> "Latent dimensions" in Model()._repr_html_()
    True
    """

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left;font-weight:normal;opacity:0.7">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in facts(self)
        )
        return f"<div><b>{html.escape(type(self).__name__)}</b><table>{rows}</table>{_curve(held_out(self))}</div>"


def facts(model: Any) -> list[tuple[str, str]]:
    """What there is to say about a model, as name and value; attributes that it lacks are left out."""
    out: list[tuple[str, str]] = []
    config = getattr(model, "_config", {})
    if (genes := getattr(model, "var_names", None)) is not None:
        out.append(("Genes", f"{len(genes)} ({', '.join(map(str, genes[:3]))}{', ...' if len(genes) > 3 else ''})"))
    if (raster := getattr(model, "raster", None)) is not None:
        out.append(("Images", repr(raster)))
    out.append(("Latent dimensions", str(model.n_latent)))
    for name, key in (("Start", "init"), ("Recipe", "recipe"), ("Layer of the counts", "layer"), ("Seed", "seed")):
        if config.get(key) is not None:
            out.append((name, str(config[key])))
    if sections := config.get("sections"):
        shown = ", ".join(map(str, sections[:5]))
        out.append(("Sections", f"{len(sections)} ({shown}{', ...' if len(sections) > 5 else ''})"))
    if getattr(model, "_module", None) is None:
        return [*out, ("State", "not trained: call .fit()")]
    held = held_out(model)
    epochs = max(len(getattr(model, "history", ())) - 1, 0)
    out.append(("State", f"trained, {epochs} epochs" + (f", that of epoch {held.idxmin()} kept" if len(held) else "")))
    if len(held):
        per = "negative log likelihood per spot" if held.name == "validation_nll" else "loss per image"
        out.append((f"Held-out {per}", f"{held.min():.2f} (at the start {held.iloc[0]:.2f})"))
    out.append(("Device", str(model.device)))
    out.append(("Fingerprint", str(model.fingerprint)))
    return out


def held_out(model: Any) -> pd.Series:
    """Held-out loss by epoch; empty where nothing was held out."""
    history = getattr(model, "history", None)
    for name in ("validation_nll", "validation_loss"):
        if history is not None and name in history:
            values = history[name].astype(np.float64)
            return values[np.isfinite(values)]
    return pd.Series(dtype=np.float64)


def _curve(values: pd.Series) -> str:
    """The held-out loss by epoch as a small picture; scripts and style sheets of a notebook cannot break it."""
    if len(values) < _CURVE_MIN:
        return ""
    width, height = _CURVE
    x = (values.index.to_numpy(dtype=np.float64) - values.index[0]) / max(values.index[-1] - values.index[0], 1)
    y = (values.to_numpy() - values.min()) / ((values.max() - values.min()) or 1.0)
    at = [(4 + (width - 8) * a, 4 + (height - 8) * (1 - b)) for a, b in zip(x, y, strict=True)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
    best = at[int(np.argmin(y))]
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="held-out loss by epoch">'
        "<title>held-out loss by epoch; the dot is the state that was kept</title>"
        f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="1.5"/>'
        f'<circle cx="{best[0]:.1f}" cy="{best[1]:.1f}" r="3" fill="#d55e00"/></svg>'
    )
