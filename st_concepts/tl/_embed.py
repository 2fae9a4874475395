"""`stc.tl.embed`."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from st_concepts._results import Result, writes
from st_concepts._slots import KEYS
from st_concepts.models import Section


@writes
def embed(
    adata: AnnData, model: Any, *, layer: str | None = None, key_added: str = KEYS.LATENT, copy: bool = False
) -> Result:
    """Latent position of each spot.

    Parameters
    ----------
    adata
        Raw counts, ``n_obs`` spots.
    model
        A fitted `SpotVAE`, an scvi-tools model, or any encoder.
    layer
        Layer with the counts; by default that of the model.
    key_added
        Where to write.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes ``adata.obsm[key_added]``, float32 ``(n_obs, n_latent)``: the posterior mean, ready for
    ``sc.pp.neighbors(adata, use_rep="X_stc")``.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.embed(adata, model)
    >>> adata.obsm["X_stc"].shape
    (200, 5)
    """
    return Result(obsm={key_added: Section.open(adata, model, layer=layer).embedding.latent})
