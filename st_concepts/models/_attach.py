"""Data for a model that was read from a file, checked as those that a model is made with."""

from __future__ import annotations

import warnings

import pandas as pd
from anndata import AnnData

from st_concepts._counts.check import align_genes, check_counts
from st_concepts._counts.elsewhere import callers_level, model_layer
from st_concepts._counts.obs import section_names


def check_attached(
    adata: AnnData, var_names: pd.Index, *, layer: str | None, section_key: str | None, sections: list[str]
) -> None:
    """Check that a model of these genes and sections can read ``adata``."""
    if not isinstance(adata, AnnData):
        raise TypeError(f"The second argument of load is an AnnData, not {type(adata).__name__}; devices go by name.")
    align_genes(pd.Index(adata.var_names.astype(str)), var_names)
    check_counts(adata, model_layer(adata, layer, None))
    unknown = [s for s in section_names(adata.obs, section_key) if s not in sections] if sections else []
    if unknown:
        warnings.warn(
            f"adata.obs[{section_key!r}] holds sections that the model was not fitted on ({', '.join(unknown[:5])}); "
            f"the mean of the known ones ({', '.join(sections[:5])}) serves them.",
            UserWarning,
            stacklevel=callers_level(),
        )
