"""Truncated SVD of the log-normalised matrix, and what it says about the weights of `SpotModule`.

Nothing here makes an n_obs x n_vars array: the matrix is read in row batches and centred implicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts.models._modules import SpotModule

# a stream of (features CSR, section codes); called once a pass
Stream = Callable[[], Iterable[tuple[sp.csr_matrix, np.ndarray]]]
_EXACT_BELOW = 3000  # spots up to which the Gram matrix is decomposed exactly
_OVERSAMPLE = 10
_THETA_SPOTS = 2048  # spots that the first dispersion estimate looks at


@dataclass(frozen=True)
class TruncatedSVD:
    """Right singular vectors of the section-centred features.

    Attributes
    ----------
    components
        ``(n_vars, k)`` orthonormal, signs fixed so that the largest loading of each is positive.
    sd
        ``(k,)`` standard deviation of the scores.
    means
        ``(n_sections, n_vars)`` section means that were subtracted.
    """

    components: np.ndarray
    sd: np.ndarray
    means: np.ndarray


def _center(y: np.ndarray, codes: np.ndarray, projected_means: np.ndarray) -> np.ndarray:
    return y - projected_means[codes]


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


def truncated_svd(stream: Stream, *, n_sections: int, k: int, n_passes: int = 5, seed: int = 0) -> TruncatedSVD:
    """Leading ``k`` right singular vectors of the section-centred features.

    Exact (Gram matrix) for a small number of spots, block power iteration beyond (Halko, Martinsson & Tropp 2011),
    where each pass over the data applies the covariance once.

    Parameters
    ----------
    stream
        Called once a pass; yields float32 CSR features and int64 section codes.
    n_sections, k
        Number of sections and of components.
    n_passes
        Passes of the power iteration.
    seed
        Seed of the random start.
    """
    means, n_per = section_means(stream, n_sections)
    n, n_vars = int(n_per.sum()), means.shape[1]
    if n <= _EXACT_BELOW:
        parts = list(stream())
        x = sp.vstack([p for p, _ in parts]).tocsr().astype(np.float64)
        codes = np.concatenate([c for _, c in parts])
        cross = np.asarray(x @ means.T)  # (n, n_sections)
        gram = (x @ x.T).toarray() - cross[:, codes] - cross[:, codes].T + (means @ means.T)[np.ix_(codes, codes)]
        values, left = np.linalg.eigh((gram + gram.T) / 2)
        values, left = values[::-1][:k].clip(min=1e-12), left[:, ::-1][:, :k]
        onehot = np.eye(n_sections)[codes]
        v = (np.asarray(x.T @ left) - means.T @ (onehot.T @ left)) / np.sqrt(values)
        sd = np.sqrt(values / n)
    else:
        width = min(k + _OVERSAMPLE, n_vars, n)
        q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_vars, width)))[0].astype(np.float32)
        for _ in range(n_passes):
            acc = np.zeros((n_vars, width))
            by_section = np.zeros((n_sections, width))
            shift = means @ q
            for x, codes in stream():
                y = _center(np.asarray(x @ q, dtype=np.float64), codes, shift)
                acc += x.T @ y.astype(np.float32)
                np.add.at(by_section, codes, y)
            acc -= means.T @ by_section
            small = q.T @ acc  # Rayleigh-Ritz on the space that this pass was applied to
            q_next = np.linalg.qr(acc)[0].astype(np.float32)
            last, q = (small, q), q_next
        small, basis = last
        values, rot = np.linalg.eigh((small + small.T) / 2)
        values, rot = values[::-1][:k].clip(min=1e-12), rot[:, ::-1][:, :k]
        v = basis.astype(np.float64) @ rot
        sd = np.sqrt(values / n)
    v *= np.where(v[np.abs(v).argmax(0), np.arange(v.shape[1])] < 0, -1.0, 1.0)
    return TruncatedSVD(v, sd, means)


@torch.no_grad()
def warm_start(module: SpotModule, svd: TruncatedSVD, proportions: np.ndarray) -> None:
    """Write the SVD solution into the linear parts of encoder and decoder; the residual nets stay at zero.

    Latent dimensions are principal components divided by one common scale, so that their mean variance is one: the
    prior is met on average and the order of importance is kept, which the shrinkage of the discriminant relies on.

    Parameters
    ----------
    module
        Changed in place.
    svd
        Of the features that the encoder will see.
    proportions
        ``(n_sections, n_vars)`` share of each gene in the counts of the section.
    """
    k = module.rest.n_latent
    scale = float(np.sqrt(np.mean(svd.sd**2))) or 1.0
    encoder = torch.from_numpy((svd.components / scale).T.astype(np.float32))
    module.weight[:k] = encoder.to(module.weight)
    center = torch.from_numpy(svd.means.astype(np.float32)).to(module.weight)
    # the hidden units see centred features too
    module.bias.copy_(-(center @ module.weight.T))
    module.loadings.copy_(torch.from_numpy((svd.components * scale).T.astype(np.float32)))
    floor = 0.1 / max(float(proportions.size), 1.0) * 1e-2
    module.log_rate.copy_(torch.from_numpy(np.log(np.maximum(proportions, floor)).astype(np.float32)))


@torch.no_grad()
def start_dispersion(
    module: SpotModule,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]],
    *,
    prior_theta: float = 10.0,
    n_steps: int = 12,
) -> None:
    """Maximum a posteriori ``log_theta`` given the means of the warm start, by Newton steps on a few thousand spots.

    Parameters
    ----------
    module
        ``log_theta`` is changed in place, and the posterior variance of the encoder is set to match.
    batches
        (features, counts, codes) of the spots to look at, dense.
    prior_theta
        Centre of a weak log-normal prior, which keeps genes with a handful of counts in place.
    n_steps
        Newton steps.
    """
    batches = list(batches)
    means = []
    for x, counts, codes in batches:
        p = torch.softmax(module.logits(module.rest(module.preactivations(x, codes)), codes), dim=1)
        means.append((counts, p * counts.sum(1, keepdim=True)))
    center = float(np.log(prior_theta))
    log_theta = torch.full_like(module.log_theta, center)
    for _ in range(n_steps):
        theta = log_theta.exp()
        first = torch.zeros_like(theta)
        second = torch.zeros_like(theta)
        for c, m in means:
            total = theta + m
            first += (torch.digamma(c + theta) - torch.digamma(theta) + (theta / total).log() + 1).sum(0)
            first -= ((c + theta) / total).sum(0)
            second += (torch.polygamma(1, c + theta) - torch.polygamma(1, theta) + 1 / theta - 2 / total).sum(0)
            second += ((c + theta) / total**2).sum(0)
        gradient = first * theta - 0.3 * (log_theta - center)
        curvature = second * theta**2 + first * theta - 0.3
        step = torch.where(curvature < 0, -gradient / curvature, gradient.sign() * 0.5).clamp(-1, 1)
        log_theta = (log_theta + step).clamp(-5.0, 9.0)
    module.log_theta.copy_(log_theta)
    # Laplace: posterior precision of z = prior + sum over genes of loading^2 x Fisher information of the log rate
    theta = log_theta.exp()
    information = torch.zeros_like(theta)
    n = 0
    for _, m in means:
        information += (m * theta / (m + theta)).sum(0)
        n += m.shape[0]
    precision = 1.0 + (module.loadings**2) @ (information / max(n, 1))
    module.rest.log_var.bias.copy_(-precision.log())
