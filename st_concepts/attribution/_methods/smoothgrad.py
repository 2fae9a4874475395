"""SmoothGrad: the gradient averaged over noisy copies of the spot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from st_concepts.attribution._backward import pull_back
from st_concepts.attribution._methods.base import Hidden, Method, Options, Pass, given, register
from st_concepts.attribution._methods.forms import FORMS


class SmoothGrad(Method):
    """Mean gradient over noisy copies of the pre-activations."""

    def draws(self, hidden: Hidden, options: Options) -> Callable[[int], np.ndarray | None]:
        """Noise ``(n, n_samples, n_hidden)`` with the covariance that independent noise on the features has there."""
        rng = np.random.default_rng(options.seed)
        factor = hidden.noise_factor()

        def noise(n: int) -> np.ndarray:
            z = rng.standard_normal((n, options.n_samples, *hidden.hidden_shape), dtype=np.float32)
            z = z.astype(hidden.numpy_dtype, copy=False) * hidden.numpy_dtype(options.noise_sd)
            return z if factor is None else z @ factor.T

        return noise

    def n_drawn(self, options: Options) -> int:
        """One for each copy."""
        return options.n_samples

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """Mean over the copies."""
        noise = spots.tensor(given(spots.draws, "random numbers"))
        total = torch.zeros((spots.directions.shape[0], *spots.a.shape), dtype=spots.a.dtype, device=spots.a.device)
        for s in range(noise.shape[1]):
            total += pull_back(spots.net, spots.a + noise[:, s], spots.codes, spots.directions)
        return total / noise.shape[1]


register(
    SmoothGrad(
        "smoothgrad",
        "Which genes drive the score once the gradient is averaged over noisy copies of the spot?",
        "Smilkov et al. 2017, arXiv 1706.03825",
        FORMS["gradient"],
        captum="NoiseTunnel",
        options=("n_samples", "noise_sd", "seed"),
    )
)
