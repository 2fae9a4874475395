"""Concepts in the latent space of genes: genes like a seed, genes of a layer. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import stats


@dataclass(frozen=True)
class GeneConcept:
    """A concept of the gene view.

    Attributes
    ----------
    name
        True name.
    r, pvals
        float64 ``(n_genes,)``: correlation that the genes were chosen by, and its two-sided p-value; NaN where a gene
        was not considered.
    order
        int64: genes that were considered, best first.
    members
        int64 ``(n_top,)``: genes whose mean is the vector.
    vector
        float64 ``(n_latent,)``.
    """

    name: str
    r: np.ndarray
    pvals: np.ndarray
    order: np.ndarray
    members: np.ndarray
    vector: np.ndarray


def correlation_pvalue(r: np.ndarray, n: int) -> np.ndarray:
    """Two-sided p-value of Pearson correlations of ``n`` pairs, from Student's t with ``n - 2`` degrees of freedom.

    Exact for independent normal pairs, as in `scipy.stats.pearsonr`; NaN for fewer than three pairs.
    """
    r = np.clip(np.asarray(r, dtype=np.float64), -1.0, 1.0)
    if n < 3:
        return np.full(r.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(r) * np.sqrt((n - 2) / (1.0 - r**2))
    return 2.0 * stats.t.sf(t, n - 2)


def latent_correlation(latent: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation, across latent dimensions, of genes ``(n_genes, n_latent)`` with a target ``(n_latent,)``.

    Float64 ``(n_genes,)`` correlations and two-sided p-values; NaN for vectors that are constant.

    Examples
    --------
    >>> r, p = latent_correlation(np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 0.0]]), np.array([0.0, 1.0, 3.0]))
    >>> r.round(6).tolist()
    [1.0, -1.0]
    """
    z = np.asarray(latent, dtype=np.float64)
    t = np.asarray(target, dtype=np.float64)
    z = z - z.mean(1, keepdims=True)
    t = t - t.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        r = z @ t / (np.linalg.norm(z, axis=1) * np.linalg.norm(t))
    r = np.clip(r, -1.0, 1.0)
    return r, correlation_pvalue(r, z.shape[1])


def layer_loading(images: sp.csr_matrix, inside: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation, across pixels, of each gene's image with the indicator of a layer.

    ``images`` are ``(n_genes, n_pixels)``, ``inside`` and ``known`` boolean ``(n_pixels,)``. Correlations and two-sided
    p-values ``(n_genes,)``; the latter take pixels as independent, which neighbours are not: they rank genes, and are
    no test.
    """
    x = sp.csr_matrix(images, dtype=np.float64)[:, np.flatnonzero(known)]
    y = np.asarray(inside, dtype=np.float64)[known]
    n = len(y)
    y = y - y.mean()
    mean = np.asarray(x.mean(1)).ravel()
    variance = np.maximum(np.asarray(x.multiply(x).sum(1)).ravel() / n - mean**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(variance > 1e-12, (x @ y) / (n * np.sqrt(variance * y.var())), np.nan)
    r = np.clip(r, -1.0, 1.0)
    return r, correlation_pvalue(r, n)


def make_gene_concept(
    name: str,
    latent: np.ndarray,
    r: np.ndarray,
    pvals: np.ndarray,
    *,
    usable: np.ndarray,
    n_top: int,
    always: Sequence[int] = (),
) -> GeneConcept:
    """Mean latent vector of the ``n_top`` genes with the largest correlation (Brocki & Chung 2019, section 3.2).

    ``r`` and ``pvals`` are those of `latent_correlation` or `layer_loading`. Genes that are ``usable`` take part, and
    those of ``always`` (the seeds) however few spots they are seen in.
    """
    usable = usable & np.isfinite(r)
    usable[list(always)] = True
    order = np.flatnonzero(usable)
    order = order[np.argsort(-np.nan_to_num(r[order], nan=-np.inf), kind="stable")]
    if len(order) < n_top:
        raise ValueError(f"n_top={n_top}, but only {len(order)} genes can be compared with {name!r}; lower n_top.")
    members = order[:n_top]
    hidden = np.ones(len(r), dtype=bool)
    hidden[order] = False
    return GeneConcept(
        name=name,
        r=np.where(hidden, np.nan, r),
        pvals=np.where(hidden, np.nan, pvals),
        order=order,
        members=members,
        vector=np.asarray(latent, dtype=np.float64)[members].mean(0),
    )
