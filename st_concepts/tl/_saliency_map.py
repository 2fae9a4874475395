"""`stc.tl.saliency_map`: spots x genes of one concept."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.kind import is_sparse
from st_concepts._counts.origins import refuse_inside
from st_concepts._counts.store import LayerWriter, open_layer, refuse_existing
from st_concepts._distributed import size as n_processes
from st_concepts._files import expanded
from st_concepts._names import as_names, check_filled, unknown_name
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS, concept_slot, saliency_layer
from st_concepts.attribution import Baseline, Explained, Method, Options, get_method, spot_attributions
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
    key_added
        Layer to write; ``"concept_saliency_<concept>"`` by default, ``"seeds_saliency_<concept>"`` for concepts that
        are kept under ``concepts_key="seeds"``.
    memory_budget
        Bytes that the layer may take in memory.
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
        ``"zero"``), dense otherwise. With ``store``, a dask array that reads from there.
    ``uns["concept_saliency_<concept>"]``
        dict: parameters; for methods with a baseline, mean over the spots of score difference and, where it is defined,
        attribution sum over all genes.

    Raises
    ------
    KeyError
        Unknown concept or gene.
    ValueError
        Unknown method; concepts of another model; no gene; the layer would exceed ``memory_budget`` and no ``store`` is
        given; a ``store`` where several processes compute together.
    FileExistsError
        ``store`` exists.

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
    check_filled(genes=genes)
    section = Explained.read(adata, model, layer=layer, key=concepts_key)
    record, options = get_method(method), options or Options()
    j = section.concepts.index(concept)
    every = isinstance(genes, str) and genes == "all"
    in_model, in_data = _columns(section, genes)
    name = key_added or saliency_layer(section.concepts.labels[j], concept_slot(KEYS.SALIENCY_MAP, concepts_key))
    maps = _Maps(section, record, j, in_model, in_data, baseline, options, keep_dense=every)
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
        held = list(maps)
        values = np.concatenate(held) if maps.dense else sp.vstack(held, format="csr", dtype=np.float32)
    else:
        with LayerWriter(store, name, adata.shape, sparse=not maps.dense) as writer, closing(iter(maps)) as blocks:
            for block in blocks:
                writer.append(block)
        values = open_layer(store, name)
    return Result(layers={name: values}, uns={name: maps.report()})


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


@dataclass
class _Maps:
    """Blocks of rows of the layer, and what is learned on the way."""

    section: Explained
    method: Method
    j: int
    in_model: np.ndarray
    in_data: np.ndarray
    baseline: Baseline
    options: Options
    keep_dense: bool
    _base: np.ndarray | None = None
    _references: Any = None
    _path: str = ""
    _sums: dict[str, list[np.ndarray]] = field(default_factory=lambda: {"score_difference": [], "attribution_sum": []})

    def __post_init__(self) -> None:
        form = self.method.effective_form(self.options)
        if form.needs_references:
            (self._references,) = self.section.references([self.j], self.baseline, self.options.seed)
        elif self.method.needs_baseline:
            self._base = self.section.baselines([self.j], self.baseline)[0]
        at_zero = self._base is None or not self._base[self.in_model].any()
        self.sparse_values = form.zero_stays_zero and at_zero
        self.dense = self.keep_dense and not self.sparse_values

    def size(self) -> int:
        """Bytes that the layer takes at most."""
        n_obs, n_vars = self.section.adata.shape
        if self.dense:
            return 4 * n_obs * n_vars
        entries = n_obs * len(self.in_model)
        if self.sparse_values:
            X = self.section.adata.X if self.section.layer is None else self.section.adata.layers[self.section.layer]
            entries = min(entries, X.nnz) if is_sparse(X) else entries
        return 8 * entries

    def __iter__(self) -> Generator[np.ndarray | sp.csr_matrix, None, None]:
        # one generator for all batches, so that the draws do not begin anew with each of them
        options = replace(self.options, seed=np.random.default_rng(self.options.seed))
        encoder, n_vars = self.section.encoder, self.section.adata.n_vars
        for _, features, _, codes in self.section.batches():
            part = spot_attributions(
                encoder,
                features,
                self.section.concepts.directions[self.j],
                genes=self.in_model,
                method=self.method,
                codes=codes,
                baseline=self._base,
                references=self._references,
                options=options,
            )
            self._path = part.path
            for key, found in self._sums.items():
                if getattr(part, key) is not None:
                    found.append(getattr(part, key))
            if self.dense:
                block = np.zeros((part.values.shape[0], n_vars), dtype=np.float32)
                block[:, self.in_data] = part.values.toarray() if is_sparse(part.values) else part.values
                yield block
                continue
            values = sp.csr_matrix(part.values, dtype=np.float32)
            values.sort_indices()
            # columns are in the order of the data, so indices stay sorted
            columns = self.in_data[values.indices].astype(np.int32)
            yield sp.csr_matrix((values.data, columns, values.indptr), shape=(values.shape[0], n_vars))

    def report(self) -> dict[str, Any]:
        """Parameters and completeness."""
        found = {k: float(np.concatenate(v).mean()) for k, v in self._sums.items() if v}
        params = parameters(self.section, self.method, self.baseline, self.options, self._path)
        return {"params": params, "concept": self.section.concepts.names[self.j]} | found


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
