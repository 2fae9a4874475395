"""DeepLIFT with the rescale rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from st_concepts.attribution._backward import ELSEWHERE, ODD_AT_ZERO, RELU, BackwardRule, override, pull_back
from st_concepts.attribution._hookable import check_hookable
from st_concepts.attribution._methods.base import Method, Options, Pass, given, register
from st_concepts.attribution._methods.forms import FORMS


class Rescale(BackwardRule):
    """Rescale rule (Shrikumar et al. 2017) on a batch whose second half holds the baselines of the first.

    Only gradients w.r.t. the first half mean anything. Below ``threshold`` in the input difference the ordinary
    gradient is used, as in captum.
    """

    def __init__(self, threshold: float = 1e-10) -> None:
        super().__init__(lambda z, y, g: g, RELU | ODD_AT_ZERO | ELSEWHERE, name="deeplift")
        self.threshold = threshold

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in self.functions:
            return super().__torch_function__(func, types, args, kwargs)
        self.calls += 1
        named = dict(kwargs or {})
        z = args[0] if args else named.pop("input")
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_(True)
            y = func(leaf * 1, *args[1:], **named)
            (slope,) = torch.autograd.grad(y.sum(), leaf)

        def rescale(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            (z1, z0), (y1, y0) = z.chunk(2), y.chunk(2)
            difference = z1 - z0
            small = difference.abs() < self.threshold
            ratio = (y1 - y0) / torch.where(small, torch.ones_like(difference), difference)
            multiplier = torch.where(small, slope.chunk(2)[0], ratio)
            return torch.cat([g.chunk(2)[0] * multiplier, torch.zeros_like(difference)])

        return override(func, args, kwargs or {}, z, y.detach(), rescale)


class DeepLift(Method):
    """Multipliers of the rescale rule between baseline and spot."""

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """One pass back with spots and baselines in one batch."""
        a, codes, start = spots.a, spots.codes, given(spots.start, "a baseline")
        both = None if codes is None else torch.cat([codes, codes])
        directions = spots.directions.expand(-1, a.shape[0], -1)
        twice = torch.cat([directions, torch.zeros_like(directions)], dim=1)
        return pull_back(spots.net, torch.cat([a, start]), both, twice, Rescale())[:, : a.shape[0]]

    def by_captum(
        self, module: nn.Module, score: Callable, x: torch.Tensor, start: torch.Tensor, options: Options
    ) -> torch.Tensor:
        """Captum's, for modules whose every non-linear function its hooks see."""
        from captum import attr

        check_hookable(module, x[:1])
        # captum wants a module, and calls it on spots and baselines together
        wrapped = _Score(score)
        wrapped.module = module
        with warnings.catch_warnings():
            # captum announces its hooks, and that gradients had to be required
            warnings.filterwarnings("ignore", category=UserWarning, module="captum")
            return attr.DeepLift(wrapped).attribute(x.clone().requires_grad_(True), start).detach()


class _Score(nn.Module):
    def __init__(self, score: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x)


register(
    DeepLift(
        "deeplift",
        "How is the score difference from the baseline divided among the genes, unit by unit (rescale rule)?",
        "Shrikumar, Greenside & Kundaje 2017, ICML, arXiv 1704.02685",
        FORMS["difference"],
        needs_baseline=True,
        captum="DeepLift",
        runs_in_captum=True,
    )
)
