"""`stc.tl.gene_concepts`: concepts in the space of genes, and what they look like on the tissue."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.frames import obs_column
from st_concepts._counts.labels import clean_labels
from st_concepts._names import as_names, check_filled
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS, safe_labels
from st_concepts.concepts import (
    GeneConcept,
    asked_for,
    check_names,
    latent_correlation,
    layer_loading,
    make_gene_concept,
)
from st_concepts.models import GeneVAE
from st_concepts.stats import fdr_bh


@writes
def gene_concepts(
    adata: AnnData,
    model: GeneVAE,
    seeds: Sequence[str] | Mapping[str, Sequence[str]] | str | None = None,
    *,
    groupby: str | None = None,
    groups: Sequence[str] | str | None = None,
    missing: Sequence[str] | str | None = None,
    n_top: int = 50,
    min_spots: int = 10,
    layer: str | None = None,
    key_added: str = KEYS.GENE_CONCEPTS,
    pattern_key: str = KEYS.PATTERN,
    copy: bool = False,
) -> Result:
    """Find genes like a seed gene, or of a layer, in latent space, and decode what they have in common.

    A concept vector is the mean latent vector of ``n_top`` genes: those whose latent vectors correlate best with that
    of the seed (Brocki & Chung 2019), or those whose images correlate best with an annotated layer. Decoded, it is a
    picture of the concept over the section.

    Parameters
    ----------
    adata
        The section that ``model`` was made with.
    model
        A fitted `GeneVAE`.
    seeds
        Seed genes: each becomes a concept ``"<gene>-like"``; or name sets of genes, whose mean latent vector is the
        seed: ``{"granule": ["Penk", "Pcp4"]}``.
    groupby
        Column of ``adata.obs`` with layers, each of which becomes a concept too; missing values are allowed.
    groups
        Labels of ``groupby`` to use; by default all.
    missing
        Words of ``groupby`` that mean missing, in place of `st_concepts.io.MISSING`.
    n_top
        Genes a concept.
    min_spots
        Genes seen in fewer spots are not ranked (seeds always are): their images are noise.
    layer
        Layer with the counts; by default that of the model.
    key_added, pattern_key
        Where to write.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``uns["gene_concepts"]``
        dict: ``names``, ``labels`` (safe in slots), ``vectors`` float32 (concepts x n_latent), ``genes`` (array of the
        ``n_top`` genes by label), ``tables`` (DataFrame of all ranked genes by label: ``names``, ``r``, ``pvals``,
        ``pvals_adj``, ``score`` = vector . mu(gene)), ``model`` (fingerprint), ``params`` (raster among them).
        For seeds, ``pvals`` are of a Pearson correlation across latent dimensions; for layers, across pixels taken as
        independent, which they are not: no test.
    ``obsm["concept_pattern"]``
        float32 DataFrame, spots x concepts: the decoded concept, 0 to 1 (the maximum of a gene).

    Raises
    ------
    KeyError
        Unknown seed gene, column or group.
    ValueError
        Neither seeds nor ``groupby``; a seed without counts; fewer genes than ``n_top``; another section.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=120, n_vars=150, n_markers=10, seed=0)
    >>> model = stc.GeneVAE(adata, n_latent=5).fit(max_epochs=1, progress=False)
    >>> stc.tl.gene_concepts(adata, model, groupby="layer", n_top=8)
    >>> adata.obsm["concept_pattern"].shape
    (120, 5)
    """
    check_gene_model(model, "tl.gene_concepts", "tl.concepts")
    check_filled(seeds=seeds, groups=groups)
    if n_top < 1:
        raise ValueError(f"n_top={n_top} must be at least 1.")
    sets = _seed_sets(seeds, adata.var_names)
    if not sets and groupby is None:
        raise ValueError("Give seeds=[...] (genes), groupby=... (a column of adata.obs), or both.")
    latent = model.embed(adata=adata, layer=layer)
    seen = model.seen_in(adata, layer=layer)
    usable = seen >= min_spots
    made: list[GeneConcept] = []
    for name, genes in sets.items():
        index = adata.var_names.get_indexer(genes)
        if (seen[index] == 0).any():
            empty = genes[int(np.flatnonzero(seen[index] == 0)[0])]
            raise ValueError(f"Seed gene {empty!r} has no counts in this section; choose another.")
        r, p = latent_correlation(latent, latent[index].mean(0))
        made.append(make_gene_concept(name, latent, r, p, usable=usable, n_top=n_top, always=index))
    if groupby is not None:
        made += _of_layers(adata, model, layer, latent, usable, groupby, groups, missing, n_top)

    names = check_names([c.name for c in made])
    labels = safe_labels(names)
    vectors = np.stack([c.vector for c in made]).astype(np.float32)
    pattern = model.to_spots(model.decode(vectors), adata).astype(np.float32)
    stored = {
        "names": np.array(names, dtype=object),
        "labels": np.array(labels, dtype=object),
        "vectors": vectors,
        "genes": {k: adata.var_names[c.members].to_numpy(dtype=object) for k, c in zip(labels, made, strict=True)},
        "tables": {k: _table(c, adata.var_names, latent) for k, c in zip(labels, made, strict=True)},
        "model": model.fingerprint,
        "params": {
            "n_top": n_top,
            "min_spots": min_spots,
            "groupby": groupby or "",
            "layer": layer or "",
            "raster": model.raster.report(),
        },
    }
    frame = pd.DataFrame(pattern, index=adata.obs_names, columns=labels)
    return Result(obsm={pattern_key: frame}, uns={key_added: stored})


def check_gene_model(model: Any, what: str, for_spots: str) -> None:
    """Raise `TypeError` for anything but a `GeneVAE`."""
    if type(model).__name__ != GeneVAE.__name__:
        raise TypeError(
            f"stc.{what} needs a GeneVAE, not {type(model).__name__}; for models of spots use stc.{for_spots}."
        )


def _seed_sets(seeds: Any, var_names: pd.Index) -> dict[str, list[str]]:
    if seeds is None:
        return {}
    if isinstance(seeds, Mapping):
        sets = {str(k): as_names(v) for k, v in seeds.items()}
    else:
        sets = {f"{g}-like": [g] for g in as_names(seeds)}
    for name, genes in sets.items():
        unknown = [g for g in genes if g not in var_names]
        if unknown or not genes:
            raise KeyError(f"Seed genes of {name!r} that adata does not have: {', '.join(unknown) or 'no gene given'}.")
    return sets


def _of_layers(
    adata: AnnData,
    model: GeneVAE,
    layer: str | None,
    latent: np.ndarray,
    usable: np.ndarray,
    groupby: str,
    groups: Sequence[str] | str | None,
    missing: Sequence[str] | str | None,
    n_top: int,
) -> list[GeneConcept]:
    where = f"adata.obs[{groupby!r}]"
    wanted = [] if groups is None else asked_for(groups, "rest")
    labels = clean_labels(
        obs_column(adata, groupby), missing=missing, keep=wanted, where=where, names_allowed=groups is not None
    )
    for remark in labels.said() if missing is None else labels.remarks:
        warnings.warn(f"{where}: {remark}.", UserWarning, stacklevel=callers_level())
    have = labels.names
    wanted = have if groups is None else wanted
    if unknown := [g for g in wanted if g not in have]:
        raise KeyError(
            f"No spot of adata.obs[{groupby!r}] is labelled {', '.join(unknown)}; there are {', '.join(have)}."
        )
    if len(have) < 2:
        raise ValueError(
            f"adata.obs[{groupby!r}] has one label only ({have[0]!r}); a layer needs others to differ from."
            if have
            else f"Every spot is unlabelled in {groupby!r}: nothing defines a concept."
        )
    # on spots, since a pixel may hold spots of two layers
    images = model.spot_images(adata, layer=layer)
    made = []
    for name in wanted:
        r, p = layer_loading(images, labels.codes == have.index(name), labels.codes >= 0)
        made.append(make_gene_concept(name, latent, r, p, usable=usable, n_top=n_top))
    return made


def _table(concept: GeneConcept, var_names: pd.Index, latent: np.ndarray) -> pd.DataFrame:
    order = concept.order
    return pd.DataFrame(
        {
            "names": var_names[order].to_numpy(dtype=object),
            "r": concept.r[order],
            "pvals": concept.pvals[order],
            "pvals_adj": fdr_bh(concept.pvals[order]),
            "score": latent[order].astype(np.float64) @ concept.vector,
        },
        index=pd.RangeIndex(len(order)).astype(str),
    )
