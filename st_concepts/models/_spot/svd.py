"""Truncated SVD of the log-normalised matrix, and what it says about the weights of `SpotModule`.

Nothing here makes an n_obs x n_vars array: the matrix is read in row batches and centred implicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts._counts.sparse import SparseRows
from st_concepts._distributed import all_reduce
from st_concepts.models._spot.histogram import CountHistogram
from st_concepts.models._spot.module import SpotModule

# a stream of (features CSR, section codes); called once a pass
Stream = Callable[[], Iterable[tuple[sp.csr_matrix, np.ndarray]]]
EXACT_BELOW = 1500  # spots up to which the Gram matrix is decomposed exactly
_COLUMNS = 1024  # genes that are dense at a time while the Gram matrix is summed
_OVERSAMPLE = 10
_PASSES_FROM_SAMPLE = 2
_RANK_TOL = 1e-5  # components below this share of the first standard deviation are rounding noise


@dataclass(frozen=True)
class TruncatedSVD:
    """Right singular vectors of the section-centred features.

    Attributes
    ----------
    components
        ``(n_vars, k)`` orthonormal, signs fixed so that the largest loading of each is positive. Columns beyond the
        rank of the data (or beyond the number of spots or genes) are zero.
    sd
        ``(k,)`` standard deviation of the scores.
    means
        ``(n_sections, n_vars)`` section means that were subtracted.
    """

    components: np.ndarray
    sd: np.ndarray
    means: np.ndarray


def section_means(stream: Stream, n_sections: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean features ``(n_sections, n_vars)`` and spots per section ``(n_sections,)``."""
    sums: np.ndarray | None = None
    n = np.zeros(n_sections)
    for x, codes in stream():
        onehot = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(n_sections, len(codes)))
        part = np.asarray((onehot @ x).todense(), dtype=np.float64)
        sums = part if sums is None else sums + part
        n += np.bincount(codes, minlength=n_sections)
    if sums is None:
        raise ValueError("No spots to read: the matrix has zero rows.")
    return sums / np.maximum(n, 1)[:, None], n


def truncated_svd(
    stream: Stream,
    *,
    n_sections: int,
    k: int,
    n_passes: int = 5,
    seed: int = 0,
    means: tuple[np.ndarray, np.ndarray] | None = None,
    sample: Stream | None = None,
    shared: bool = False,
) -> TruncatedSVD:
    """Leading ``k`` right singular vectors of the section-centred features.

    Exact (Gram matrix) for a small number of spots, block power iteration beyond (Halko, Martinsson & Tropp 2011),
    where each of ``n_passes`` over the data applies the covariance once. ``stream`` is called once a pass and yields
    float32 CSR features and int64 section codes; with ``shared`` those of this process, and ``means`` (`section_means`)
    are needed. With a ``sample`` of the spots, that cost nothing to read, the iteration starts from their subspace
    instead of a random one, and two passes over all spots do.
    """
    if means is None:
        means = section_means(stream, n_sections)
    centres, n_per = means
    n = int(n_per.sum())
    if n <= EXACT_BELOW and not shared:
        values, v = _from_gram(stream, centres, k)
    else:
        start = np.random.default_rng(seed).standard_normal((centres.shape[1], min(k + _OVERSAMPLE, centres.shape[1])))
        if sample is not None:
            start, n_passes = _power_iteration(sample, centres, start, n_passes, shared=False)[1], _PASSES_FROM_SAMPLE
        q, acc = _power_iteration(stream, centres, start, n_passes, shared=shared)
        # Rayleigh-Ritz in the space that the last pass was applied to
        values, rotation = _leading(q.T @ acc, k)
        v = q.astype(np.float64) @ rotation
    # fewer spots or genes than components: the others are zero, as those beyond the rank are
    values, v = np.pad(values, (0, k - len(values))), np.pad(v, ((0, 0), (0, k - v.shape[1])))
    lost = values <= _RANK_TOL**2 * max(values[0], n * 1e-12)
    values, v = np.where(lost, 0.0, values), np.where(lost, 0.0, v)
    v *= np.where(v[np.abs(v).argmax(0), np.arange(k)] < 0, -1.0, 1.0)
    return TruncatedSVD(v, np.sqrt(values / n), centres)


