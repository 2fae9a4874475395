"""Genes as images: counts of spots summed into pixels, each gene scaled to its maximum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts._names import as_names
from st_concepts.models._image.raster import Raster

# a pixel with fewer counts than this share of the median is not scaled up further: it would be all noise
_DEPTH_FLOOR = 0.1


def gene_images(
    counts: sp.csr_matrix, raster: Raster, *, normalize: bool, transform: str
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Images of all genes, CSR float32 ``(n_vars, height * width)``, and in how many spots each was seen.

    Counts of spots that share a pixel are summed. ``normalize`` divides by the total of the pixel (times their median),
    so that an image shows expression and not how deeply each spot was sequenced; ``"sqrt"`` makes the noise of counts
    the same at all levels. Each row is then scaled to a maximum of 1 (all zero for a gene without counts).
    """
    seen = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]).astype(np.int64)
    images = raster.to_pixels(counts.T.tocsr())
    images.sum_duplicates()
    if normalize:
        total = np.asarray(images.sum(0, dtype=np.float64)).ravel()
        median = np.median(total[total > 0])
        images.data *= (median / np.maximum(total, _DEPTH_FLOOR * median)).astype(np.float32)[images.indices]
    if transform == "sqrt":
        np.sqrt(images.data, out=images.data)
    top = images.max(axis=1).toarray().ravel()
    images.data /= np.repeat(np.where(top > 0, top, 1), np.diff(images.indptr)).astype(np.float32)
    return images, seen


def loader(images: sp.csr_matrix, shape: tuple[int, int]) -> Callable[[np.ndarray], torch.Tensor]:
    """A function from row indices ``(b,)`` to dense images ``(b, 1, height, width)``."""

    def load(index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images[index].toarray().reshape(len(index), 1, *shape))

    return load


def principal_scores(images: sp.csr_matrix, rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Scores of the first ``k`` principal components of the images in ``rows``, float32, scaled to unit variance.

    The sign of a component is that of its largest loading.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    x = images[rows].astype(np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    # centred without making it dense
    centred = LinearOperator(
        x.shape,
        matvec=lambda v: x @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda u: x.T @ u.ravel() - mean * u.sum(),
        dtype=np.float64,
    )
    start = np.random.default_rng(seed).standard_normal(min(x.shape))
    u, s, vt = svds(centred, k=k, v0=start)
    order = np.argsort(-s)
    sign = np.sign(vt[order, np.abs(vt[order]).argmax(1)])
    scores = u[:, order] * s[order] * sign
    return (scores / np.maximum(scores.std(0), 1e-12)).astype(np.float32)


def gene_rows(adata: AnnData, genes: Sequence[str] | str | None) -> np.ndarray | None:
    """Columns of ``adata`` of the genes asked for; `None` for all. `KeyError` for those that it does not have."""
    if genes is None:
        return None
    names = as_names(genes)
    index = adata.var_names.get_indexer(names)
    if (index < 0).any():
        unknown = [n for n, i in zip(names, index, strict=True) if i < 0]
        raise KeyError(f"Not genes of adata: {', '.join(map(repr, unknown[:5]))}.")
    return index
