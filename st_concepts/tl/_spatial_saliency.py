"""`stc.tl.spatial_saliency`: where in the tissue a concept of genes lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import plain
from st_concepts._names import as_names, unknown_name
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS
from st_concepts.attribution import Options, explain, get_method
from st_concepts.models import GeneVAE
from st_concepts.tl._gene_concepts import check_gene_model


@writes
def spatial_saliency(
    adata: AnnData,
    model: GeneVAE,
    concepts: Sequence[str] | str | None = None,
    *,
    method: str = "rectgrad",
    q: float = 95.0,
    options: Options | None = None,
    genes: Sequence[str] | str | None = None,
    per_gene: bool = False,
    layer: str | None = None,
    key: str = KEYS.GENE_CONCEPTS,
    key_added: str = KEYS.SPATIAL_SALIENCY,
    copy: bool = False,
) -> Result:
    """Saliency of concepts of genes over the tissue.

    For a gene with image ``x``, the saliency of a concept ``v`` is the attribution of ``v . mu(x)`` to the pixels of
    ``x``; spots read the value of their pixel. That of the concept is the mean over its genes.

    Parameters
    ----------
    adata
        With the result of `gene_concepts`.
    model
        The `GeneVAE` that it was made with.
    concepts
        Names of concepts; by default all.
    method
        Any method of `st_concepts.attribution.methods_table`; the paper's are ``"rectgrad"`` and ``"guided_backprop"``.
    q
        Percentile of ``"rectgrad"``: 95 in the paper.
    options
        Further settings of the method; ``q`` above wins.
    genes
        Genes to look at in place of the concept's own.
    per_gene
        Also keep the map of each gene.
    layer
        Layer with the counts; by default that of the model.
    key
        Entry of ``uns`` with the concepts.
    key_added
        Where to write.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``obsm["spatial_saliency"]``
        float32 DataFrame, spots x concepts, signed, in units of the score ``v . mu`` per unit of image intensity
        (per image for methods that multiply by it).
    ``obsm["spatial_saliency_<concept>"]``
        With ``per_gene``: float32 DataFrame, spots x genes.
    ``uns["spatial_saliency"]``
        Method and settings.

    Raises
    ------
    KeyError
        No concepts, or no such one; unknown genes.
    ValueError
        The concepts were made with another model (both fingerprints are named), or an unknown method.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=120, n_vars=150, n_markers=10, seed=0)
    >>> model = stc.GeneVAE(adata, n_latent=5).fit(max_epochs=1, progress=False)
    >>> stc.tl.gene_concepts(adata, model, groupby="layer", n_top=8)
    >>> stc.tl.spatial_saliency(adata, model)
    >>> list(adata.obsm["spatial_saliency"])
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL']
    """
    check_gene_model(model, "tl.spatial_saliency", "tl.saliency")
    record = get_method(method)
    settings = replace(options or Options(), q=q)
    stored = _stored(adata, model, key)
    names, labels = [str(n) for n in stored["names"]], [str(n) for n in stored["labels"]]
    chosen = _chosen(concepts, names, labels)

    total: dict[str, np.ndarray] = {}
    single: dict[str, pd.DataFrame] = {}
    for i in chosen:
        members = as_names(stored["genes"][labels[i]] if genes is None else genes)
        found = explain(
            model.encoder,
            model.images(members, adata, layer=layer)[:, None],
            np.asarray(stored["vectors"][i], dtype=np.float64),
            method=record,
            options=settings,
        )
        maps = model.to_spots(np.asarray(found.attributions)[:, 0], adata).astype(np.float32)
        total[labels[i]] = maps.mean(1)
        if per_gene:
            single[labels[i]] = pd.DataFrame(maps, index=adata.obs_names, columns=members)

    frames = {key_added: pd.DataFrame(total, index=adata.obs_names)}
    frames |= {f"{key_added}_{label}": frame for label, frame in single.items()}
    record_of = {
        "method": record.name,
        "options": {k: v for k, v in settings.used_by(record).items() if v is not None},
        "model": model.fingerprint,
        "names": np.array([names[i] for i in chosen], dtype=object),
    }
    return Result(obsm=frames, uns={key_added: record_of})


def _stored(adata: AnnData, model: GeneVAE, key: str) -> Mapping[str, Any]:
    if key not in adata.uns:
        raise KeyError(f"adata.uns[{key!r}] is missing: run stc.tl.gene_concepts(adata, model, seeds=[...]) first.")
    stored = plain(adata.uns[key])
    if stored["model"] != model.fingerprint:
        raise ValueError(
            f"The concepts were made with model {stored['model']}, but model {model.fingerprint} was given. Vectors of "
            "one model mean nothing to another: run stc.tl.gene_concepts with this model, or load the other one."
        )
    return stored


def _chosen(concepts: Sequence[str] | str | None, names: list[str], labels: list[str]) -> list[int]:
    if concepts is None:
        return list(range(len(names)))
    wanted = as_names(concepts)
    index = []
    for name in wanted:
        known = next((k for k in (names, labels) if name in k), None)
        if known is None:
            raise KeyError(f"Concept {name!r} is unknown; {unknown_name(name, names)}")
        index.append(known.index(name))
    return index