def _leading(symmetric: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest eigenvalues, not below zero, and their vectors."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    return values[::-1][:k].clip(min=0.0), vectors[:, ::-1][:, :k]


def _from_gram(stream: Stream, means: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values ``(k,)`` and right vectors ``(n_vars, k)`` by way of the spots x spots matrix."""
    parts = list(stream())
    x = sp.vstack([p for p, _ in parts]).tocsc().astype(np.float64)
    codes = np.concatenate([c for _, c in parts])
    blocks = [slice(j, min(j + _COLUMNS, x.shape[1])) for j in range(0, x.shape[1], _COLUMNS)]
    gram = np.zeros((x.shape[0], x.shape[0]))
    for genes in blocks:
        centred = x[:, genes].toarray() - means[codes, genes]
        gram += centred @ centred.T
    values, left = _leading(gram, k)
    safe = np.where(values > 0, values, 1.0)
    v = np.concatenate([(x[:, genes].toarray() - means[codes, genes]).T @ left for genes in blocks])
    return values, v / np.sqrt(safe)


def _power_iteration(
    stream: Stream, means: np.ndarray, start: np.ndarray, n_passes: int, *, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal basis of the last pass, float32 ``(n_vars, width)``, and the covariance sums applied to it."""
    acc = start
    for _ in range(n_passes):
        q = np.linalg.qr(acc)[0].astype(np.float32)
        shift, table = means @ q, torch.from_numpy(q)
        acc, by_section = np.zeros(start.shape), np.zeros((len(means), q.shape[1]))
        for x, codes in stream():
            rows = SparseRows.of(x, transpose=True)
            y = rows.times(table).numpy().astype(np.float64) - shift[codes]
            acc += rows.turned().times(torch.from_numpy(y.astype(np.float32))).numpy()
            for s in np.unique(codes):
                by_section[s] += y[codes == s].sum(0)
        if shared:
            acc, by_section = all_reduce(acc, by_section)
        acc = acc - means.T @ by_section
    return q, acc


@torch.no_grad()
def warm_start(module: SpotModule, svd: TruncatedSVD, proportions: np.ndarray) -> None:
    """Write the SVD of the features into the linear parts of encoder and decoder; the residual nets stay at zero.

    Latent dimensions are principal components divided by one common scale, so that their mean variance is one: the
    prior is met on average and the order of importance is kept, which the shrinkage of the discriminant relies on.
    ``proportions`` ``(n_sections, n_vars)`` are the share of each gene in the counts of the section, above zero.
    """
    k = module.rest.n_latent
    scale = float(np.sqrt(np.mean(svd.sd**2))) or 1.0
    encoder = torch.from_numpy((svd.components / scale).T.astype(np.float32))
    module.weight[:k] = encoder.to(module.weight)
    center = torch.from_numpy(svd.means.astype(np.float32)).to(module.weight)
    # the hidden units see centred features too
    module.bias.copy_(-(center @ module.weight.T))
    module.loadings.copy_(torch.from_numpy((svd.components * scale).T.astype(np.float32)))
    module.log_rate.copy_(torch.from_numpy(np.log(proportions).astype(np.float32)))


@torch.no_grad()
def start_dispersion(
    module: SpotModule,
    features: torch.Tensor,
    counts: sp.csr_matrix,
    codes: torch.Tensor | None,
    *,
    prior_theta: float = 10.0,
    n_steps: int = 12,
) -> None:
    """Maximum a posteriori ``log_theta`` given the means of the warm start, by Newton steps; changed in place.

    The posterior variance of the encoder is set to match. Polygammas are evaluated on the distinct (gene, count) pairs
    only. ``prior_theta`` is the centre of a weak log-normal prior, which keeps genes with a handful of counts in place.
    """
    device = features.device
    histogram = CountHistogram.of(counts).to(device)
    c = torch.from_numpy(counts.toarray()).to(device)
    m = torch.softmax(module.logits(module.rest(module.preactivations(features, codes)), codes), dim=1)
    m *= c.sum(1, keepdim=True)
    center = float(np.log(prior_theta))
    log_theta = torch.full_like(module.log_theta, center)
    for _ in range(n_steps):
        theta = log_theta.exp()
        first, second = histogram.theta_derivatives(theta)
        inverse = 1.0 / (m + theta)
        ratio = (c + theta) * inverse
        first += (theta * inverse).log().sum(0) + len(c) - ratio.sum(0)
        second += len(c) / theta - 2 * inverse.sum(0) + (ratio * inverse).sum(0)
        gradient = first * theta - 0.3 * (log_theta - center)
        curvature = second * theta**2 + first * theta - 0.3
        step = torch.where(curvature < 0, -gradient / curvature, gradient.sign() * 0.5).clamp(-1, 1)
        log_theta = (log_theta + step).clamp(-5.0, 9.0)
    module.log_theta.copy_(log_theta)
    # Laplace: posterior precision of z = prior + sum over genes of loading^2 x Fisher information of the log rate
    theta = log_theta.exp()
    information = (m * theta / (m + theta)).mean(0)
    module.rest.log_var.bias.copy_(-(1.0 + (module.loadings**2) @ information).log())
