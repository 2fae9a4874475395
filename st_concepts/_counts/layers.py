"""The layers of an AnnData: from anndata 0.13 on a walk over ``adata.layers`` also meets `None`, which means X."""

from __future__ import annotations

from typing import Any


def layer_names(adata: Any) -> list[str]:
    """Names of the layers, X not among them."""
    return [name for name in adata.layers if name is not None]


def layers_of(adata: Any) -> dict[str, Any]:
    """Layers by name, X not among them."""
    return {name: adata.layers[name] for name in layer_names(adata)}
