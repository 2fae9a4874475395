"""Layer-wise relevance propagation with the epsilon rule."""

from __future__ import annotations

import torch

from st_concepts.attribution._backward import ELSEWHERE, LINEAR, ODD_AT_ZERO, RELU, BackwardRule, pull_back
from st_concepts.attribution._methods.base import Method, Pass, register
from st_concepts.attribution._methods.forms import FORMS


def stabilised_ratio(numerator: torch.Tensor, z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """``numerator / (z + epsilon sign(z))`` with ``sign(0) = 1``."""
    return numerator / (z + torch.where(z >= 0, epsilon, -epsilon).to(z.dtype))


def epsilon_rule(epsilon: float) -> BackwardRule:
    """The epsilon rule as a modified gradient (Ancona et al. 2018, proposition 1).

    Sums of branches need no rule: relevance = activation x gradient divides among them in proportion.
    """

    def after_linear(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g * stabilised_ratio(y, y, epsilon)

    def through(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g * torch.where(z == 0, torch.zeros_like(z), y / torch.where(z == 0, torch.ones_like(z), z))

    return BackwardRule(through, RELU | ODD_AT_ZERO, after=(LINEAR, after_linear), refuse=ELSEWHERE, name="epsilon_lrp")


class EpsilonLRP(Method):
    """Relevance passed back in proportion to contributions."""

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """The gradient under the rule; the output of a linear first layer is stabilised too."""
        epsilon = spots.options.epsilon
        out = pull_back(spots.net, spots.a, spots.codes, spots.directions, epsilon_rule(epsilon))
        return out * stabilised_ratio(spots.a, spots.a, epsilon) if spots.factorised else out


register(
    EpsilonLRP(
        "epsilon_lrp",
        "How does the score, passed back layer by layer in proportion to contributions, arrive at the genes?",
        "Bach et al. 2015, PLoS ONE 10:e0130140; Ancona et al. 2018, ICLR, arXiv 1711.06104",
        FORMS["input"],
        captum="LRP",
        options=("epsilon",),
    )
)
