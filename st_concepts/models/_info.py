"""What a model is, in plain values that a result keeps: a report can then name it without the model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import pandas as pd

from st_concepts import __version__
from st_concepts.models._repr import held_out

_MOST_NAMES = 5
_KINDS = {"ScviEncoder": "scvi-tools model"}
_CONFIG = ("n_hidden", "n_layers", "init", "recipe", "layer", "section_key", "seed", "target_sum")
TITLES = {
    "kind": "Kind",
    "n_genes": "Genes",
    "n_latent": "Latent dimensions",
    "n_hidden": "Hidden units",
    "n_layers": "Hidden layers",
    "init": "Start",
    "recipe": "Recipe",
    "layer": "Layer of the counts",
    "section_key": "Column of the sections",
    "sections": "Sections",
    "target_sum": "Counts a spot is scaled to",
    "seed": "Seed",
    "epochs": "Epochs of training",
    "best_epoch": "Epoch that was kept",
    "held_out_nll": "Held-out negative log likelihood per spot",
    "held_out_nll_start": "The same at the start",
    "fingerprint": "Fingerprint",
    "version": "Version of st_concepts",
}


def model_info(model: Any) -> dict[str, Any]:
    """Text, whole numbers and floats that say what an encoder is; what it does not know is left out."""
    config = getattr(model, "_config", None)
    config = {**config, "section_key": config.get("batch_key")} if isinstance(config, Mapping) else {}
    kind = type(model).__name__
    out: dict[str, Any] = {
        "kind": _KINDS.get(kind, kind),
        "n_genes": len(model.var_names),
        "n_latent": int(model.n_latent),
    }
    for key in _CONFIG:
        value = config.get(key)
        if value is not None and value != "":
            out[key] = _plain(value)
    if sections := config.get("sections"):
        shown = ", ".join(map(str, sections[:_MOST_NAMES]))
        out["sections"] = f"{len(sections)} ({shown}{', ...' if len(sections) > _MOST_NAMES else ''})"
    history = getattr(model, "history", None)
    if isinstance(history, pd.DataFrame):
        out["epochs"] = max(len(history) - 1, 0)
        if len(known := held_out(model)) and known.name == "validation_nll":
            out["best_epoch"] = int(known.index[int(known.to_numpy().argmin())])
            out["held_out_nll"] = float(known.min())
            out["held_out_nll_start"] = float(known.iloc[0])
    return out | {"fingerprint": str(model.fingerprint), "version": __version__}


def titled(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `model_info` gave as title and text, in the order of `TITLES`; keys that nobody knows come last."""
    order = [k for k in TITLES if k in info] + [k for k in info if k not in TITLES]
    return [(TITLES.get(k, str(k).replace("_", " ")), _text(info[k])) for k in order]


def _plain(value: Any) -> str | int | float:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else str(value)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
