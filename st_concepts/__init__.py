"""Concept saliency for spatial transcriptomics: AnnData in, AnnData out."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> module that holds it; imported on first use so that `import st_concepts` stays fast
_SUBMODULES = (
    "attribution",
    "concepts",
    "datasets",
    "evaluate",
    "get",
    "io",
    "models",
    "pl",
    "pp",
    "report",
    "stats",
    "tl",
)
_NAMES = {"SpotVAE": "models", "GeneVAE": "models", "from_scvi": "models._scvi"}

__all__ = ["__version__", *_SUBMODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"st_concepts.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"st_concepts.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'st_concepts' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
