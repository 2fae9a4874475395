"""`stc.tl.saliency_map`: spots x genes of one concept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.origins import refuse_inside
from st_concepts._counts.store import LayerWriter, open_layer, refuse_existing
from st_concepts._distributed import size as n_processes
from st_concepts._files import expanded
from st_concepts._names import as_names, check_filled, unknown_name
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS, MAP_SLOTS, concept_slot, saliency_layer
from st_concepts.attribution import Baseline, Explained, Method, Options, get_method
from st_concepts.tl._maps import PARTS, Maps, Part
from st_concepts.tl._saliency import parameters

MEMORY_BUDGET = 2 * 2**30


@writes
def saliency_map(
    adata: AnnData,
    model: Any,
    *,
    concept: str,
    genes: Sequence[str] | str,
    method: str | Method = "integrated_gradients",
    baseline: Baseline = "others",
    options: Options | None = None,
    part: Part = "both",
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    key_added: str | None = None,
    memory_budget: int = MEMORY_BUDGET,
    store: str | os.PathLike[str] | None = None,
    copy: bool = False,
) -> Result:
    """Attribution of chosen genes to one concept score, spot by spot.

    Parameters
    ----------
    adata
        What ``stc.tl.concepts`` wrote into.
    model
        The model that the concepts were made with.
    concept
        Name of the concept.
    genes
        Genes to map, whose columns alone are filled; ``"all"`` for every gene of the model, which may be as large as
        spots times genes.
    method, baseline, options, layer, concepts_key
        As in `saliency`.
    part
        Of concepts that see the surroundings of a spot: ``"own"``, what a gene in the spot says for the spot;
        ``"surroundings"``, what the gene around the spot says for it; ``"both"``, their sum. Concepts that see the spot
        alone have their own part only, which then is the sum.
    key_added
        Layer to write; ``"concept_saliency_<concept>"`` by default, ``"concept_own_saliency_<concept>"`` and
        ``"concept_context_saliency_<concept>"`` for one part; ``"seeds_saliency_<concept>"`` and so on for concepts
        that are kept under ``concepts_key="seeds"``.
    memory_budget
        Bytes that the layer may take in memory; with the surroundings, also those of the genes that are averaged at a
        time: the spots are gone through once for each such block.
    store
        Path of a zarr store to write the layer to, batch by batch, in place of memory. It must not exist yet; inside,
        the layer has its own name, in anndata's encoding.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``layers["concept_saliency_<concept>"]``
        float32 ``(n_obs, n_vars)``, in units of the concept score; draw it with
        ``sq.pl.spatial_scatter(adata, color=genes, layer=...)`` or ``stc.pl.saliency_map``. CSR for chosen genes, and
        for all genes where the method multiplies sparse features (gradient x input, epsilon-LRP, baseline
        ``"zero"``), dense otherwise. With ``store``, a dask array that reads from there. With the surroundings all
        genes are dense, in a ``store`` chosen genes, too.
    ``uns["concept_saliency_<concept>"]``
        dict: parameters and the part; for methods with a baseline, mean over the spots of score difference and, where
        it is defined, attribution sum over all genes.

    Raises
    ------
    KeyError
        Unknown concept or gene.
    ValueError
        Unknown method or part; surroundings of concepts that see none; concepts of another model; no gene; the layer
        would exceed ``memory_budget`` and no ``store`` is given; a ``store`` where several processes compute together.
    FileExistsError
        ``store`` exists.

    Warns
    -----
    UserWarning
        The concepts see the surroundings, and these are not known here: what is read in the spots alone is explained.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.saliency_map(adata, model, concept="GCL", genes=adata.var_names[:2])
    >>> adata.layers["concept_saliency_GCL"].shape
    (200, 150)
    """
    store = None if store is None else expanded(store)
    if store is not None and n_processes() > 1:
        raise ValueError(
            f"store= cannot be written by {n_processes()} processes together; map genes in a run of one process."
        )
    if part not in PARTS:
        raise ValueError(f"part={part!r} is unknown; choose one of: {', '.join(map(repr, PARTS))}.")
    check_filled(genes=genes)
    section = Explained.read(adata, model, layer=layer, key=concepts_key)
    record, options = get_method(method), options or Options()
    j = section.concepts.index(concept)
    in_model, in_data = _columns(section, genes)
    name = key_added or saliency_layer(section.concepts.labels[j], concept_slot(MAP_SLOTS[part], concepts_key))
    # what is averaged over neighbours comes column by column, and a CSR store takes rows
    wide = (isinstance(genes, str) and genes == "all") or (
        store is not None and section.around is not None and part != "own"
    )
    maps = Maps(section, record, j, in_model, in_data, baseline, options, part, keep_dense=wide)
    if store is not None:
        refuse_existing(store)
        refuse_inside(adata, store, "store")
    elif (size := maps.size()) > memory_budget:
        raise ValueError(
            f"The saliency of {len(in_model)} genes at {adata.n_obs} spots takes {_readable(size)}, more than "
            f"memory_budget={_readable(memory_budget)}. Pass store='{name}.zarr' to write it there batch by batch, map "
            "fewer genes, or raise memory_budget."
        )
    if store is None:
        values = maps.layer(memory_budget)
    else:
        with LayerWriter(store, name, adata.shape, sparse=not maps.dense) as writer:
            maps.write(writer, memory_budget)
        values = open_layer(store, name)
    params = parameters(section, record, baseline, options, maps.path)
    report = {"params": params, "concept": section.concepts.names[j], "part": maps.part} | maps.report()
    return Result(layers={name: values}, uns={name: report})


def _columns(section: Explained, genes: Sequence[str] | str) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the genes in the model and in the data, in the order of the data."""
    have, names = section.encoder.var_names, section.adata.var_names.astype(str)
    if genes is None:
        raise ValueError("Name the genes to map, or pass genes='all' for every gene of the model.")
    if isinstance(genes, str) and genes == "all":
        in_model = have.get_indexer(names)
        in_data = np.flatnonzero(in_model >= 0)
        return in_model[in_data], in_data
    wanted = pd.Index(as_names(genes)).unique()
    if not len(wanted):
        raise ValueError("genes is empty; name at least one gene.")
    in_model, in_data = have.get_indexer(wanted), names.get_indexer(wanted)
    for index, where in ((in_data, "adata.var_names"), (in_model, "the model")):
        if (index < 0).any():
            unknown, there = wanted[index < 0], names if where == "adata.var_names" else have
            raise KeyError(
                f"Genes that are not in {where}: {', '.join(unknown[:5])}; {unknown_name(unknown[0], there)}"
            )
    order = np.argsort(in_data)
    return in_model[order], in_data[order]


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
