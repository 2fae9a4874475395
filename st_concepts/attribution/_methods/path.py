"""Integrated gradients: the mean gradient on the straight line from the baseline."""

from __future__ import annotations

import numpy as np
import torch

from st_concepts.attribution._backward import pull_back
from st_concepts.attribution._methods.base import Method, Pass, given, register
from st_concepts.attribution._methods.forms import FORMS
from st_concepts.attribution._methods.mean_gate import MeanGate, NotShallow


def quadrature(name: str, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and weights of a quadrature rule, each float64 ``(n_steps,)``.

    The names and definitions are captum's, so that results agree step by step; its trapezoid weights sum to
    ``1 - 1 / n_steps``.
    """
    if name == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(n_steps)
        return (points + 1) / 2, weights / 2
    even = np.full(n_steps, 1 / n_steps)
    if name == "riemann_middle":
        return (np.arange(n_steps) + 0.5) / n_steps, even
    if name == "riemann_left":
        return np.arange(n_steps) / n_steps, even
    if name == "riemann_right":
        return (np.arange(n_steps) + 1) / n_steps, even
    even[[0, -1]] /= 2
    return np.linspace(0, 1, n_steps), even


class IntegratedGradients(Method):
    """Mean gradient on the straight line from the baseline (Sundararajan et al. 2017, eq. 1)."""

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """Weighted sum over the points of the quadrature rule.

        Pre-activations are linear in the features, so the line between two spots is a line here as well. Behind a
        single layer of rectified units one backward pass gives the same sum as all steps (`MeanGate`).
        """
        net, a, codes, directions = spots.net, spots.a, spots.codes, spots.directions
        a0 = given(spots.start, "a baseline")
        points = quadrature(spots.options.quadrature, spots.options.n_steps)
        both = None if codes is None else torch.cat([codes, codes])
        twice = directions.repeat(1, 2, 1) if directions.shape[1] > 1 else directions
        try:
            mean = pull_back(net, torch.cat([a, a0]), both, twice, MeanGate(*points))[:, : a.shape[0]]
            return mean * float(points[1].sum())
        except NotShallow:
            pass
        step = a - a0
        total = torch.zeros((directions.shape[0], *a.shape), dtype=a.dtype, device=a.device)
        for point, weight in zip(*points, strict=True):
            here = torch.add(a0, step, alpha=float(point))
            total.add_(pull_back(net, here, codes, directions), alpha=float(weight))
        return total


register(
    IntegratedGradients(
        "integrated_gradients",
        "How is the score difference from the baseline divided among the genes?",
        "Sundararajan, Taly & Yan 2017, ICML, arXiv 1703.01365",
        FORMS["difference"],
        needs_baseline=True,
        captum="IntegratedGradients",
        options=("n_steps", "quadrature"),
    )
)
