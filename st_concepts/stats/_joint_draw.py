"""Several targets turned together: random rotations within the blocks of a null model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class JointRotation:
    """Copies of several targets, in each block turned by one random rotation for all of them.

    The inner products of the targets within a block are those of the originals, exactly, so a labelling stays a
    labelling of as many groups as far as second moments tell; each copy alone points in any direction.

    Parameters
    ----------
    coef
        Coefficients of the targets, ``(n_coef, k)``.
    blocks
        Block of each coefficient, ascending.
    """

    def __init__(self, coef: NDArray[np.float64], blocks: NDArray[np.intp]) -> None:
        self.shape = coef.shape
        starts = np.flatnonzero(np.r_[True, np.diff(blocks) > 0])
        spans = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(blocks)], strict=True)]
        # single coefficients only change their sign, all at once
        self._single = np.array([s.start for s in spans if s.stop - s.start == 1], dtype=np.intp)
        self._signed = coef[self._single]
        self._blocks = [(span, np.linalg.qr(coef[span])) for span in spans if span.stop - span.start > 1]

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """``n`` copies, ``(n, k, n_coef)``."""
        n_coef, k = self.shape
        out = np.empty((n, k, n_coef))
        signs = rng.choice([-1.0, 1.0], size=(n, 1, len(self._single)))
        out[:, :, self._single] = signs * self._signed.T
        for span, (_, upper) in self._blocks:
            out[:, :, span] = _frames(n, span.stop - span.start, upper, rng)
        return out


def _frames(n: int, m: int, upper: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """``(F upper)'`` ``(n, k, m)`` for random orthonormal frames ``F`` ``(m, r)``, uniformly distributed.

    Gaussian columns made orthonormal in their order, with a positive diagonal (Stewart 1980). Of tall frames by the
    Cholesky factor of their products, in few operations on all copies; where that would lose digits, by QR.
    """
    r = len(upper)
    noise = rng.standard_normal((n, r, m))
    if m >= 3 * r + 5:
        lower = np.linalg.cholesky(noise @ noise.transpose(0, 2, 1))
        return (
            np.linalg.solve(lower.transpose(0, 2, 1), np.broadcast_to(upper, (n, *upper.shape))).transpose(0, 2, 1)
            @ noise
        )
    q, t = np.linalg.qr(noise.transpose(0, 2, 1))
    sign = np.where(np.diagonal(t, axis1=1, axis2=2) < 0, -1.0, 1.0)
    return (q * sign[:, None, :] @ upper).transpose(0, 2, 1)
