"""`stc.pp.split_counts`: one part of the molecules to find groups with, the other to test genes with."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import ArrayLike

from st_concepts._counts.check import check_block, count_matrix
from st_concepts._counts.elsewhere import counts_elsewhere
from st_concepts._counts.rows import as_csr, in_memory
from st_concepts._counts.split import estimate_overdispersion, split_matrix
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS, split_slots

ESTIMATES = ("estimate", "shared")


@writes
def split_counts(
    adata: AnnData,
    layer: str | None = None,
    *,
    fraction: float = 0.5,
    overdispersion: float | ArrayLike | Literal["estimate", "shared"] = 0.0,
    key_added: str = KEYS.COUNTS,
    seed: int = 0,
    copy: bool = False,
) -> Result:
    """Split the counts in two independent parts: groups found in one can be tested in the other.

    Clusters separate the spots of their own counts by construction, so a test of genes between them finds something
    even where there is nothing. Each molecule goes to one part or the other; labels made from ``"counts_cluster"`` know
    nothing of the noise in ``"counts_test"`` (Neufeld, Gao, Popp, Battle & Witten 2024, *Inference after latent
    variable estimation for single-cell RNA sequencing data*). The parts are raw counts of fewer molecules.

    Parameters
    ----------
    adata
        Raw counts, ``n_obs`` spots, in memory.
    layer
        Layer with the counts; by default ``X``.
    fraction
        Expected share of the molecules in the part for clustering, between 0 and 1.
    overdispersion
        How much the counts of a gene vary beyond Poisson at one expression level: variance
        ``m + overdispersion * m^2`` at mean ``m``, the inverse of the negative binomial ``theta``. One number for all
        genes, or one a gene: ``(n_vars,)``, or a Series by gene. With 0 molecules go one by one (binomial); above it
        the share of a count that goes is drawn too (beta-binomial; Neufeld et al. 2023, *Negative binomial count
        splitting for single-cell RNA sequencing data*). ``"estimate"`` takes it from the moments of each gene, the size
        of spots allowed for; ``"shared"`` pools these into one value.
    key_added
        Name that the slots begin with.
    seed
        Seed of the split. The same counts and seed give the same parts, however the matrix is stored.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes

    ``layers["counts_cluster"]``, ``layers["counts_test"]``
        ``(n_obs, n_vars)``, of the format and dtype of the counts, whose sum they are exactly.
    ``uns["counts_split"]``
        Names of the two layers (``layers``), and ``params``.
    ``varm["counts_split"]``
        DataFrame with ``overdispersion`` of each gene, where that differs between genes.

    Raises
    ------
    KeyError
        ``layer`` is not there; a Series lacks a gene.
    ValueError
        Counts on the disk; values that are no counts; ``fraction`` not between 0 and 1; ``overdispersion`` negative,
        not finite or of another length; ``layer`` would be written over.

    Notes
    -----
    Independence holds at the given overdispersion. With less than there is, the parts share noise and tests remain too
    good; with more, what is high in one part is low in the other. Moments take differences between groups of spots for
    overdispersion, so the estimate is too high for genes with strong pattern. Smooth tissue remains smooth in both
    parts: the split takes no account of neighbours, the null of ``stc.tl.rank_genes_concepts`` does.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> stc.pp.split_counts(adata, overdispersion="shared")
    >>> parts = adata.layers["counts_cluster"] + adata.layers["counts_test"]
    >>> float(abs(parts - adata.X).sum())
    0.0
    """
    cluster, test, record = split_slots(key_added)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction!r} must lie between 0 and 1: 0.5 makes parts of equal size.")
    if layer in (cluster, test):
        raise ValueError(f"layer={layer!r} would be written over by its own part; pass another key_added.")
    matrix = count_matrix(adata, layer)
    if adata.isbacked or not in_memory(matrix):
        raise ValueError(
            "These counts stay on the disk, and both parts would have to be written beside them. Load them first: "
            "adata = adata.to_memory()."
        )
    counts = as_csr(matrix)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    check_block(counts, adata.var_names, where, lambda: counts_elsewhere(adata, layer))
    values, how = _overdispersion(overdispersion, counts, adata.var_names)
    # the second part of the split is the one that goes with the given share
    rest, taken = split_matrix(counts, fraction, values, seed)
    each = how in ("given", "estimate")
    table = pd.DataFrame({"overdispersion": values}, index=adata.var_names.rename(None))
    params = {
        "layer": layer or "",
        "fraction": float(fraction),
        "overdispersion": how if each else float(values[0]) if len(values) else 0.0,
        "estimated": how in ESTIMATES,
        "seed": int(seed),
    }
    return Result(
        layers={cluster: _stored_like(matrix, taken), test: _stored_like(matrix, rest)},
        varm={record: table} if each else {},
        uns={record: {"layers": np.array([cluster, test], dtype=object), "params": params}},
        stale=[] if each else [("varm", record)],
    )


def _overdispersion(given: Any, counts: sp.csr_matrix, genes: pd.Index) -> tuple[np.ndarray, str]:
    """Overdispersion of each gene, and whether it is one number, given for each, or how it was estimated."""
    if isinstance(given, str):
        if given not in ESTIMATES:
            known = ", ".join(map(repr, ESTIMATES))
            raise ValueError(f"overdispersion={given!r} is unknown; give a number, one a gene, or one of: {known}.")
        return estimate_overdispersion(counts, shared=given == "shared"), given
    if isinstance(given, pd.Series):
        missing = genes[~genes.isin(given.index)]
        if len(missing):
            raise KeyError(f"overdispersion lacks {len(missing)} of {len(genes)} genes, {missing[0]!r} for example.")
        given = given.loc[genes]
    values = np.asarray(given, dtype=np.float64)
    if values.ndim and values.shape != (len(genes),):
        raise ValueError(f"overdispersion has shape {values.shape}; give one number, or one for each of {len(genes)}.")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("overdispersion must be finite and at least 0 (0: Poisson) for every gene.")
    return np.broadcast_to(values, (len(genes),)), "given" if values.ndim else "one"


def _stored_like(matrix: Any, part: sp.csr_matrix) -> Any:
    """A part of a matrix in its own format and dtype."""
    if not sp.issparse(matrix):
        return part.toarray().astype(matrix.dtype)
    part = part.astype(matrix.dtype).asformat(matrix.format)
    return getattr(sp, f"{matrix.format}_array")(part) if isinstance(matrix, sp.sparray) else part
