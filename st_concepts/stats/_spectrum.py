"""Moran eigenvectors of one section, and random patterns of the same spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Scheme = Literal["bands", "wide", "singleton"]
SCHEMES: tuple[Scheme, ...] = ("bands", "wide", "singleton")


@dataclass(frozen=True)
class Spectrum:
    """Moran eigenvectors of one section: units it covers, vectors (n_units, n_coef), values descending, blocks."""

    units: NDArray[np.intp]
    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    blocks: NDArray[np.intp]


def decompose(w: NDArray[np.float64], units: NDArray[np.intp], scheme: Scheme) -> Spectrum:
    """Eigenvectors of the weights ``w`` between ``units``, orthogonal to the constant."""
    centred = w - w.mean(axis=0) - w.mean(axis=1)[:, None] + w.mean()
    # push the constant vector below all others, so that it cannot mix with other vectors of eigenvalue 0
    bound = np.abs(centred).sum(axis=1).max() + 1.0
    centred -= bound / len(units)
    values, vectors = scipy.linalg.eigh(centred, driver="evd", overwrite_a=True, check_finite=False)
    values, vectors = values[:0:-1], vectors[:, :0:-1]
    return Spectrum(units, np.ascontiguousarray(vectors), values, _bands(len(values), scheme))


def _bands(n: int, scheme: Scheme) -> NDArray[np.intp]:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}; got {scheme!r}.")
    if scheme == "singleton":
        return np.arange(n)
    widths: list[int] = []
    used, least, part = (0, 4, 1) if scheme == "wide" else (0, 2, 2)
    while used < n:
        widths.append(min(max(least, used // part), n - used))
        used += widths[-1]
    if len(widths) > 1 and widths[-1] < widths[-2] / 2:
        last = widths.pop()
        widths[-1] += last
    return np.repeat(np.arange(len(widths)), widths)


def draw_section(coef: NDArray[np.float64], part: Spectrum, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if part.blocks[-1] == len(coef) - 1:  # every block is a single vector
        return coef * rng.choice([-1.0, 1.0], size=(n, len(coef)))
    starts = np.flatnonzero(np.r_[True, np.diff(part.blocks) > 0])
    out = rng.standard_normal((n, len(coef)))
    scale = np.sqrt(np.add.reduceat(coef**2, starts) / np.add.reduceat(out**2, starts, axis=1))
    out *= scale[:, part.blocks]
    return _restore_moran(out, coef, part.values)


def _restore_moran(
    out: NDArray[np.float64], coef: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale coefficients by ``exp(t * value / 2)``, ``t`` per row, so that variance and Moran's I match ``coef``.

    Rotation within a band changes Moran's I a little, since the eigenvalues of a band differ a little. Under the tilt
    ``t`` the share-weighted mean eigenvalue, which is Moran's I up to a constant, rises strictly: there is one root.
    """
    total = (coef**2).sum()
    spread = np.ptp(values)
    if total == 0 or spread == 0:
        return out
    share = out**2 / total
    x = (values - (coef**2 @ values) / total) / spread
    low, high = np.full(len(out), -60.0), np.full(len(out), 60.0)
    t = np.zeros(len(out))
    for _ in range(60):
        tilted = share * np.exp(t[:, None] * x)
        mass = tilted.sum(axis=1)
        mean = tilted @ x / mass
        if np.abs(mean).max() < 1e-15:
            break
        low, high = np.where(mean < 0, t, low), np.where(mean > 0, t, high)
        slope = tilted @ x**2 / mass - mean**2
        step = t - mean / np.maximum(slope, 1e-300)
        t = np.where((step > low) & (step < high), step, (low + high) / 2)
    tilted = out * np.exp(t[:, None] * x / 2)
    return tilted * np.sqrt(total / (tilted**2).sum(axis=1, keepdims=True))
