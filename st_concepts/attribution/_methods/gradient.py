"""Multipliers on the pre-activations: what each method sends back through the encoder behind its linear first layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from st_concepts.attribution import _backward as _rules
from st_concepts.attribution._methods.mean_gate import MeanGate, NotShallow
from st_concepts.attribution._registry import Method, Options

# pre-activations (n, n_hidden) and codes (n,) or None to latent means (n, n_latent)
Net = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


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


def pull_back(
    net: Net,
    a: torch.Tensor,
    codes: torch.Tensor | None,
    directions: torch.Tensor,
    rule: _rules.BackwardRule | None = None,
) -> torch.Tensor:
    """Gradient of ``directions . net(a)`` w.r.t. ``a``, under a backward rule if one is given.

    Parameters
    ----------
    a
        ``(n, n_hidden)``.
    directions
        ``(m, n, n_latent)`` or ``(m, 1, n_latent)``.

    Returns
    -------
    ``(m, n, n_hidden)``.

    Raises
    ------
    ValueError
        If the rule is for rectified units and none was met, or the output cannot be differentiated.
    """
    a = a.detach().requires_grad_(True)
    context: AbstractContextManager = nullcontext() if rule is None else rule
    with torch.enable_grad(), context:
        # a copy, since the net may begin with a function that overwrites its input
        start = a.clone()
        if rule is not None:
            rule.begin(start)
        latent = net(start, codes)
    if rule is not None and rule.calls == 0 and rule.name in ("guided_backprop", "deconvolution", "rectgrad"):
        raise ValueError(
            f"{rule.name} needs rectified linear units (ReLU), but none was met while running the encoder. "
            "Use gradient, smoothgrad or integrated_gradients instead."
        )
    m = directions.shape[0]
    out = torch.empty((m, *a.shape), dtype=a.dtype, device=a.device)
    for j in range(m):
        grad = None
        if latent.requires_grad:
            (grad,) = torch.autograd.grad(
                latent, a, directions[j].expand_as(latent), retain_graph=j + 1 < m, allow_unused=True
            )
        if grad is None:
            raise ValueError(
                "The encoder's output does not depend on its input in a way that can be differentiated. "
                "Does it detach tensors, round them or run under torch.no_grad()?"
            )
        out[j] = grad
    return out


def path_mean(
    net: Net,
    a: torch.Tensor,
    a0: torch.Tensor,
    codes: torch.Tensor | None,
    directions: torch.Tensor,
    options: Options,
) -> torch.Tensor:
    """Mean gradient on the straight line from ``a0`` to ``a`` (integrated gradients, Sundararajan et al. 2017, eq. 1).

    Pre-activations are linear in the features, so the line between two spots is a line here as well. Behind a single
    layer of rectified units one backward pass gives the same sum as all steps (`MeanGate`).
    """
    points = quadrature(options.quadrature, options.n_steps)
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
        total.add_(pull_back(net, torch.add(a0, step, alpha=float(point)), codes, directions), alpha=float(weight))
    return total


def rescale(
    net: Net, a: torch.Tensor, a0: torch.Tensor, codes: torch.Tensor | None, directions: torch.Tensor
) -> torch.Tensor:
    """Multipliers of DeepLIFT's rescale rule between ``a0`` and ``a``."""
    both = None if codes is None else torch.cat([codes, codes])
    zeros = torch.zeros_like(directions.expand(-1, a.shape[0], -1))
    twice = torch.cat([directions.expand(-1, a.shape[0], -1), zeros], dim=1)
    return pull_back(net, torch.cat([a, a0]), both, twice, _rules.DeepLift())[:, : a.shape[0]]


def noisy_mean(
    net: Net, a: torch.Tensor, codes: torch.Tensor | None, directions: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Mean gradient over noisy copies of the pre-activations; ``noise`` is ``(n, n_samples, n_hidden)``."""
    total = torch.zeros((directions.shape[0], *a.shape), dtype=a.dtype, device=a.device)
    for s in range(noise.shape[1]):
        total += pull_back(net, a + noise[:, s], codes, directions)
    return total / noise.shape[1]


def expected_passes(
    net: Net,
    a: torch.Tensor,
    references: torch.Tensor,
    bias: torch.Tensor,
    codes: torch.Tensor | None,
    directions: torch.Tensor,
    draws: np.ndarray,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Gradients between spots and drawn references, one draw of every spot at a time (Erion et al. 2021, eq. 3).

    Parameters
    ----------
    references
        First-layer products of the reference spots without bias, ``(n_references, n_hidden)``.
    bias
        Bias of each spot, ``(n, n_hidden)`` or broadcastable: on the way to its reference a spot keeps its covariates.
    draws
        Uniform numbers ``(n, n_samples, 2)``: which reference, and where on the way (stratified over the draws).

    Yields
    ------
    Row of the reference of each spot ``(n,)`` and multipliers ``(m, n, n_hidden)``.
    """
    n_samples = draws.shape[1]
    for s in range(n_samples):
        which = np.minimum((draws[:, s, 0] * references.shape[0]).astype(np.int64), references.shape[0] - 1)
        alpha = torch.as_tensor((s + draws[:, s, 1]) / n_samples, dtype=a.dtype, device=a.device)
        alpha = alpha.view(-1, *[1] * (a.ndim - 1))
        start = references[torch.as_tensor(which, device=a.device)] + bias
        yield which, pull_back(net, start + alpha * (a - start), codes, directions)


def multipliers(
    method: Method,
    options: Options,
    net: Net,
    a: torch.Tensor,
    a0: torch.Tensor | None,
    codes: torch.Tensor | None,
    directions: torch.Tensor,
    *,
    noise: torch.Tensor | None = None,
    factorised: bool = True,
) -> torch.Tensor:
    """Multipliers ``(m, n, n_hidden)`` of any method whose form is "gradient", "input" or "difference".

    Parameters
    ----------
    a, a0
        Pre-activations of the spots and of their baselines, ``(n, n_hidden)``.
    directions
        ``(m, n, n_latent)`` or ``(m, 1, n_latent)``.
    noise
        For `smoothgrad`, ``(n, n_samples, n_hidden)``.
    factorised
        Whether ``a`` is the output of a linear layer (which the epsilon rule stabilises too) or the features.
    """
    match method.name:
        case "gradient" | "gradient_x_input":
            return pull_back(net, a, codes, directions)
        case "integrated_gradients":
            return path_mean(net, a, a0, codes, directions, options)
        case "deeplift":
            return rescale(net, a, a0, codes, directions)
        case "smoothgrad":
            return noisy_mean(net, a, codes, directions, noise)
        case "guided_backprop":
            return pull_back(net, a, codes, directions, _rules.guided_backprop())
        case "deconvolution":
            return pull_back(net, a, codes, directions, _rules.deconvolution())
        case "rectgrad":
            rule = _rules.rectgrad(options.q, options.tau, options.modified)
            return pull_back(net, a, codes, directions, rule)
        case "epsilon_lrp":
            out = pull_back(net, a, codes, directions, _rules.epsilon_lrp(options.epsilon))
            return out * _rules.stabilised_ratio(a, a, options.epsilon) if factorised else out
    raise ValueError(f"{method.name} has no multipliers.")
